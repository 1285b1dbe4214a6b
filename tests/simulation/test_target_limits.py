"""How much is sent to a host that has not answered, if ever new peers name it."""

from __future__ import annotations

from punch.ice.budget import MAX_CONNECTS, PacketKind, Route
from punch.ice.limits import CHECKS, KEPT_FOR_FAMILIAR, KEPT_FOR_HEARD
from punch.test.ice.test_limits import VICTIM, NewPeersCase
from punch.wire.address import Address, TCPAddress


class NewPeersTests(NewPeersCase):
    """Ever new peers name one host."""

    def test_answers(self) -> None:
        """An answer takes off what was sent to that address, so honest peers always get through."""
        for _ in range(3 * CHECKS[1]):
            budget, route = self.peer(), Route(Address(VICTIM, 2000))
            self.assertTrue(budget.allows(route, 100, PacketKind.DIRECT, 0.0))
            budget.answered(route, 0.0)
        # Nor does an answer take off what was sent to other ports
        self.assertEqual(self.checks(VICTIM), CHECKS[1] - KEPT_FOR_FAMILIAR)
        budget.answered(Route(Address(VICTIM, 9)), 0.0)
        self.assertEqual(self.checks(VICTIM), 0)

    def test_kept_parts(self) -> None:
        """
        Whoever names the address of somebody else can't use up what answers to real checks from there need,
        and who can send these can't use up what those need that were reached there before.
        """
        route = Route(Address(VICTIM, 2000))
        kinds = (PacketKind.DIRECT, PacketKind.TRIGGERED, PacketKind.ANSWER)

        def allowed(kind: PacketKind, *, through: Address | None = None, familiar: bool = False) -> int:
            """How many packets of a kind new peers can have sent there, one for each."""
            way = route._replace(relayed=through)
            return sum(self.peer().allows(way, 100, kind, 0.0, familiar=familiar) for _ in range(CHECKS[1]))

        self.assertEqual(allowed(PacketKind.DIRECT), CHECKS[1] - KEPT_FOR_HEARD - KEPT_FOR_FAMILIAR)
        # A relay can say that a check came from there
        self.assertEqual(allowed(PacketKind.TRIGGERED, through=Address("198.51.100.1", 50000)), 0)
        self.assertEqual(allowed(PacketKind.TRIGGERED), KEPT_FOR_HEARD)
        self.assertEqual([allowed(kind) for kind in kinds], [0, 0, 0])
        self.assertEqual(allowed(PacketKind.DIRECT, familiar=True), KEPT_FOR_FAMILIAR)

    def test_connections(self) -> None:
        """SYNs of TCP connections count as checks do."""
        remote = TCPAddress(VICTIM, 2000)
        sent = sum(self.peer().allows_connect(remote, 0.0) for _ in range(MAX_CONNECTS * CHECKS[1]))
        self.assertEqual(sent, CHECKS[1] - KEPT_FOR_HEARD - KEPT_FOR_FAMILIAR)
