"""
Which pairs must be on a direct path 5 s or 25 s after they connected: written by hand from RFC 4787, RFC 8445
and the techniques of docs/nat.md.

The profiles are those of `profiles.py`. `d`: must be direct. `l`: must be direct later. `m`: must be direct
later in most calls. `r`: the relay is expected.

What the profiles are in the words of RFC 4787, and what follows for two peers that have host,
server-reflexive and relayed candidates, learn peer-reflexive ones from checks (RFC 8445 §7.3.1.3), and then
open simultaneously or spray:

- E: masq-drop, masq-reject, short, docker, overlap, lan, cgnat-hairpin, cgnat. Linux masquerading keeps the
  port, so that the mapping is endpoint-independent (§4.1); conntrack lets in what answers a flow: filtering
  depends on address and port (§5). Both sides' reflexive candidates are where their checks come from, so
  the first check of one side opens that side's filter for the other: E to E is direct. The NAT of a carrier
  in front of one's own (cgnat) is the same twice.
- S: random-*, fully-*. Every flow gets a port of its own: mapping and filtering depend on address and port.
  S to E: the checks of S come from a port that E has never sent to, and E's go to a mapping that was made
  for the reflector: spraying finds an open port later. S to S: relay.
- masq-accept: E, but a packet that comes before its own host has sent one is taken for a flow to the router
  itself, and the host's next packet can't have that flow's port and gets another: the pair looks like S to
  E. Simultaneous open lets its host be first, and against itself has first packets that not even the other
  router takes: direct later, if it is not before. Against a peer that filters nothing (cone, open), the other
  port is a peer-reflexive candidate: direct.
- Of the two halves of spraying, the first is in vain if the aiming side's router takes what nobody asked for
  and is so near that packets with a low TTL arrive there (masq-accept): direct later with a probability of
  97 %. The second one is not, since its first packets are discarded by that router.
- cone: endpoint-independent mapping and filtering. Checks of S come in, and the answers go where they came
  from: direct to all that have IPv4 and UDP.
- open: as cone, with both families and no NAT.
- Two homes behind one carrier: their reflexive addresses are both the carrier's. cgnat-hairpin sends what
  comes from inside back in (§6): direct. cgnat does not: relay. In two homes behind different carriers
  nothing is special.
- lan to lan: host candidates. overlap to overlap: the other's host candidate is one's own address and leads
  nowhere, the reflexive ones work: direct.
- ipv6: only peers that have IPv6 can be reached (open, dual, ipv6). A stateful firewall filters by address
  and port, and a host candidate is its own reflexive one: direct. To everybody else the relay translates
  between the families (RFC 8656 §1).
- dual: as ipv6 towards open, dual and ipv6; its IPv4 is S.
- no-udp: plain masquerading for TCP, so E there (RFC 5382 §4): by simultaneous open it is direct to E, and to
  whom anybody reaches. cone is like masq-drop for TCP. masq-accept may answer a SYN by a reset; another SYN,
  or an attempt from other ports, gets through. To S, and to those with IPv6 alone, the relay; but not to
  mapped, whose router maps a TCP port as well.
- tcp443: nobody listens at port 443 behind a NAT: relay.
- mapped: S, but everybody reaches the ports that its router has mapped, of UDP and, for no-udp, of TCP:
  direct to all that have IPv4 and are no tcp443.
- sequential: every flow gets the next port, for UDP: S for the checks, but the ports can be predicted: direct
  later to all but S. For TCP it is E.
"""

from __future__ import annotations

from typing import Final

DIRECT, LATE, MOSTLY, RELAY = "d", "l", "m", "r"

# Each pair once: the row is the one that comes first. Columns are in the order of the rows.
#
#                 md mr ma  rd rr ra  fd fr fa  sh co ch cg  op du v6  nu 44  do ov la  ma se
TABLE: Final = """
masq-drop         d  d  l   l  l  m   l  l  m   d  d  d  d   d  l  r   d  r   d  d  d   d  l
masq-reject          d  l   l  l  m   l  l  m   d  d  d  d   d  l  r   d  r   d  d  d   d  l
masq-accept             l   m  m  m   m  m  m   l  d  l  l   d  m  r   l  r   l  l  l   d  l
random-drop                 r  r  r   r  r  r   l  d  l  l   d  r  r   r  r   l  l  l   d  r
random-reject                  r  r   r  r  r   l  d  l  l   d  r  r   r  r   l  l  l   d  r
random-accept                     r   r  r  r   m  d  m  m   d  r  r   r  r   m  m  m   d  r
fully-drop                            r  r  r   l  d  l  l   d  r  r   r  r   l  l  l   d  r
fully-reject                             r  r   l  d  l  l   d  r  r   r  r   l  l  l   d  r
fully-accept                                r   m  d  m  m   d  r  r   r  r   m  m  m   d  r
short                                           d  d  d  d   d  l  r   d  r   d  d  d   d  l
cone                                               d  d  d   d  d  r   d  r   d  d  d   d  d
cgnat-hairpin                                         d  d   d  l  r   d  r   d  d  d   d  l
cgnat                                                    r   d  l  r   d  r   d  d  d   d  l
open                                                         d  d  d   d  r   d  d  d   d  d
dual                                                            d  d   r  r   l  l  l   d  r
ipv6                                                               d   r  r   r  r  r   r  r
no-udp                                                                 d  r   d  d  d   d  d
tcp443                                                                    r   r  r  r   r  r
docker                                                                        d  d  d   d  l
overlap                                                                          d  d   d  l
lan                                                                                 d   d  l
mapped                                                                                  d  d
sequential                                                                                 l
"""


def expected() -> dict[tuple[str, str], str]:
    """The mark of each pair of profiles, in the order in which the table has them."""
    rows = [line.split() for line in TABLE.strip().splitlines()]
    names = [row[0] for row in rows]
    return {
        (name, other): mark
        for index, (name, *marks) in enumerate(rows)
        for other, mark in zip(names[index:], marks, strict=True)
    }


ICE = "connectivity checks alone"
PREDICT = "ports in sequence on one side or both, no random ones: prediction"
TCP = "no UDP on one side: TCP"
MAPPED = "one side's router maps ports"
OPEN = "a router that takes what nobody asked for, other ports not random: simultaneous open"
SPRAY = "random ports on one side, filtering by port on the other: spraying"
HALF = "random ports, and a router on either side that takes what nobody asked for: half of spraying"
NOTHING = "nothing: the relay is right"
CLASSES: Final = (ICE, MAPPED, OPEN, PREDICT, SPRAY, HALF, TCP, NOTHING)
"""What makes a pair direct."""


def class_of(pair: tuple[str, str]) -> str:
    """Which of `CLASSES` a pair belongs to."""
    mark = expected()[pair]
    if mark == RELAY:
        return NOTHING
    if mark == MOSTLY:
        return HALF
    if "no-udp" in pair:
        return TCP
    if "mapped" in pair:
        return MAPPED
    if mark == DIRECT:
        return ICE
    if "sequential" in pair:
        return PREDICT
    return OPEN if "masq-accept" in pair else SPRAY
