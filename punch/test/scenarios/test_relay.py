"""Links through the relay: complete nodes on the simulated internet."""

from __future__ import annotations

from punch.node.policies import RelayPolicy
from punch.test.internet import Packet, Seen
from punch.test.scenarios.relayed import EASY, RelayTestCase
from punch.test.scenarios.test_nats import path_now
from punch.test.system import SERVICE, connect


class ConnectTests(RelayTestCase):
    """Networks that let little through."""

    def test_one_open_tcp_port(self) -> None:
        """If both networks allow only TCP to port 443, peers connect within two seconds, and chat."""
        self.start(control="tcp:443")

        def not_web(packet: Packet) -> bool:
            return packet.protocol != "tcp" or 443 not in (packet.source[1], packet.destination[1])

        inside = ("192.168.1.", "192.168.2.", "203.0.113.")
        self.net.drop = lambda packet: not_web(packet) and packet.source[0].startswith(inside)
        alice, bob = self.pair()
        start = self.net.now
        here, there = connect(alice, bob)
        self.assertLess(self.net.now - start, 2.0)
        self.assertEqual((here.path.kind, there.path.kind), ("relay", "relay"))
        self.assertEqual({here.path.local.host, here.path.remote.host}, {SERVICE})
        self.chat(alice, bob)

    def test_time_to_connect(self) -> None:
        """A relayed link takes at most two round trips longer than a direct one."""
        self.start()
        alice, bob = self.pair()
        start = self.net.now
        connect(alice, bob)
        self.assertLess(self.net.now - start, 0.6)
        self.chat(alice, bob)

    def test_only_tls_gets_through(self) -> None:
        """Behind a firewall that allows only TLS, TURN over TLS is used."""
        self.start()
        trace: list[Seen] = []

        def plain(packet: Packet) -> bool:
            if packet.protocol == "udp":
                return True
            data = bytes(getattr(packet.payload, "data", b""))
            return bool(data) and data[0] in (0x00, 0x01) and data[4:8] == b"\x21\x12\xa4\x42"

        self.net.drop = plain
        self.net.trace = trace
        alice, bob = self.pair()
        here, _ = connect(alice, bob)
        self.assertEqual(here.path.kind, "relay")
        self.chat(alice, bob)


class PolicyTests(RelayTestCase):
    """`--relay never` and `--relay only`."""

    def test_never(self) -> None:
        """With `never` on either side, no packet takes a relay, and the error explains it."""
        self.start()
        never, auto = RelayPolicy.NEVER, RelayPolicy.AUTO
        for number, (one, other) in enumerate([(never, auto), (auto, never), (never, never)]):
            alice = self.peer(self.home(f"alice-{number}"), one)
            bob = self.peer(self.home(f"bob-{number}"), other)
            text = self.refuse(alice, bob)
            self.assertIn("There is no path to", text)
            if one is never:
                self.assertIn("--relay never", text)

    def test_never_where_a_direct_path_exists(self) -> None:
        """With `never`, a direct path is used and nothing is allocated."""
        self.start()
        alice = self.peer(self.home("alice", EASY), RelayPolicy.NEVER)
        bob = self.peer(self.home("bob", EASY), RelayPolicy.NEVER)
        here, _ = connect(alice, bob)
        self.assertNotEqual(here.path.kind, "relay")
        self.assertEqual(self.ports(), self.idle)

    def test_only(self) -> None:
        """With `only`, direct paths are not used, and neither side learns the other's addresses."""
        self.start()
        alice = self.peer(self.home("alice", EASY), RelayPolicy.ONLY)
        bob = self.peer(self.home("bob", EASY))
        trace: list[Seen] = []
        self.net.trace = trace
        here, there = connect(alice, bob)
        self.net.advance(10.0)
        self.assertEqual((path_now(alice, bob), path_now(bob, alice)), ("relay", "relay"))
        self.assertEqual((here.path.local.host, there.path.remote.host), (SERVICE, SERVICE))
        self.chat(alice, bob)
        between = {
            (seen.source[0], seen.destination[0])
            for seen in trace
            if SERVICE not in (seen.source[0], seen.destination[0])
        }
        self.assertEqual([pair for pair in between if "203.0.113.1" in pair], [])

    def test_only_without_a_relay(self) -> None:
        """Without a relay, `only` fails, and the error explains it."""
        self.start(relay=False)
        alice = self.peer(self.home("alice", EASY), RelayPolicy.ONLY)
        self.assertIn("no relay", self.refuse(alice, self.peer(self.home("bob", EASY))))
