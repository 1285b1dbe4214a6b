"""
Spraying: many sockets on one side, many guessed ports on the other.

If a NAT gives each destination another port at random, nobody can say which. But if `SOCKETS` sockets behind
it each send to one port of the other side, so many of its ports are open for that port, and a guess hits one
with a probability of 1 in 252. After n guesses, none has hit with a probability of exp(-n / 252).

The side that aims, whose port is known, has two sockets, and probes random ports of the other side from both
(`probes`). The side that opens sends from all of its sockets to the first one and then to the second one,
with a low TTL, and after the probes to the second one again, with the usual TTL:

- A router of the side that aims may take unsolicited packets as its own, and remember them as flows, so that
  later probes to these ports leave from another port. So the first packets had better not arrive. If that
  router is near, those to the first socket do. Those to the second one have the IP option of
  `punch.ice.punching.simultaneous_open`, by which it does not take them.
- A NAT of the side that opens may drop packets with that option, or let none with a low TTL through if it is
  far away, such as a carrier's. So packets go to the second socket again when all probes have left. They are
  let in if their port was guessed, unless a router of that side has taken the probe as a flow of its own.

Many NATs of carriers have a block of ports for each subscriber (RFC 6888, RFC 7422), and only within it their
order is random. The side that opens says between which ports it was seen (`port_range`). The side that aims
guesses there first if the other side has answered from a port near that range (`range_near`), and then in
ranges around it that are twice as wide each time (`Guesses`). Other programs use ports of a block as well, so
fewer sockets are opened then: one for every 8 ports of the block, so that one guess in 8 hits.
"""

from __future__ import annotations

from collections.abc import Collection
from typing import Final

from punch.identity import RandomBytes

SOCKETS: Final = 256
"""How many sockets the side that opens has."""
MIN_SOCKETS: Final = 64
"""The least number of sockets with which spraying is worth its packets."""
OPENED: Final = 3
"""How many packets it sends from each of them at most."""
TARGETS: Final = 2
"""How many sockets the side that aims has."""
PROBES: Final = 900
"""How many ports it guesses for each of them."""
MAX_PACKETS: Final = PROBES * TARGETS
"""How many packets one side sends in one attempt at most."""
RATE: Final = 150.0
"""How many packets a second each side sends."""
BURST: Final = 8
"""How many packets may leave at once after a pause of the process."""
LOW_TTL: Final = 5
"""The TTL of the first packets: they have to leave through the sender's NATs, but must not arrive."""
ROUTERS: Final = 1, 2
"""
How many routers may take the packets to the second socket, in each attempt in turn: only a home's router, or
a carrier's as well.
"""
WAITS: Final = (30.0, 300.0, 1800.0, 21600.0)
"""
Seconds from the beginning of one attempt to that of the next: after the first attempt, after the second, and
so on. The last number is used only after as many attempts in a row without a path (`counted`).
"""
LOWEST, HIGHEST = 1024, 65535
"""The ports that are guessed."""
PORTS_OF_SOCKET: Final = 8
"""
How many ports of a subscriber's block there are for each socket that is opened. `MIN_SOCKETS` is the least
number of sockets.
"""
MIN_OBSERVED: Final = 3
"""The least number of ports that must have been seen before their range is used."""
NEAR: Final = 4096
"""How many ports such a range may be away from each port of the side that it belongs to."""
SHARE: Final = 5
"""
How many open ports of a range are hit on average before ports outside of it are guessed, too. The probability
that none is hit is exp(-5), less than one in a hundred.
"""

PortRange = tuple[int, int]
"""The lowest and the highest of some ports."""


def probes(opened: int) -> list[int]:
    """
    Return from which of its sockets, by number, the side that aims sends each of its probes.

    Those from the second socket begin when the other side has opened for it. Until then they would not be let
    in, and a router that takes them as flows would give these ports to no socket.

    :param opened: how many sockets the other side has, each of which sends to both.
    """
    at_first = min(opened * TARGETS, PROBES)
    return [0] * at_first + [1] * PROBES + [0] * (PROBES - at_first)


