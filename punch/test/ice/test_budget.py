"""What one peer may make us send to addresses that have not answered."""

from __future__ import annotations

from copy import deepcopy

from twisted.trial.unittest import SynchronousTestCase

from punch.ice.budget import (
    MAX_ANSWERED,
    MAX_BYTES,
    MAX_CONNECTS,
    MAX_DIRECT,
    MAX_DIRECT_THROUGH_RELAYS,
    MAX_DIRECT_TO_ONE,
    MAX_PACKETS,
    MAX_PEERS,
    MAX_PROOFS,
    MAX_PROOFS_TO_ONE,
    MAX_RELAYED,
    MAX_RELAYED_TO_ONE,
    MAX_TRIGGERED_THROUGH_RELAY,
    MAX_TRIGGERED_TO_ONE,
    MAX_UNLIKELY,
    PROOF_GAP,
    RELAY_WINDOW,
    RESERVED,
    RESERVED_FOR_RELAYED,
    ROUND,
    Budget,
    Budgets,
    PacketKind,
    Route,
)
from punch.ice.candidates import LocalCandidates, RemoteCandidates
from punch.ice.checks import CallBudget
from punch.ice.limits import MAX_OPENINGS, WINDOW
from punch.ice.pairs import CandidatePair
from punch.identity import PeerID
from punch.wire.address import Address, TCPAddress
from punch.wire.peers.candidate import Candidate, CandidateType


def address(number: int) -> Address:
    """Return one of many addresses."""
    return Address(f"203.0.113.{number % 250 + 1}", 1000 + number)


def route(number: int) -> Route:
    """From our own sockets to one of many addresses."""
    return Route(address(number))


