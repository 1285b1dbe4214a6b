"""NAT profiles in words."""

from __future__ import annotations

from twisted.trial.unittest import SynchronousTestCase

from punch.ice.punching.techniques import NatClass, Technique, techniques_with_all
from punch.ui.text.nat import cost_in_words, nat_in_words, requests_in_words, techniques_in_words
from punch.wire.peers.nat_profile import Mapping, NatProfile, PortAssignment

DEPENDENT = frozenset({Mapping.ADDRESS_AND_PORT_DEPENDENT})
MAYBE = frozenset({Mapping.ENDPOINT_INDEPENDENT, Mapping.ADDRESS_DEPENDENT})


class NatTests(SynchronousTestCase):
    """`nat_in_words`."""

    def test_lines(self) -> None:
        """One line for each kind of NAT."""
        for profile, line in (
            (NatProfile("203.0.113.7"), "No NAT: seen as 203.0.113.7"),
            (
                NatProfile("203.0.113.7", DEPENDENT, PortAssignment.SEQUENTIAL, 1, 4, 5, 12),
                "NAT at 203.0.113.7: another port for each destination; "
                "ports sequential, each 1 above the one before (4 of 5 observed); seen 12 s ago",
            ),
            (
                NatProfile("203.0.113.7", DEPENDENT, PortAssignment.SEQUENTIAL, -2, 5, 5, 180),
                "NAT at 203.0.113.7: another port for each destination; "
                "ports sequential, each 2 below the one before (5 of 5 observed); seen 3 min ago",
            ),
            (
                NatProfile("203.0.113.7", MAYBE, PortAssignment.PRESERVING),
                "NAT at 203.0.113.7: one port for all destinations or another port for each destination "
                "address; ports preserving; seen 0 s ago",
            ),
        ):
            self.assertEqual(nat_in_words(profile), line)

    def test_techniques(self) -> None:
        """What helps with which NATs of the other side."""
        sequential = NatProfile("203.0.113.7", DEPENDENT, PortAssignment.SEQUENTIAL, 1, 4, 5, 12)
        random = NatProfile("203.0.113.7", DEPENDENT, PortAssignment.RANDOM)
        for profile, parts in (
            (
                sequential,
                [
                    "prediction if the other NAT has one port for all destinations, preserved ports or "
                    "sequential ports",
                    "a relay if it has random ports",
                ],
            ),
            (
                random,
                [
                    "spraying if the other NAT has one port for all destinations or preserved ports",
                    "a relay if it has sequential ports or random ports",
                ],
            ),
        ):
            self.assertEqual(techniques_in_words(techniques_with_all(profile)), parts)
        self.assertEqual(
            techniques_in_words(dict.fromkeys(NatClass, Technique.ICE)), ["ICE, whatever the other NAT does"]
        )

    def test_cost(self) -> None:
        """What a link has sent, by each technique that it has used."""
        checks = {"attempts": 0, "packets": 12, "bytes": 1500}
        tried = {"attempts": 2, "packets": 1100, "bytes": 12345}
        techniques = {"ice": checks, "spraying": tried, "tcp": {**tried, "attempts": 1, "packets": 1}}
        self.assertEqual(
            cost_in_words(techniques),
            "connectivity checks: 12 packets, 1,500 bytes; "
            "spraying: 2 attempts, 1,100 packets, 12,345 bytes; "
            "TCP: 1 attempt, 1 packet, 12,345 bytes",
        )
        self.assertEqual(cost_in_words({}), "")
        self.assertEqual(cost_in_words({"new\x1b": checks}), "new\\x1b: 12 packets, 1,500 bytes")

    def test_requests(self) -> None:
        """What routers were sent, by protocol."""
        asked = {
            "nat-pmp": {"packets": 1, "bytes": 30, "requests": 0},
            "upnp": {"packets": 2, "bytes": 300, "requests": 1},
        }
        self.assertEqual(
            requests_in_words(asked),
            "NAT-PMP: 1 packet, 30 bytes; UPnP: 2 packets, 300 bytes, 1 request over TCP",
        )
        self.assertEqual(requests_in_words({}), "")
