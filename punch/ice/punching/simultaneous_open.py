"""
Simultaneous open: two NATs whose ports are known, of which one or both take unsolicited packets as their own.

A router that accepts packets that nobody asked for, such as many with Linux, remembers them as flows to
itself. If the other side's first packet comes before its own host has sent one there, that flow has the port,
and the host's packets leave from another port, which the other side does not let in. So each side's first
packet has to be on its way before the other side's first one arrives:

- It has a low TTL, so that it leaves through its own NATs and does not arrive. All that follows is let in, in
  whatever order. The two sides say over the link when that packet has left, so there is no race.
- Where the other router is too near for that, one side after the other is the first (`First`). If only one
  of the routers takes unsolicited packets, its side has to be first.
- If both do, and are near, the packet has an IP option in some attempts by which not even the other router
  takes it, though it is for that router. Packets with options may be dropped by one's own router, so they are
  not tried first.
- Where packets take some time, both packets leave at the same moment and cross: the side that aims waits for
  half the round-trip time after it has said so.

Each attempt is made from new ports, since those of the attempt before may be taken by such flows.
"""

from __future__ import annotations

from typing import Final

from punch.wire.peers.link_frames import First

LOW_TTLS: Final = (5, 5, 5, 8, 8)
"""The TTL of the first packet, in each turn: home and carrier NATs are within so many routers."""
ROUTERS: Final = (None, None, 1, 1, 2)
"""
How many routers may take it, to pass it on or because it is for them, in each turn: only a home's router, or
a carrier's as well. None: any number.
"""
FAR: Final = 0.02
"""The least round-trip time, in seconds, with which two packets can be on their way at the same time."""
ORDERS_FAR: Final = (First.BOTH, First.BOTH, First.OPENS, First.AIMS, First.OPENS)
ORDERS_NEAR: Final = (First.OPENS, First.AIMS, First.OPENS, First.AIMS, First.OPENS)
"""Which side is first, in each turn."""
TURNS: Final = len(ROUTERS)
CHECK_GAPS: Final = (0.05, 0.1, 0.2, 0.3)
"""Seconds after each of the packets with the usual TTL."""
MAX_PACKETS: Final = 1 + len(CHECK_GAPS)
"""How many packets each side sends in one attempt."""
WAIT: Final = 0.3
"""Packets have this many seconds to arrive, or three round-trip times if that is longer."""
SPACE: Final = 0.1
"""The least seconds between the first packet and the next, if both sides send at the same time."""


def order_of(turn: int, rtt: float) -> First:
    """
    Return which side sends first.

    :param turn: how many attempts there were before, modulo `TURNS`.
    :param rtt: the round-trip time of the link, in seconds.
    """
    return (ORDERS_FAR if rtt >= FAR else ORDERS_NEAR)[turn]
