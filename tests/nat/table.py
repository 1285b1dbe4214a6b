"""
Which pairs must be on a direct path 5 s or 25 s after they connected: written by hand from RFC 4787, RFC 8445
and the techniques of docs/nat.md.

The profiles are those of `profiles.py`. `d`: must be direct. `l`: must be direct later. `r`: the relay is
expected. `?`: a race decides.

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
  router takes: direct later, if it is not before. Against S, half of the packets of spraying are in vain: a
  race. Against a peer that filters nothing (cone, open), the other port is a peer-reflexive candidate:
  direct.
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
  or an attempt from other ports, gets through. To S, and to those with IPv6 alone, the relay.
- tcp443: nobody listens at port 443 behind a NAT: relay.
"""

from __future__ import annotations

from typing import Final

DIRECT, LATE, RELAY, RACE = "d", "l", "r", "?"

# Each pair once: the row is the one that comes first. Columns are in the order of the rows.
#
#                 md mr ma  rd rr ra  fd fr fa  sh co ch cg  op du v6  nu 44  do ov la
TABLE: Final = """
masq-drop         d  d  l   l  l  l   l  l  l   d  d  d  d   d  l  r   d  r   d  d  d
masq-reject          d  l   l  l  l   l  l  l   d  d  d  d   d  l  r   d  r   d  d  d
masq-accept             l   ?  ?  ?   ?  ?  ?   l  d  l  l   d  ?  r   l  r   l  l  l
random-drop                 r  r  r   r  r  r   l  d  l  l   d  r  r   r  r   l  l  l
random-reject                  r  r   r  r  r   l  d  l  l   d  r  r   r  r   l  l  l
random-accept                     r   r  r  r   l  d  l  l   d  r  r   r  r   l  l  l
fully-drop                            r  r  r   l  d  l  l   d  r  r   r  r   l  l  l
fully-reject                             r  r   l  d  l  l   d  r  r   r  r   l  l  l
fully-accept                                r   l  d  l  l   d  r  r   r  r   l  l  l
short                                           d  d  d  d   d  l  r   d  r   d  d  d
cone                                               d  d  d   d  d  r   d  r   d  d  d
cgnat-hairpin                                         d  d   d  l  r   d  r   d  d  d
cgnat                                                    r   d  l  r   d  r   d  d  d
open                                                         d  d  d   d  r   d  d  d
dual                                                            d  d   r  r   l  l  l
ipv6                                                               d   r  r   r  r  r
no-udp                                                                 d  r   d  d  d
tcp443                                                                    r   r  r  r
docker                                                                        d  d  d
overlap                                                                          d  d
lan                                                                                 d
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
