"""The options of the relay."""

from __future__ import annotations

from ipaddress import ip_network
from pathlib import Path
from typing import Any

from twisted.trial.unittest import SynchronousTestCase

from punch.cli.rendezvous.options import OptionError, RelayOptions
from punch.rendezvous.config import RendezvousLimits
from punch.wire.turn import TurnTransport, TurnURI


class OptionTests(SynchronousTestCase):
    """The command line."""

    def read(self, **changes: Any) -> RelayOptions:
        options: dict[str, Any] = {
            "relay": "on",
            "relay-address": [],
            "relay-allow": [],
            "relay-ports": "49152-65535",
            "turn": [],
            "turn-secret-file": None,
        }
        return RelayOptions.read(
            {**options, **{name.replace("_", "-"): each for name, each in changes.items()}}
        )

    def secret(self, content: bytes) -> str:
        path = Path(self.mktemp())
        path.write_bytes(content)
        return str(path)

    def test_defaults(self) -> None:
        self.assertEqual(self.read(), RelayOptions())

    def test_all(self) -> None:
        options = self.read(
            relay="off",
            relay_address=["192.0.2.1", "[2001:db8::1]"],
            relay_allow=["10.0.0.0/8", "fd00::/8"],
            relay_ports="5000-5001",
            turn=["turn:turn.example.org", "turns:turn.example.org:443"],
            turn_secret_file=self.secret(b"shared\n"),
        )
        self.assertEqual(
            options,
            RelayOptions(
                False,
                ("192.0.2.1", "2001:db8::1"),
                (ip_network("10.0.0.0/8"), ip_network("fd00::/8")),
                (5000, 5001),
                (
                    TurnURI("turn.example.org", 3478, TurnTransport.UDP),
                    TurnURI("turn.example.org", 443, TurnTransport.TLS),
                ),
                b"shared",
            ),
        )

    def test_mistakes(self) -> None:
        """Each is a sentence that names the option."""
        good = self.secret(b"shared")
        url = "turn:192.0.2.7"
        cases: list[tuple[str, dict[str, Any]]] = [
            ("--relay ", {"relay": "maybe"}),
            ("--relay-address", {"relay_address": ["nowhere"]}),
            ("--relay-address", {"relay_address": ["0.0.0.0"]}),
            ("--relay-address", {"relay_address": ["192.0.2.1", "192.0.2.2"]}),
            ("--relay-allow", {"relay_allow": ["10.0.0.1/8"]}),
            ("--relay-allow", {"relay_allow": ["everything"]}),
            ("--relay-ports", {"relay_ports": "5000"}),
            ("--relay-ports", {"relay_ports": "5001-5000"}),
            ("--relay-ports", {"relay_ports": "0-70000"}),
            ("--turn", {"turn": ["http://example.org"], "turn_secret_file": good}),
            ("--turn-secret-file", {"turn": [url]}),
            ("--turn-secret-file", {"turn": [url], "turn_secret_file": "/nowhere/at/all"}),
            ("empty", {"turn": [url], "turn_secret_file": self.secret(b" \n")}),
            ("one line", {"turn": [url], "turn_secret_file": self.secret(b"shared\nrealm=x\n")}),
            ("too long", {"turn": [url], "turn_secret_file": self.secret(b"x" * 5000)}),
            ("--turn", {"turn": [url] * 6, "turn_secret_file": good}),
        ]
        for word, changes in cases:
            problem = self.assertRaises(OptionError, self.read, **changes)
            self.assertIn(word, str(problem))
            self.assertTrue(str(problem).endswith("."), problem)

    def test_descriptors(self) -> None:
        """Connections and relayed addresses share what the system allows."""
        limits = RendezvousLimits(connections=1000, relay_allocations=500)
        self.assertEqual(limits.within_descriptors(lambda wanted: wanted, relay=True), limits)
        less = limits.within_descriptors(lambda wanted: 1024, relay=True)
        self.assertEqual((less.connections, less.relay_allocations), (512, 256))
        told = less.reduced_from(limits)
        assert told is not None
        self.assertIn("512 connections and 256 relayed addresses at most, not 1000 and 500", told)
        self.assertIsNone(limits.reduced_from(limits))
        alone = limits.within_descriptors(lambda wanted: 1024, relay=False)
        self.assertEqual(alone.connections, 768)
        told = alone.reduced_from(limits)
        assert told is not None
        self.assertIn("768 connections at most, not 1000. Raise", told)
        self.assertNotIn("relayed", told)
        self.assertEqual(limits.within_descriptors(lambda wanted: 40, relay=False).connections, 30)
        none = limits.within_descriptors(lambda wanted: 1, relay=True)
        self.assertEqual((none.connections, none.relay_allocations), (2, 1))
