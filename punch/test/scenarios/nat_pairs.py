"""
Which pairs of NATs must let two peers connect directly: written by hand from RFC 4787 and RFC 8445. All
others connect through a relay, since every peer here reaches the rendezvous.

The names are mapping/filtering (RFC 4787 §4.1 and §5). Both peers have host and server-reflexive candidates
and learn peer-reflexive ones from checks; nobody predicts ports. Why each mark stands where it does:

- Both mappings endpoint-independent: each side's reflexive candidate is the address that its checks come
  from, so the first check of one side, even if it is dropped, opens that side's filter for the other (§5):
  always direct.
- One endpoint-independent (E), the other not (N): N's checks come from an address that nobody has announced.
  They pass E's filter if that looks at nothing (EIF), or only at the IP address, to which E has sent as well
  (ADF); E then answers to where they came from: direct. With APDF at E they are dropped. E's checks go to N's
  mapping for the reflector; even where that lets them in (EIF), what N sends back comes from another mapping:
  not direct.
- Both not: somebody's first check must come in at the mapping for the reflector, so one side, P, must filter
  nothing (EIF). P's own check back comes from a new mapping, which the other side, Q, lets in unless it looks
  at ports (APDF). Q's answer comes from where P's check went only if Q's mapping does not look at ports
  (ADM); if it does (APDM), it comes from a new address once more, and then P, to hit that, must not use a new
  one either (ADM). So: P EIF, Q EIF or ADF, and not both APDM.
"""

from __future__ import annotations

from typing import Final

from punch.test.internet import NAT, Filtering, Mapping, Ports

KINDS: Final = (
    "EIM/EIF", "EIM/ADF", "EIM/APDF",
    "ADM/EIF", "ADM/ADF", "ADM/APDF",
    "APDM/EIF", "APDM/ADF", "APDM/APDF",
)  # fmt: skip

# Rows: the caller's NAT; columns: the callee's, in the same order. y: must be direct; -: can't be.
TABLE: Final = """
EIM/EIF    y y y   y y y   y y y
EIM/ADF    y y y   y y y   y y y
EIM/APDF   y y y   - - -   - - -
ADM/EIF    y y -   y y -   y y -
ADM/ADF    y y -   y - -   y - -
ADM/APDF   y y -   - - -   - - -
APDM/EIF   y y -   y y -   - - -
APDM/ADF   y y -   y - -   - - -
APDM/APDF  y y -   - - -   - - -
"""

HAIRPINS: Final = ("external", "internal", "none")

# Rows: the NAT that both peers share, each behind a home NAT that filters nothing; columns: its hairpinning.
SHARED: Final = """
EIM/EIF    y y -
EIM/ADF    y y -
EIM/APDF   y y -
ADM/EIF    y y -
ADM/ADF    - - -
ADM/APDF   - - -
APDM/EIF   - y -
APDM/ADF   - - -
APDM/APDF  - - -
"""
"""
Two homes behind one NAT, a carrier's, which know each other only by its addresses (RFC 4787 §6).

Hairpinning with the external source is the same as two such NATs: the diagonal of the table above. With the
internal source (which REQ-9 forbids), whoever's check is let in, is seen at an address inside, where it can
be reached without the NAT: direct if one check at a mapping for the reflector is let in. That is so without
filtering, and with endpoint-independent mappings, to which the other side has sent as well.
"""

PLACES: Final = {
    "same NAT": "host",
    "same NAT that does not hairpin": "host",
    "two homes behind a carrier that hairpins": "direct",
    "two homes behind a carrier that does not hairpin": "relay",
    "double NAT to single NAT": "direct",
    "open internet to every NAT": "direct",
    "open internet to open internet": "host",
    "public addresses behind firewalls": "host",
    "UDP blocked to EIM/EIF": "direct",
    "UDP blocked to UDP blocked": "direct",
}
"""
Other places. "host": by host candidates. "direct": by others. "relay": by no direct path.

Without hairpinning (RFC 4787 §6) two homes behind one carrier-grade NAT have no address in common that either
can send to; double NAT behaves as one whose mapping and filtering are the strictest of both; stateful
firewalls filter as APDF with public addresses as host candidates; where UDP is blocked, TCP gets through such
NATs by simultaneous open (Ford 2005, section 4).
"""


def must_connect() -> dict[tuple[str, str], bool]:
    """The table: caller's kind and callee's kind, and whether they must be direct."""
    rows = [line.split() for line in TABLE.strip().splitlines()]
    return {(row[0], KINDS[column]): mark == "y" for row in rows for column, mark in enumerate(row[1:])}


def must_connect_later(one: str, other: str, ports: Ports) -> bool:
    """
    Whether two kinds must be direct after some seconds, by a technique of docs/nat.md.

    Ports that are preserved or given in sequence are predicted. With random ports, the relay is right if they
    are on both sides; if the other mapping is endpoint-independent, spraying finds one. One address of the
    service can't tell address-dependent mappings from independent ones. So these are sprayed at when
    simultaneous opens have failed, and the other side's turn may come first: that can take 50 s.
    """
    if ports is not Ports.RANDOM:
        return True
    mappings = {one.partition("/")[0], other.partition("/")[0]}
    return mappings == {"EIM", "APDM"}


def must_connect_behind_one() -> dict[tuple[str, str], bool]:
    """The table of shared NATs: the kind and how it hairpins, and whether two homes must be direct."""
    rows = [line.split() for line in SHARED.strip().splitlines()]
    return {(row[0], HAIRPINS[column]): mark == "y" for row in rows for column, mark in enumerate(row[1:])}


def nat(kind: str, public: str) -> NAT:
    """
    A NAT of a kind.

    Its ports are random: with preserved or sequential ones a new mapping might be guessed right by accident.
    """
    mapping, filtering = kind.split("/")
    return NAT(public=public, mapping=Mapping[mapping], filtering=Filtering[filtering], ports=Ports.RANDOM)