def port_range(ports: Collection[int]) -> PortRange | None:
    """Return the range of the external ports that were seen; None if these are too few."""
    return (min(ports), max(ports)) if len(ports) >= MIN_OBSERVED else None


def range_near(said: PortRange | None, proven: Collection[int]) -> PortRange | None:
    """
    Return the range that the other side has said; None if it is not near any port at which it has proved to
    receive, as the block of another subscriber of the same carrier may be.
    """
    if said is None or not any(said[0] - NEAR <= port <= said[1] + NEAR for port in proven):
        return None
    return said


def sockets_for(descriptors: int, held: int = 0, near: PortRange | None = None) -> int:
    """
    Return how many sockets to open if so many descriptors are free; 0 if there are too few.

    :param held: how many sockets other attempts hold. All together have half of what would be free without
        them.
    :param near: the range of the ports that our NAT was seen to choose. Its block is taken for the least
        power of two that contains so many ports. Each socket takes two of them.
    """
    wanted = SOCKETS
    if near is not None:
        block = 1 << (near[1] - near[0]).bit_length()
        wanted = max(MIN_SOCKETS, min(SOCKETS, block // PORTS_OF_SOCKET))
    sockets = min(wanted, (descriptors + held) // 2 - held)
    return sockets if sockets >= MIN_SOCKETS else 0


def counted(sprays: int, failures: int) -> int:
    """
    Return how many attempts count for `wait_after`, so that a NAT that ends flows after some minutes is not
    sprayed at less and less often.

    :param sprays: how many there were.
    :param failures: how many found no path, since the last one that did.
    """
    return min(sprays, max(failures, len(WAITS) - 1))


def wait_after(sprays: int) -> float:
    """Return the least seconds from the beginning of an attempt to that of the next, after so many."""
    return WAITS[min(sprays, len(WAITS)) - 1] if sprays else 0.0


class Guesses:
    """
    Random ports, each once: at first within a range, then in wider and wider ones.

    :param near: the range in which the other side was seen; None if it is not known.
    :param opened: how many ports the other side has opened.
    """

    def __init__(self, random: RandomBytes, near: PortRange | None = None, opened: int = SOCKETS) -> None:
        self._random = random
        self._opened = opened
        self._guessed: set[int] = set()
        self._low, self._high = LOWEST, HIGHEST
        if near is not None and near[1] >= LOWEST:
            self._low, self._high = max(near[0], LOWEST), near[1]
        self._left = self._share

    def take(self) -> int:
        """
        Return another port.

        :raise RuntimeError: there is none.
        """
        if len(self._guessed) > HIGHEST - LOWEST:
            raise RuntimeError("all ports have been guessed")
        while not self._left:
            width = self._high - self._low + 1
            self._low = max(self._low - (width + 1) // 2, LOWEST)
            self._high = min(self._high + (width + 1) // 2, HIGHEST)
            self._left = self._share
        self._left -= 1
        while True:
            # Some ports of a range that is no power of two are likelier, by less than one in 10,000
            port = self._low + int.from_bytes(self._random(4), "big") % (self._high - self._low + 1)
            if port not in self._guessed:
                self._guessed.add(port)
                return port

    @property
    def _share(self) -> int:
        """How many ports to guess in the current range before it becomes wider."""
        width = self._high - self._low + 1
        # Ranges contain those before
        left = width - len(self._guessed)
        if width == HIGHEST - LOWEST + 1:
            return left
        # Half of what is left at most, so that a port that was not guessed yet is found soon
        return min(-(-SHARE * width // self._opened), (left + 1) // 2)


class Pace:
    """
    When the next packet may leave, at `RATE` packets a second.

    It is no token bucket, which would let the first `BURST` packets leave at once: packets are spaced evenly,
    and only after a pause of the process some follow each other without a wait.
    """

    def __init__(self, now: float) -> None:
        self._next = now

    def wait(self, now: float) -> float:
        """A packet leaves now: return the seconds until the next one may."""
        self._next = max(self._next, now - BURST / RATE) + 1 / RATE
        return max(0.0, self._next - now)
