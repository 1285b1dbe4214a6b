"""Pairs that carry checks but not the largest datagrams, and paths on which only checks are answered."""

from __future__ import annotations

import itertools
from functools import partial

from twisted.trial.unittest import SynchronousTestCase

from punch.ice.checks import IceRole, build_check
from punch.ice.events import PairDisconnected, Recovered
from punch.ice.selected_pair import RETURN_GAP
from punch.node.paths.path import (
    HANDSHAKE_WAIT,
    LINK_BURSTS,
    LINK_WAIT,
    UnansweredData,
)
from punch.test.ice.ice_network import NAT, Host, IceNetwork
from punch.wire.address import FULL_SIZE, Address
from punch.wire.stun import Attribute, MessageClass, encode, error, parse

PUBLIC = "203.0.113.1"


class SizeTests(SynchronousTestCase):
    def two(self, network: IceNetwork) -> tuple[Host, Host]:
        """Two hosts with two networks between them, the first of which is preferred."""
        one = network.host("one", "10.0.0.1", "10.1.0.1")
        return one, network.host("other", "10.0.0.2", "10.1.0.2", controlling=False)

    def small(self, network: IceNetwork, *prefixes: str) -> None:
        """What leaves from these addresses is lost if it is large."""
        network.largest = lambda source, target: 1192 if source.host.startswith(prefixes) else 65535

    def full(self, host: Host) -> list[tuple[MessageClass, Address]]:
        """Which large messages the host has sent."""
        messages = [(parse(sent.data), sent) for _, sent in host.sent]
        found = [(message, sent) for message, sent in messages if Attribute.PADDING in message]
        self.assertEqual({len(sent.data) for _, sent in found}, {FULL_SIZE} if found else set())
        return [(message.message_class, sent.remote) for message, sent in found]

    def hosts(self, host: Host) -> tuple[str, str]:
        """Between which IP addresses the host's path is."""
        return host.path.local_base.host, host.path.remote_address.host

    def test_one_check_when_all_is_well(self) -> None:
        """The pair that is used is checked once; its answer is as large."""
        network = IceNetwork()
        one, other = network.host("one", "10.0.0.1"), network.host("other", "10.0.0.2", controlling=False)
        network.pair(one, other, gather=False)
        network.run(30.0)
        self.assertEqual(self.full(one), [(MessageClass.REQUEST, other.bases[0])])
        self.assertEqual(self.full(other), [(MessageClass.SUCCESS, one.bases[0])])

    def test_another_path_is_taken(self) -> None:
        """Whichever direction is small, both sides leave it within two seconds."""
        for direction in ("10.0.0.1", "10.0.0.2", "10.0.0."):
            network = IceNetwork()
            one, other = self.two(network)
            self.small(network, direction)
            network.pair(one, other, gather=False)
            network.run(2.0)
            for seconds in (0.0, 60.0):
                network.run(seconds)
                path = self.hosts(one)
                self.assertFalse(any(end.startswith(direction) for end in path), (direction, path))
                self.assertEqual(self.hosts(other), path[::-1], direction)

    def test_a_better_path_is_taken_again(self) -> None:
        """
        A better pair that lost its checks of full size is asked again: soon, because loss alone may be the
        cause, and then less and less often.
        """
        network = IceNetwork()
        one, other = network.host("one", "10.0.0.1"), network.host("other", "10.0.0.2", controlling=False)
        other.bases.append(Address("10.1.0.2", 50000))
        other.agent.add_relayed(other.bases[1], None, "relay")
        self.small(network, "10.0.0.2")
        network.pair(one, other, gather=False)
        network.run(2.0)
        self.assertEqual((one.path.path, other.path.path), ("relay", "relay"))
        self.small(network, "nowhere")
        network.run(2.0)
        self.assertEqual((one.path.path, other.path.path), ("host", "host"))
        self.small(network, "10.0.0.2")
        one.agent.path.check_size(network.now)
        network.run(3.0)
        self.assertEqual(one.path.path, "relay")
        before = len(self.full(one))
        network.run(1000.0)
        self.assertEqual(one.path.path, "relay")
        self.assertLess(len(self.full(one)) - before, 50)
        self.small(network, "nowhere")
        network.run(310.0)
        self.assertEqual((one.path.path, other.path.path), ("host", "host"))
        self.assertEqual(one.of(PairDisconnected) + other.of(PairDisconnected), [])

    def test_errors(self) -> None:
        """A signed error shows that the large request arrived: the pair is used, and not asked again."""
        network = IceNetwork()
        one, other = network.host("one", "10.0.0.1"), network.host("other", "10.0.0.2", controlling=False)
        other.bases.append(Address("10.1.0.2", 50000))
        other.agent.add_relayed(other.bases[1], None, "relay")
        self.small(network, "10.0.0.1")
        network.pair(one, other, gather=False)
        network.run(2.0)
        self.assertEqual(one.path.path, "relay")
        requests = 0
        for _ in range(40):
            before = len(one.sent)
            network.run(0.1)
            for _, sent in one.sent[before:]:
                if len(sent.data) == FULL_SIZE and sent.remote == other.bases[0]:
                    requests += 1
                    refusal = error(parse(sent.data), 420, "Unknown Attribute")
                    network.inject(one, encode(refusal, other.agent.credentials.key), sent.remote)
        self.assertEqual(requests, 1)
        self.assertEqual((one.path.path, other.path.path), ("host", "host"))

    def test_no_other_path(self) -> None:
        """The pair stays selected, and impaired, until large datagrams get through."""
        network = IceNetwork()
        one, other = network.host("one", "10.0.0.1"), network.host("other", "10.0.0.2", controlling=False)
        self.small(network, "10.0.0.")
        network.pair(one, other, gather=False)
        network.run(3.0)
        self.assertEqual(len(one.of(PairDisconnected)), 1)
        self.assertFalse(one.agent.path.working)
        self.assertTrue(other.agent.path.working)
        before = len(self.full(one))
        network.run(20.0)
        self.assertLess(len(self.full(one)) - before, 14)
        self.small(network, "nowhere")
        network.run(4.0)
        self.assertEqual(len(one.of(Recovered)), 1)
        self.assertTrue(one.agent.path.working)

    def test_a_path_that_shrinks(self) -> None:
        """A side that sends large datagrams notices that a path shrinks; an idle side does not check."""
        for asking in (0, 1):
            network = IceNetwork()
            hosts = self.two(network)
            network.pair(*hosts, gather=False)
            network.run(20.0)
            self.assertEqual(self.hosts(hosts[0])[0], "10.0.0.1")
            before = len(self.full(hosts[0]))
            self.small(network, "10.0.0.")
            network.run(40.0)
            self.assertEqual((self.hosts(hosts[0])[0], len(self.full(hosts[0]))), ("10.0.0.1", before))
            hosts[asking].agent.path.check_size(network.now)
            network.run(2.5)
            self.assertTrue(self.hosts(hosts[asking])[0].startswith("10.1."))

    def test_a_queue(self) -> None:
        """Late checks of full size are not taken for lost if small ones are as late. Few of them are sent."""
        for delay, measured, requests in ((0.7, None, 9), (1.5, 3.0, 1)):
            network = IceNetwork()
            one = network.host("one", "10.0.0.1")
            network.pair(one, network.host("other", "10.0.0.2", controlling=False), gather=False)
            network.run(20.0)
            before = len(self.full(one))
            network.delay = delay
            if measured is not None:
                one.agent.path.measured(measured)
            one.agent.path.check_size(network.now)
            network.run(4.0)
            self.assertTrue(one.agent.path.working)
            self.assertEqual(one.of(PairDisconnected), [])
            self.assertLessEqual(len(self.full(one)) - before, requests)

    def test_strangers_get_nothing_large(self) -> None:
        """Before an address has answered, it gets no check of full size, and no answer to one."""
        network = IceNetwork(budgets=True)
        one = network.host("one", "192.168.1.2", nat=NAT(PUBLIC))
        other = network.host("other", "203.0.113.9", controlling=False)
        network.blocked = lambda source, target: source == other.bases[0]
        network.pair(one, other)
        network.run(60.0)
        self.assertEqual(self.full(one) + self.full(other), [])

    def test_answered_later(self) -> None:
        """A check of full size is answered later if its sender had not yet answered a check."""
        network = IceNetwork(budgets=True)
        one, other = network.host("one", "10.0.0.1"), network.host("other", "10.0.0.2", controlling=False)
        network.pair(one, other, gather=False)
        large = build_check(
            bytes(12),
            one.agent.credentials,
            other.agent.credentials,
            IceRole.CONTROLLING,
            2**64 - 1,
            1,
            size=FULL_SIZE,
        )
        network.inject(other, large, one.bases[0])
        self.assertEqual(self.full(other), [])
        network.run(2.0)
        answers = [sent.data[8:20] for _, sent in other.sent if len(sent.data) == FULL_SIZE]
        self.assertEqual(answers.count(bytes(12)), 1)

    def test_silence(self) -> None:
        """A path is left sooner during the handshake than later, and never because of one burst of a link."""
        data = UnansweredData()
        self.assertIsNone(data.deadline(None))
        data.sent(1.0, True)
        self.assertEqual(data.deadline(None), 1.0 + HANDSHAKE_WAIT)
        self.assertEqual(data.deadline(1.0), 5.0)
        data.end()
        self.assertIsNone(data.deadline(None))
        data.prove()
        for number in range(LINK_BURSTS):
            self.assertIsNone(data.deadline(None))
            data.sent(2.0 + number, True)
            self.assertEqual([data.is_burst(2.01 + number), data.is_burst(2.06 + number)], [False, True])
        self.assertEqual(data.deadline(0.1), 2.0 + LINK_WAIT)
        self.assertEqual(data.enough_at, 2.0 + LINK_BURSTS - 1)
        data.postpone(9.0)
        self.assertGreater(data.deadline(0.1) or 0.0, 9.0)

    def test_idle_time_does_not_count(self) -> None:
        """Acknowledgements are not answered, so the time begins with the data that is sent after them."""
        data = UnansweredData()
        data.prove()
        for acknowledged in (1.0, 1.2, 1.4):
            data.sent(acknowledged, False)
        self.assertEqual(data.deadline(None), 1.0 + LINK_WAIT)
        for number in range(LINK_BURSTS):
            data.sent(3.0 + number, True)
            # What is acknowledged meanwhile changes nothing
            data.sent(3.5 + number, False)
        self.assertEqual((data.deadline(None), data.enough_at), (3.0 + LINK_WAIT, 4.0))
        # Nothing was in flight for a while
        for number in range(LINK_BURSTS):
            self.assertIsNone(data.deadline(None) if number else None)
            data.sent(60.0 + number, True)
        self.assertEqual(data.deadline(None), 60.0 + LINK_WAIT)
        # Data is repeated after longer and longer times
        data.end()
        for repeated in (100.0, 103.0, 109.0):
            data.sent(repeated, True)
        self.assertEqual(data.deadline(2.0), 108.0)

    def test_no_checks_answered_either(self) -> None:
        """If checks are not answered either, the pair is not left as blocked: probing finds what works."""
        network = IceNetwork()
        one, other = self.two(network)
        network.pair(one, other, gather=False)
        network.run(5.0)
        path, since = self.hosts(one), network.now
        network.blocked = lambda source, target: True
        network.run(0.2)
        self.assertFalse(one.agent.path.leave_blocked_pair(since, network.now))
        self.assertEqual(self.hosts(one), path)
        network.run(1.0)
        self.assertFalse(one.agent.path.leave_blocked_pair(since, network.now))
        self.assertTrue(one.agent.path.working)
        network.run(1.0)
        self.assertFalse(one.agent.path.working)

    def test_blocked_pair_is_used_again(self) -> None:
        """When the last usable pair fails, a blocked one is selected again, without `PairDisconnected`."""
        network = IceNetwork()
        network.blocked = lambda source, target: source.host[3] != target.host[3]
        one, other = self.two(network)
        network.pair(one, other, gather=False)
        network.run(5.0)
        first = self.hosts(one)
        self.block(one, network)
        network.run(1.0)
        dead, before = self.hosts(one)[0], one.of(PairDisconnected)
        self.assertNotEqual(dead, first[0])
        network.blocked = lambda source, target: source.host[3] != target.host[3] or dead[3] == source.host[3]
        one.agent.path.probe(network.now)
        network.run(2.0)
        self.assertEqual(self.hosts(one), first)
        self.assertTrue(one.agent.path.working)
        self.assertEqual(one.of(PairDisconnected), before)

    def test_blocked_pair_on_which_the_link_receives(self) -> None:
        """It is not blocked. The controlled side selects it again, since the other side has nominated it."""
        network = IceNetwork()
        one, other = self.two(network)
        network.pair(one, other, gather=False)
        network.run(5.0)
        first = other.path
        self.block(other, network)
        network.run(20.0)
        left = other.path
        self.assertNotEqual(self.hosts(other), self.hosts(one)[::-1])
        received = other.agent.path.link_received
        self.assertFalse(received(left.local_base, left.remote_address, network.now))
        self.assertTrue(received(first.local_base, first.remote_address, network.now))
        self.assertFalse(received(first.local_base, first.remote_address, network.now))
        self.assertEqual(self.hosts(other), self.hosts(one)[::-1])
        self.assertFalse(received(first.local_base, Address("10.0.0.99", 1), network.now))

    def block(self, host: Host, network: IceNetwork) -> None:
        """The link finds that the pair in use is blocked: checks are answered, and its data is not."""
        since = network.now
        host.agent.path.probe(since)
        network.run(0.2)
        self.assertTrue(host.agent.path.leave_blocked_pair(since, network.now))

    def test_pair_that_is_blocked_again(self) -> None:
        """
        What the link receives on a pair does not say that it passes the other direction: the pair is left
        soon after it was taken again, and not taken once more. It is if it has worked for a while.
        """
        for worked, returns in ((2.0, False), (RETURN_GAP + 1.0, True)):
            network = IceNetwork()
            one, other = self.two(network)
            network.pair(one, other, gather=False)
            network.run(5.0)
            first = other.path
            self.block(other, network)
            received = partial(other.agent.path.link_received, first.local_base, first.remote_address)
            self.assertTrue(received(network.now))
            network.run(worked)
            self.assertEqual(self.hosts(other), self.hosts(one)[::-1])
            self.block(other, network)
            self.assertEqual(received(network.now), returns)
            network.run(2 * RETURN_GAP)
            self.assertEqual(received(network.now), False)
            self.assertEqual(self.hosts(other) == self.hosts(one)[::-1], returns)

    def test_blocked_pair_of_the_controlling_side(self) -> None:
        """It has nominated another pair already, which the other side follows: no datagram brings it back."""
        network = IceNetwork()
        one, other = self.two(network)
        network.pair(one, other, gather=False)
        network.run(5.0)
        first = one.path
        self.block(one, network)
        self.assertFalse(one.agent.path.link_received(first.local_base, first.remote_address, network.now))
        network.run(5.0)
        self.assertNotEqual(self.hosts(one), (first.local_base.host, first.remote_address.host))
        self.assertEqual(self.hosts(other), self.hosts(one)[::-1])

    def test_upper_bounds(self) -> None:
        """A round-trip time that repeated checks measured too long does not delay the end of a dead path."""
        network = IceNetwork()
        one, other = network.host("one", "10.0.0.1"), network.host("other", "10.0.0.2", controlling=False)
        network.blocked = lambda source, target: network.now < 3.0
        network.pair(one, other, gather=False)
        network.run(4.0)
        one.agent.path.measured(0.05)
        network.blocked = lambda source, target: True
        one.agent.path.probe(network.now)
        network.run(1.6)
        self.assertFalse(one.agent.path.working)

    def test_blocked_pairs_in_turn(self) -> None:
        """Another pair is selected instead of a blocked one, and the first again when all were blocked."""
        network = IceNetwork()
        one, other = self.two(network)
        network.pair(one, other, gather=False)
        network.run(5.0)
        paths = []
        for _ in range(2 * len(one.agent.pairs)):
            paths.append(self.hosts(one))
            since = network.now
            one.agent.path.probe(since)
            network.run(0.1)
            self.assertTrue(one.agent.path.leave_blocked_pair(since, network.now))
            network.run(0.4)
            self.assertTrue(one.agent.path.working)
            self.assertEqual(self.hosts(other), self.hosts(one)[::-1])
        self.assertTrue(all(path != after for path, after in itertools.pairwise(paths)))
        self.assertIn(paths[0], paths[1:])
