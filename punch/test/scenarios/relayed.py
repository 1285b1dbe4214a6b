"""Peers that only the relay of the rendezvous brings together."""

from __future__ import annotations

from punch.node.events import CallFailed, Connected
from punch.node.policies import RelayPolicy
from punch.rendezvous.config import RendezvousLimits
from punch.test.internet import Host, Internet, InternetTestCase, LinkSpec
from punch.test.scenarios.nat_pairs import nat
from punch.test.system import SERVICE, Peer, Rendezvous, introduce
from punch.ui.text.causes import event_sentence

HARD = "APDM/APDF"
EASY = "EIM/APDF"


class RelayTestCase(InternetTestCase):
    """Two homes, whose NATs are of some kind, and a rendezvous."""

    link = LinkSpec(delay=0.02)

    def setUp(self) -> None:
        self.make_world()

    def make_world(self) -> None:
        """"""
        self.net: Internet = self.internet()
        self.homes = 0

    def start(
        self, limits: RendezvousLimits | None = None, *, control: str = "tcp:7001", relay: bool = True
    ) -> None:
        """Start the rendezvous."""
        host = self.net.host("rendezvous", SERVICE)
        self.rendezvous = Rendezvous(self.net, host, limits, control=control, relay=relay)
        self.idle = self.ports()

    def ports(self) -> int:
        """What the rendezvous has open: one more for each allocation."""
        return len(self.rendezvous.host.reactor.open_ports)

    def home(self, name: str, kind: str = HARD, *, block_udp: bool = False) -> Host:
        """A host alone behind a NAT."""
        self.homes += 1
        router = nat(kind, f"203.0.113.{self.homes}")
        router.block_udp = block_udp
        return self.net.lan(name, f"192.168.{self.homes}.0/24", nat=router, link=self.link).host(name)

    def peer(self, host: Host, relay: RelayPolicy = RelayPolicy.AUTO) -> Peer:
        """A registered peer."""
        return Peer(self.net, host, self.rendezvous.address, relay=relay).register()

    def pair(self, one: str = HARD, other: str = HARD, block_udp: bool = False) -> tuple[Peer, Peer]:
        """Two registered peers."""
        return (
            self.peer(self.home("alice", one, block_udp=block_udp)),
            self.peer(self.home("bob", other, block_udp=block_udp)),
        )

    def chat(self, alice: Peer, bob: Peer, count: int = 20) -> None:
        """Messages cross, each way, in order."""
        wanted = len(alice.messages) + count, len(bob.messages) + count
        for number in range(count):
            alice.chat.send(bob.id, f"a{number}")
            bob.chat.send(alice.id, f"b{number}")
        self.net.run_until(lambda: (len(alice.messages), len(bob.messages)) == wanted, 20.0, "the messages")
        self.assertEqual(bob.texts()[-count:], [f"a{number}" for number in range(count)])
        self.assertEqual(alice.texts()[-count:], [f"b{number}" for number in range(count)])

    def refuse(self, caller: Peer, callee: Peer) -> str:
        """The call ends on both sides; returns the caller's sentence."""
        introduce(caller, callee)
        caller.call(callee.id)
        failed = caller.wait_for(CallFailed, 90.0)
        self.assertEqual(failed.reason, "unreachable")
        self.assertEqual(callee.wait_for(CallFailed, 90.0).reason, "unreachable")
        self.assertEqual(caller.of(Connected) + callee.of(Connected), [])
        return event_sentence(failed)
