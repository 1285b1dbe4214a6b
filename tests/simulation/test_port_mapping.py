"""A router that maps ports late, and not the same ones after its restarts."""

from __future__ import annotations

from punch.test.scenarios.mapping_router import MappingRouter
from punch.test.scenarios.test_port_mapping import PortMappingCase


class PortMappingTests(PortMappingCase):
    """Two peers, each behind the strictest NAT."""

    def test_late_answers(self) -> None:
        """
        The answer comes when the candidates of the call were complete, and late after each restart of the
        router: the link leaves the relay each time, since checks of new addresses are still allowed.
        """
        lan = self.lan("alice")
        router = MappingRouter(lan, delay=2.0)
        bob = self.peer(self.lan("bob"))
        alice = self.peer(lan, router)
        self.assertEqual(self.call(alice, bob), ("relay", "relay"))
        self.net.advance(5.0)
        self.assertNotIn("relay", (self.kind(alice), self.kind(bob)))
        for first in (60000, 60010):
            self.net.advance(60.0)
            router.restart()
            router.taken = set(range(1024, first))
            alice.chat.send(bob.id, "still here?")
            self.net.advance(10.0)
            self.assertNotIn("relay", (self.kind(alice), self.kind(bob)))
            self.assertEqual(list(router.mapped.values()), [first])
        self.assertEqual(bob.texts(), ["still here?"] * 2)