class BudgetTests(SynchronousTestCase):
    """The budget of one peer."""

    def spend(
        self, budget: Budget, kind: PacketKind, now: float = 0.0, size: int = 100, *, relayed: bool = False
    ) -> int:
        """Return how many of many packets may leave, each to another address."""
        return sum(budget.allows(route(number), size, kind, now, relayed=relayed) for number in range(50))

    def test_each_kind_has_a_share(self) -> None:
        """Checks of addresses that sent nothing do not use up the part of answers and triggered checks."""
        budget = Budget()
        self.assertEqual(self.spend(budget, PacketKind.UNLIKELY), MAX_UNLIKELY)
        self.assertEqual(self.spend(budget, PacketKind.DIRECT), MAX_DIRECT - MAX_UNLIKELY)
        self.assertEqual(self.spend(budget, PacketKind.RELAYED), MAX_RELAYED)
        self.assertEqual(self.spend(budget, PacketKind.ANSWER), MAX_PACKETS - 1 - MAX_DIRECT - MAX_RELAYED)
        self.assertEqual(self.spend(budget, PacketKind.TRIGGERED), 1)
        for kind in PacketKind:
            self.assertEqual(self.spend(budget, kind, WINDOW - 0.001), 0)
        self.assertEqual(self.spend(budget, PacketKind.TRIGGERED, WINDOW), MAX_PACKETS - RESERVED)
        self.assertEqual(self.spend(budget, PacketKind.TRIGGERED, WINDOW, relayed=True), RESERVED)

    def test_proofs_through_our_relay_have_a_share(self) -> None:
        """Whatever was sent elsewhere, proofs of the peer's address can be requested and given."""
        budget = Budget()
        self.assertEqual(self.spend(budget, PacketKind.ANSWER), MAX_PACKETS - RESERVED)
        through = Route(address(99), Address("198.51.100.1", 50000))
        sent = [
            kind
            for kind in (PacketKind.DIRECT, PacketKind.TRIGGERED, PacketKind.ANSWER)
            for _ in range(9)
            if budget.allows(through, 96, kind, 1.0)
        ]
        self.assertEqual(sent, [PacketKind.TRIGGERED] * 2 + [PacketKind.ANSWER])
        self.assertEqual(self.spend(budget, PacketKind.RELAYED, 1.0), RESERVED - len(sent))

    def test_proofs_leave_relayed_candidates_their_part(self) -> None:
        """
        However many addresses are proved, before or after other packets, relayed candidates have their part.
        """
        relay = Address("198.51.100.1", 50000)

        def prove(budget: Budget) -> None:
            for number in range(90, 99):
                for kind in (PacketKind.TRIGGERED, PacketKind.ANSWER):
                    budget.allows(Route(address(number), relay), 96, kind, 1.0)
                budget.allows(route(number), 96, PacketKind.PROOF, 1.0, relayed=True)

        for proofs_first in (False, True):
            budget = Budget()
            if proofs_first:
                prove(budget)
            for kind in (PacketKind.DIRECT, PacketKind.ANSWER, PacketKind.TRIGGERED):
                self.spend(budget, kind, 1.0)
            prove(budget)
            self.assertEqual(self.spend(budget, PacketKind.RELAYED, 2.0), RESERVED_FOR_RELAYED)

    def test_one_address_that_never_hears_us(self) -> None:
        """
        The checks of one address arrive, and all that is sent there is lost. Other addresses have their part.
        """
        for relayed in (False, True):
            budget = Budget()
            kinds = (PacketKind.TRIGGERED, PacketKind.ANSWER)
            for kind in kinds * 20:
                budget.allows(route(1), 100, kind, 0.0, relayed=relayed)
            later = [
                now
                for now in range(1, 200)
                if budget.allows(route(1), 100, PacketKind.TRIGGERED, now, relayed=relayed)
            ]
            self.assertEqual(later, [1, 2, 17, 47, 107], "further ones are spread over time")
            self.assertFalse(budget.allows(route(1), 100, PacketKind.ANSWER, 200.0, relayed=relayed))
            left = MAX_PACKETS - 2 * MAX_TRIGGERED_TO_ONE - len(later)
            direct = min(MAX_DIRECT, left if relayed else left - RESERVED)
            self.assertEqual(self.spend(budget, PacketKind.DIRECT, 300.0), direct)
            left -= direct
            self.assertEqual(self.spend(budget, PacketKind.RELAYED, 300.0), left)

    def test_what_may_not_use_up_the_direct_checks_of_an_address(self) -> None:
        """
        Neither packets through our relay, nor checks from addresses of ours that probably can't reach it, use
        them up.
        """
        there, relay = address(1), Address("198.51.100.1", 50000)
        through = Route(there, relay)
        budget = Budget()
        for kind in (PacketKind.DIRECT, PacketKind.ANSWER, PacketKind.TRIGGERED):
            sent = sum(budget.allows(through, 96, kind, 0.0) for _ in range(9))
            self.assertEqual(sent, MAX_DIRECT_THROUGH_RELAYS, kind)
        self.assertTrue(budget.allows(Route(there), 96, PacketKind.UNLIKELY, 0.0))
        for kind, most in (
            (PacketKind.DIRECT, MAX_DIRECT_TO_ONE),
            (PacketKind.TRIGGERED, MAX_TRIGGERED_TO_ONE),
        ):
            self.assertEqual(sum(budget.allows(Route(there), 96, kind, 0.0) for _ in range(9)), most, kind)

    def test_heard_through_a_relay(self) -> None:
        """After an authenticated check through our relay, its source gets some of the triggered checks."""
        budget, base, relayed = Budget(), Address("192.168.1.2", 5000), Address("198.51.100.1", 50000)
        ours, theirs = LocalCandidates(), RemoteCandidates()
        host = ours.add_host(base)
        assert host is not None
        pair = CandidatePair(host, Candidate(CandidateType.PRFLX, address(60), 1000, "1"))
        session = CallBudget(budget, ours, theirs)
        self.spend(budget, PacketKind.DIRECT)
        self.assertFalse(session.may_check(pair, bytes(100), 1.0))
        self.assertTrue(session.may_answer(pair.remote.address, relayed, bytes(60), 2.0))
        sent = [session.may_check(pair, bytes(100), 3.0) for _ in range(MAX_PACKETS)]
        self.assertEqual(sum(sent), MAX_TRIGGERED_THROUGH_RELAY)

    def test_both_ways_to_a_relayed_address(self) -> None:
        """At one relayed address, checks from our addresses and through our relay have separate limits."""
        budget = Budget()
        sent = [
            sum(budget.allows(route(1), 100, kind, 0.0) for _ in range(MAX_RELAYED))
            for kind in (PacketKind.RELAYED, PacketKind.RELAYED_TWICE)
        ]
        self.assertEqual(sent, [MAX_RELAYED_TO_ONE, MAX_RELAYED_TO_ONE])
        left = self.spend(budget, PacketKind.RELAYED, 0.0)
        self.assertEqual(left, MAX_RELAYED - 2 * MAX_RELAYED_TO_ONE)
        self.assertEqual(self.spend(budget, PacketKind.RELAYED_TWICE, 0.0), 0)

    def test_proofs_of_where_we_receive(self) -> None:
        """
        When the link works over a relay, a relayed address gets two more checks, with a gap between them.
        """
        budget, local_candidates, remote_candidates = Budget(), LocalCandidates(), RemoteCandidates()
        local, remote = Address("192.168.1.2", 4000), address(1)
        base = local_candidates.add_host(local)
        assert base is not None
        candidate = Candidate(CandidateType.RELAY, remote, 1000, "1")
        remote_candidates.add(candidate)
        call = CallBudget(budget, local_candidates, remote_candidates)
        pair = CandidatePair(base, candidate)

        def sent(now: float) -> int:
            return sum(call.may_check(pair, bytes(100), now) for _ in range(10))

        self.assertEqual(sent(0.0), MAX_RELAYED_TO_ONE)
        call.prove()
        self.assertEqual([sent(now) for now in (1.0, 1.0 + PROOF_GAP - 0.1)], [1, 0])
        self.assertEqual([sent(now) for now in (1.0 + PROOF_GAP, 2.0 + 2 * PROOF_GAP)], [1, 0])
        others = [budget.allows(route(9 + number), 100, PacketKind.PROOF, 20.0) for number in range(10)]
        self.assertEqual(sum(others), MAX_PROOFS - MAX_PROOFS_TO_ONE)
        rest = self.spend(budget, PacketKind.ANSWER, 20.0) + self.spend(budget, PacketKind.TRIGGERED, 20.0)
        self.assertLessEqual(MAX_RELAYED_TO_ONE + MAX_PROOFS + rest, MAX_PACKETS)

    def test_relayed_candidates_have_a_part(self) -> None:
        """Relayed candidates are checked however many checks went to direct ones, in one call or several."""
        budget = Budget()
        for now in range(0, 590, 10):
            for kind in (PacketKind.UNLIKELY, PacketKind.DIRECT, PacketKind.ANSWER, PacketKind.TRIGGERED):
                self.spend(budget, kind, float(now))
        self.assertEqual(self.spend(budget, PacketKind.RELAYED, 595.0), RESERVED)
        self.assertEqual(self.spend(budget, PacketKind.RELAYED, 595.0), 0)

    def test_bytes(self) -> None:
        """Headers count, and those of IPv6 are larger."""
        budget = Budget()
        self.assertEqual(self.spend(budget, PacketKind.TRIGGERED, size=1200), 2)
        self.assertEqual(self.spend(budget, PacketKind.TRIGGERED, size=516), 1)
        self.assertEqual(self.spend(budget, PacketKind.TRIGGERED, size=1), 0)
        six = Budget()
        self.assertTrue(six.allows(Route(Address("2001:db8::1", 1)), MAX_BYTES - 48, PacketKind.DIRECT, 0.0))
        self.assertFalse(
            Budget().allows(Route(Address("2001:db8::1", 1)), MAX_BYTES - 47, PacketKind.DIRECT, 0.0)
        )

    def test_later(self) -> None:
        """Further checks are spread over time, in case the first ones were lost."""
        budget = Budget()
        self.spend(budget, PacketKind.DIRECT)
        times = [now for now in range(1, 600) if budget.allows(route(0), 100, PacketKind.DIRECT, float(now))]
        self.assertEqual(times, [15, 45, 105, 225])
        self.assertEqual(
            self.spend(budget, PacketKind.TRIGGERED, 599.0), MAX_PACKETS - RESERVED - MAX_DIRECT - len(times)
        )

    def test_later_at_several_addresses(self) -> None:
        """Two addresses get a further check at the same time, and no address gets two."""
        budget = Budget()
        self.spend(budget, PacketKind.DIRECT)
        sent = [
            (now, number)
            for now in range(1, 60)
            for number in (0, 0, 1, 2)
            if budget.allows(route(number), 100, PacketKind.DIRECT, float(now))
        ]
        self.assertEqual(sent, [(15, 0), (15, 1), (45, 0), (45, 1)])
        late = Budget()
        self.spend(late, PacketKind.DIRECT)
        times = [
            now for now in (15.0, 15.0 + ROUND - 0.1) if late.allows(route(1), 100, PacketKind.DIRECT, now)
        ]
        self.assertEqual(times, [15.0])
        self.assertTrue(late.allows(route(2), 100, PacketKind.DIRECT, 15.0 + ROUND - 0.1))

    def test_a_direct_path_while_a_relay_works(self) -> None:
        """
        When checks and SYNs have used up their parts in vain, checks that arrive are answered and trigger
        others, and further checks are sent. Some of what was reserved is used for that.
        """
        for relay in (None, Route(address(90), Address("198.51.100.1", 50000))):
            budget = Budget()
            self.spend(budget, PacketKind.DIRECT)
            for number in range(9):
                budget.allows_connect(TCPAddress(address(number).host, 1000 + number), 1.0)
            if relay is not None:
                budget.answered(relay, 1.0)
            later = [
                budget.allows(route(number), 96, PacketKind.DIRECT, now)
                for now in (16.5, 47.0)
                for number in (0, 1)
            ]
            heard = [
                budget.allows(route(1), 96, kind, 48.0) for kind in (PacketKind.ANSWER, PacketKind.TRIGGERED)
            ]
            works = relay is not None
            self.assertEqual(later, [True, True, works, works])
            self.assertEqual(heard, [works, False])
            self.spend(budget, PacketKind.ANSWER, 49.0)
            self.spend(budget, PacketKind.TRIGGERED, 49.0)
            left = RESERVED_FOR_RELAYED if works else RESERVED
            for kind in (PacketKind.RELAYED, PacketKind.TRIGGERED):
                self.assertEqual(self.spend(deepcopy(budget), kind, 50.0, relayed=True), left, kind)

    def test_who_answers_costs_nothing(self) -> None:
        """Packets to an address that answers do not count, until it has been silent for long."""
        budget = Budget()
        for now in range(100):
            self.assertTrue(budget.allows(route(1), 1200, PacketKind.TRIGGERED, float(now)))
            self.assertEqual(budget.is_validated(route(1), now), now > 0)
            budget.answered(route(1), float(now))
        self.assertEqual(self.spend(budget, PacketKind.DIRECT, 100.0), MAX_DIRECT + 1)
        self.assertTrue(budget.is_validated(route(1), 99.0 + WINDOW - 0.1))
        self.assertFalse(budget.is_validated(route(1), 99.0 + WINDOW))
        self.assertFalse(budget.is_idle(99.0))
        self.assertTrue(budget.is_idle(100.0 + WINDOW))

    def test_which_routes_an_answer_validates(self) -> None:
        """
        An answer through a relay validates that route alone; one to our own socket validates all, and what
        was sent there no longer counts.
        """
        relays = Address("198.51.100.1", 50000), Address("198.51.100.2", 50000)
        routes = [route(1), *(Route(address(1), relay) for relay in relays)]
        for number, answered in enumerate(routes):
            budget = Budget()
            for each in routes:
                self.assertTrue(budget.allows(each, 900, PacketKind.TRIGGERED, 0.0))
            self.assertFalse(budget.allows(route(2), 900, PacketKind.TRIGGERED, 0.0))
            budget.answered(answered, 1.0)
            opened = [budget.is_validated(each, 2.0) for each in routes]
            self.assertEqual(opened, [True] * 3 if number == 0 else [each == answered for each in routes])
            self.assertEqual(self.spend(budget, PacketKind.TRIGGERED, 2.0, size=900), 4 if number == 0 else 1)

    def test_other_ports_of_a_host_that_answered(self) -> None:
        """Packets there count like any others, since other hosts may be behind the same NAT as the peer."""
        budget = Budget()
        budget.answered(route(0), 0.0)
        ports = [Route(address(0)._replace(port=port)) for port in range(2000, 2100)]
        sent = [
            budget.allows(port, 96, kind, 1.0, relayed=relayed)
            for port in ports
            for kind in PacketKind
            for relayed in (False, True)
        ]
        self.assertEqual(sum(sent), MAX_PACKETS)
        self.assertFalse(budget.allows(route(1), 96, PacketKind.TRIGGERED, 1.0))
        self.assertTrue(budget.allows(route(0), 96, PacketKind.TRIGGERED, 1.0))

    def test_through_a_relay_to_the_same_relay(self) -> None:
        """
        Where both sides use the same relay, there is a path whatever was used up before. What goes through it
        to its other ports has limits of its own: in packets, in bytes, and for each port.
        """
        ours = Address("198.51.100.1", 1999)
        relay = Route(ours._replace(port=2000), ours)
        for size, most in ((96, MAX_PACKETS), (1172, MAX_BYTES // 1200)):
            budget = Budget()
            self.spend(budget, PacketKind.TRIGGERED, relayed=True)
            ports = [Route(ours._replace(port=port), ours) for port in range(2000, 2300)]
            sent = [budget.allows(port, size, PacketKind.RELAYED_TWICE, 1.0) for port in ports]
            self.assertEqual(sum(sent), most)
            later = 1.0 + RELAY_WINDOW
            self.assertFalse(budget.allows(relay, size, PacketKind.TRIGGERED, later - 0.1))
            self.assertTrue(budget.allows(relay, size, PacketKind.TRIGGERED, later))
        one = Budget()
        sent = [one.allows(relay, 96, PacketKind.RELAYED_TWICE, 1.0) for _ in range(MAX_PACKETS)]
        self.assertEqual(sum(sent), MAX_TRIGGERED_TO_ONE)
        self.assertFalse(one.is_idle(RELAY_WINDOW))
        one.answered(relay, 2.0)
        self.assertTrue(one.is_validated(relay, 2.0))
        self.assertTrue(one.allows(relay, 1172, PacketKind.RELAYED_TWICE, 2.0))

    def test_ports_of_a_relay_of_ours(self) -> None:
        """
        Packets there from our sockets, or through another relay, count for ten minutes like those to any
        address.
        """
        relay, other = Address("198.51.100.1", 2000), Address("198.51.100.2", 2000)
        budget = Budget()
        budget.answered(Route(relay._replace(port=3478)), 0.0)
        sent = [
            budget.allows(Route(relay._replace(port=port), through), 96, kind, float(now), relayed=True)
            for now in range(0, 599, 60)
            for port in range(2000, 2050)
            for through in (None, other)
            for kind in PacketKind
        ]
        self.assertEqual(sum(sent), MAX_PACKETS)

    def test_other_services_at_a_relay_of_ours(self) -> None:
        """
        Packets to its low ports count for ten minutes like those to any address, directly and through the
        relay.
        """
        relay = Address("198.51.100.1", 2000)
        budget = Budget()
        sent = [
            budget.allows(Route(relay._replace(port=port), through), 96, kind, float(now))
            for now in range(0, 599, 60)
            for port in (53, 80, 443, 1023)
            for through in (None, relay)
            for kind in PacketKind
        ]
        self.assertLessEqual(sum(sent), MAX_PACKETS)
        self.assertGreater(sum(sent), MAX_DIRECT)

    def test_a_relay_of_ours_over_the_other_family(self) -> None:
        """
        We reach the relay over IPv6, and it relays at its IPv4 address, as is the default. The separate
        limits hold for what goes through it, and not for what goes there directly.
        """
        ours, theirs = Address("198.51.100.1", 2000), Address("198.51.100.1", 2001)
        budget = Budget()
        self.spend(budget, PacketKind.TRIGGERED, relayed=True)
        self.assertFalse(budget.allows(Route(theirs), 96, PacketKind.RELAYED, 1.0))
        kind = PacketKind.RELAYED_TWICE
        self.assertFalse(budget.allows(Route(address(1), ours), 96, kind, 1.0))
        sent = [budget.allows(Route(theirs, ours), 96, kind, 1.0) for _ in range(9)]
        self.assertEqual(sum(sent), MAX_TRIGGERED_TO_ONE)

    def test_bounds(self) -> None:
        """The numbers of remembered addresses and of peers are bounded."""
        budget = Budget()
        for number in range(3 * MAX_ANSWERED):
            budget.answered(route(number), 0.0)
        answered = [budget.is_validated(route(number), 1.0) for number in range(3 * MAX_ANSWERED)]
        self.assertEqual(answered, [False] * 2 * MAX_ANSWERED + [True] * MAX_ANSWERED)
        budgets = Budgets()
        peers = [PeerID(number.to_bytes(32, "big")) for number in range(MAX_PEERS + 1)]
        kept_budgets = [budgets.of(peer, 0.0) for peer in peers[:MAX_PEERS]]
        for budget in (*kept_budgets[:9], *kept_budgets[10:]):
            budget.answered(route(0), 0.0)
        del budget, kept_budgets[9]
        budgets.of(peers[MAX_PEERS], 1.0)
        del peers[9]
        kept = [budgets.of(peer, 1.0) is budget for peer, budget in zip(peers, kept_budgets, strict=False)]
        self.assertEqual(kept, [True] * (MAX_PEERS - 1), "who has used nothing makes room")

    def test_a_link_keeps_its_budget(self) -> None:
        """
        However many other peers call, the restarts of a link use its budget, and answered addresses stay
        validated.
        """
        budgets = Budgets()
        peers = [PeerID(number.to_bytes(32, "big")) for number in range(2 * MAX_PEERS)]
        link = budgets.of(peers[0], 0.0)
        link.answered(route(0), 0.0)
        for peer in peers[1:]:
            budgets.of(peer, 1.0).answered(route(0), 1.0)
        self.assertIs(budgets.of(peers[0], 2.0), link)
        self.assertTrue(budgets.of(peers[0], 2.0).is_validated(route(0), 2.0))


class ConnectTests(SynchronousTestCase):
    """SYNs of TCP connections count in the same limit."""

    def test_limits(self) -> None:
        """SYNs have a limit of their own, count among all packets, and stop counting after a time."""
        budget = Budget()
        sent = sum(budget.allows_connect(TCPAddress(*address(number)), 0.0) for number in range(50))
        self.assertEqual(sent, MAX_CONNECTS)
        others = sum(
            budget.allows(route(number), 100, kind, 0.0, relayed=relayed)
            for relayed, kind in ((False, PacketKind.TRIGGERED), (True, PacketKind.RELAYED))
            for number in range(50)
        )
        self.assertEqual(sent + others, MAX_PACKETS)
        self.assertFalse(budget.allows_connect(TCPAddress(*address(1)), WINDOW - 0.001))
        self.assertTrue(budget.allows_connect(TCPAddress(*address(1)), WINDOW))

    def test_after_other_packets(self) -> None:
        """No SYN is sent if packets of other kinds have used up the limit of packets or of bytes."""
        for size, most in ((10, 0), (900, 3)):
            budget = Budget()
            for number in range(50):
                budget.allows(route(number), size, PacketKind.TRIGGERED, 0.0)
            sent = sum(budget.allows_connect(TCPAddress(*address(1)), 0.0) for _ in range(50))
            self.assertEqual(sent, most)

    def test_first_checks(self) -> None:
        """
        There may be as many as SYNs, and they count in the same limit, until one to this address and port is
        answered.
        """
        budget = Budget()
        first, last = TCPAddress(*address(0)), TCPAddress(*address(9))
        for number in range(MAX_CONNECTS):
            self.assertTrue(budget.allows_connect(TCPAddress(*address(number)), 0.0))
            self.assertTrue(budget.allows_first_check(TCPAddress(*address(number)), 100, 0.0))
        for to in (first, last):
            self.assertFalse(budget.allows_connect(to, 0.0))
            self.assertFalse(budget.allows_first_check(to, 100, 0.0))
        others = sum(budget.allows(route(number), 10, PacketKind.RELAYED, 0.0) for number in range(50))
        others += sum(budget.allows(route(number), 10, PacketKind.TRIGGERED, 0.0) for number in range(50))
        self.assertEqual(2 * MAX_CONNECTS + others, MAX_PACKETS)
        budget.answered(Route(first, address(1)), 0.0)
        budget.answered(route(0), 0.0)
        self.assertFalse(budget.allows_connect(last, 0.0))
        budget.answered(Route(first), 0.0)
        for _ in range(MAX_PACKETS):
            self.assertTrue(budget.allows_first_check(first, 100, 0.0))
        self.assertTrue(budget.allows_connect(last, 0.0))
        self.assertTrue(budget.allows_first_check(last, 100, 0.0))
        self.assertFalse(budget.allows_connect(last, 0.0))
        self.assertFalse(budget.allows_first_check(last, 100, 0.0))

    def test_first_checks_are_limited_in_bytes(self) -> None:
        """Their bytes count like those of all packets to addresses that have not answered."""
        for to in (TCPAddress(*address(1)), TCPAddress("2001:db8::1", 7)):
            budget = Budget()
            size = MAX_BYTES // 3
            sent = sum(budget.allows_first_check(to, size, 0.0) for _ in range(MAX_CONNECTS))
            self.assertEqual(sent, 2)

    def test_where_the_peer_has_answered(self) -> None:
        """SYNs to other ports there are counted with openings, unless only a relay says that it answered."""
        budget = Budget()
        there = TCPAddress(address(1).host, 7)
        budget.answered(Route(address(1), address(2)), 0.0)
        self.assertEqual(sum(budget.allows_connect(there, 0.0) for _ in range(100)), MAX_CONNECTS)
        budget.answered(route(1), 0.0)
        self.assertEqual(sum(budget.allows_connect(there, 0.0) for _ in range(100)), MAX_OPENINGS)
        self.assertEqual(budget.openings.left(0.0), 0)

    def test_a_relay_that_the_peer_has_answered_at(self) -> None:
        """The other ports of the relay do not belong to the peer."""
        budget = Budget()
        budget.answered(route(1), 0.0, to_relay=True)
        there = TCPAddress(address(1).host, 7)
        self.assertEqual(sum(budget.allows_connect(there, 0.0) for _ in range(100)), MAX_CONNECTS)
