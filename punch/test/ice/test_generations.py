"""The ICE sessions of a link: restarts without a gap, and paths that do not last."""

from __future__ import annotations

from twisted.trial.unittest import SynchronousTestCase

from punch.ice.agent import Agent
from punch.ice.checks import IceCredentials
from punch.ice.events import (
    AgentState,
    ConsentLost,
    Event,
    LocalCandidate,
    PairDisconnected,
    PathFailed,
    Recovered,
    Selected,
)
from punch.ice.generations import AVOIDANCE, LINGER, SETTLE, STEADY, WAITS, FlapDamping, Generations
from punch.ice.pairs import Pair, PathKind
from punch.test.ice.ice_network import Host, IceNetwork
from punch.test.ice.test_candidates import signalled
from punch.wire.address import Address

RELAY = Address("198.51.100.9", 50000)


class GenerationsTests(SynchronousTestCase):
    """Alice has generations. Bob has one agent for each of them."""

    def setUp(self) -> None:
        self.network = IceNetwork()
        self.alice = self.network.host("alice", "192.0.2.1")
        self.bob = self.network.host("bob", "192.0.2.2", controlling=False)
        self.generations = Generations(self.alice.agent)
        self.alice.agent = self.generations  # type: ignore[assignment]
        self.events: list[Event] = []
        self.network._take_events = self.take_events  # type: ignore[method-assign]
        self.introduce(self.generations.current, self.bob.agent)
        self.network.run(2.0)

    def take_events(self, host: Host) -> None:
        """Keep Alice's events."""
        if host is self.alice:
            while (event := self.generations.next_event(self.network.now)) is not None:
                self.events.append(event)

    def introduce(self, here: Agent, there: Agent) -> None:
        """Tell two agents of each other."""
        for one, other in ((here, there), (there, here)):
            one.set_remote(other.credentials, 0.05, self.network.now)
            for candidate in other.local_candidates:
                one.add_remote_candidate(candidate, self.network.now)

    def agent(self, host: Host, *, relayed: bool = False, controlling: bool = True) -> Agent:
        """Another agent of a host."""
        agent = Agent(
            controlling=controlling,
            credentials=IceCredentials.generate(self.network.random.randbytes),
            random=self.network.random.randbytes,
            steady=True,
        )
        if not relayed:
            agent.add_local_address(host.bases[0])
        else:
            host.bases.append(RELAY)
            agent.add_relayed(RELAY, None, "relay")
        return agent

    def restart(self, *, relayed: bool = False, controlling: bool = True) -> Agent:
        """Both sides begin a generation."""
        agent = self.agent(self.alice, relayed=relayed, controlling=controlling)
        self.generations.begin(agent, self.generations.number + 1, self.network.now)
        self.bob.agent = self.agent(self.bob, controlling=not controlling)
        self.introduce(agent, self.bob.agent)
        self.events.clear()
        return agent

    def of(self, kind: type[Event]) -> list[Event]:
        """Alice's events of one kind since the last restart."""
        return [event for event in self.events if isinstance(event, kind)]

    def test_moves_at_once(self) -> None:
        """The link moves to the new path at once if it is as good as the old one."""
        first = self.generations.current
        agent = self.restart()
        self.assertIs(self.generations.current, first)
        self.network.run(0.5)
        self.assertIs(self.generations.current, agent)
        self.assertIsNone(self.generations.trial)
        self.assertEqual(len(self.of(Selected)), 1)
        self.assertEqual(self.generations.number, 1)
        self.assertTrue(self.generations.working)

    def test_the_old_one_lingers(self) -> None:
        """The old session answers checks for a while, since the other side may not have moved yet."""
        first = self.generations.current
        self.restart()
        self.network.run(LINGER - 1.0)
        self.assertIs(first.state, AgentState.CONNECTED)
        self.network.run(3.0)
        self.assertIs(first.state, AgentState.CLOSED)

    def test_a_worse_path_has_to_wait(self) -> None:
        """While the path in use works, the new session does not replace it by a relayed one at once."""
        first = self.generations.current
        agent = self.restart(relayed=True)
        self.network.run(SETTLE - 0.2)
        self.assertIsNotNone(agent.selected)
        self.assertIs(self.generations.current, first)
        self.network.run(0.5)
        self.assertIs(self.generations.current, agent)

    def test_the_choice_of_the_other_side_is_waited_for(self) -> None:
        """The first pair that works is used only when the controlling side has nominated it."""
        first = self.generations.current
        agent = self.restart(controlling=False)
        waited = False
        for _ in range(100):
            self.network.run(0.01)
            if self.generations.current is first:
                self.assertFalse(agent.path.nominated)
                waited = waited or agent.selected is not None
        self.assertTrue(waited)
        self.assertIs(self.generations.current, agent)
        self.assertTrue(agent.path.nominated)

    def test_but_not_if_the_old_one_is_in_doubt(self) -> None:
        """If the path in use is in doubt, the new session is used with any path."""
        self.generations.current.bases_lost([self.alice.bases[0]], self.network.now)
        agent = self.restart(relayed=True)
        self.assertFalse(self.generations.working)
        self.network.run(0.5)
        self.assertIs(self.generations.current, agent)
        self.assertTrue(self.generations.working)

    def block(self) -> None:
        """Alice's only pair answers checks, but no data of the link."""
        self.generations.current.path.probe(self.network.now)
        self.network.run(0.5)
        self.assertTrue(self.generations.current.path.leave_blocked_pair(0.0, self.network.now))
        self.assertFalse(self.generations.working)

    def test_a_blocked_pair_is_not_taken_again(self) -> None:
        """
        The new session does not select it although it answers first, and finds a relayed pair meanwhile.
        """
        self.block()
        self.alice.bases.append(RELAY)
        agent = self.agent(self.alice)
        agent.add_relayed(RELAY, None, "relay")
        self.generations.begin(agent, 1, self.network.now)
        self.bob.agent = self.agent(self.bob, controlling=False)
        self.introduce(agent, self.bob.agent)
        self.network.run(2 * AVOIDANCE)
        self.assertEqual([pair.state for pair in agent.pairs if pair.local != RELAY], ["silent"])
        selected = self.generations.selected
        self.assertEqual((selected and selected.local_base, self.generations.working), (RELAY, True))
        # A later session does: what blocked it may be gone
        agent = self.restart()
        self.network.run(1.0)
        self.assertEqual((agent.selected and agent.selected.path, self.generations.current), ("host", agent))

    def test_a_blocked_pair_that_is_the_only_one(self) -> None:
        """The new session selects it after a while."""
        self.block()
        agent = self.restart()
        self.network.run(AVOIDANCE - 0.1)
        self.assertIsNone(agent.selected)
        self.network.run(0.3)
        self.assertEqual((self.generations.current, self.generations.working), (agent, True))

    def test_a_restart_that_fails(self) -> None:
        """The old path stays, and the agent reports that the new session has failed."""
        first = self.generations.current
        other = self.agent(self.bob, controlling=False)
        agent = self.agent(self.alice)
        self.generations.begin(agent, 1, self.network.now)
        agent.set_remote(other.credentials, 0.05, self.network.now)
        self.network.run(61.0)
        self.assertEqual(len(self.of(PathFailed)), 1)
        self.assertIsNone(self.generations.trial)
        self.assertIs(self.generations.current, first)
        self.assertTrue(self.generations.working)

    def test_the_newest_counts(self) -> None:
        """
        A restart during a restart ends the unfinished session. Later candidates belong to the newest one.
        """
        unfinished = self.agent(self.alice)
        self.generations.begin(unfinished, 1, self.network.now)
        agent = self.restart()
        self.assertIs(unfinished.state, AgentState.CLOSED)
        self.assertIs(self.generations.newest, agent)
        agent.reflexive.add(self.alice.bases[0], Address("203.0.113.7", 7), "test")
        self.network.run(0.1)
        candidates = [event.candidate for event in self.events if isinstance(event, LocalCandidate)]
        self.assertEqual(candidates[-1].address, Address("203.0.113.7", 7))
        self.generations.give_up(self.network.now)
        self.generations.give_up(self.network.now)

    def test_paths_that_do_not_last(self) -> None:
        """A restart finds the direct path first. It selects the relayed one while the direct one is held."""
        for controlling in (True, False):
            self.setUp()
            self.restart(relayed=True, controlling=controlling)
            self.network.run(SETTLE + 1.0)
            for kind in 2 * (PathKind.HOST, PathKind.RELAYED):
                self.generations.damping.selected(pair(kind), self.network.now)
            held = self.generations.damping.held
            assert held is not None
            agent = self.restart(controlling=controlling)
            agent.add_relayed(RELAY, None, "relay")
            self.bob.agent.add_remote_candidate(agent.local_candidates[-1], self.network.now)
            # As the other side's generations do
            self.bob.agent.path.hold(held, self.network.now)
            self.bob.agent.path.limit_first(PathKind.RELAYED, self.network.now + AVOIDANCE)
            self.network.run(SETTLE + AVOIDANCE + 1.0)
            self.assertIs(self.generations.current, agent)
            self.assertEqual(self.kind, PathKind.RELAYED)
            self.network.run(held[1] - self.network.now + 1.0)
            self.assertEqual(self.kind, PathKind.HOST)

    @property
    def kind(self) -> PathKind | None:
        """The kind of the path in use."""
        pair = self.generations.selected
        return None if pair is None else pair.kind

    def test_doubt_and_loss(self) -> None:
        """Whether there is a path depends on the session in use, not on the one on trial."""
        self.network.blocked = lambda source, target: True
        self.generations.current.path.probe(self.network.now)
        self.network.run(2.0)
        self.assertEqual(len(self.of(PairDisconnected)), 1)
        self.assertFalse(self.generations.working)
        self.network.blocked = lambda source, target: False
        self.network.run(3.0)
        self.assertEqual(len(self.of(Recovered)), 1)
        self.assertTrue(self.generations.working)
        self.network.blocked = lambda source, target: True
        self.network.run(40.0)
        self.assertEqual(len(self.of(ConsentLost)), 1)
        self.assertFalse(self.generations.working)
        self.assertIsNone(self.generations.selected)
        self.network.blocked = lambda source, target: False
        self.restart()
        self.network.run(1.0)
        self.assertTrue(self.generations.working)

    def test_close(self) -> None:
        """After `close`, nothing is sent."""
        agent = self.restart()
        self.generations.close(self.network.now)
        self.assertIs(agent.state, AgentState.CLOSED)
        self.assertEqual(self.generations.datagrams_to_send(self.network.now), [])


LASTED = STEADY + 1.0
SHORT = 3.0


def pair(kind: PathKind, port: int | None = None) -> Pair:
    """Return a pair of this kind: the same each time, or one from this port."""
    base = Address("192.0.2.1", 1000 + kind if port is None else port)
    return Pair(signalled("192.0.2.1"), signalled("192.0.2.2"), base, kind)


class FlapDampingTests(SynchronousTestCase):
    def setUp(self) -> None:
        self.damping = FlapDamping()
        self.now = 1000.0

    def take(self, kind: PathKind, seconds: float) -> bool:
        """Take a path of this kind for so many seconds; returns whether it has changed what is held."""
        changed = self.damping.selected(pair(kind), self.now)
        self.now += seconds
        return changed

    def flap(self, times: int, better: PathKind = PathKind.REFLEXIVE) -> None:
        """Take a better path than the relayed one for a short time, so many times."""
        for _ in range(times):
            self.take(PathKind.RELAYED, SHORT)
            self.take(better, SHORT)
        self.take(PathKind.RELAYED, 0.0)

    def wait(self, kind: PathKind = PathKind.REFLEXIVE, part: float = 1.0) -> float:
        """Return for how many seconds no path of this kind is looked for."""
        return max(self.damping.allowed_at(kind, part) - self.now, 0.0)

    def test_the_first_returns_are_free(self) -> None:
        """Neither the first path of the link counts, nor the first return to it."""
        self.take(PathKind.REFLEXIVE, SHORT)
        self.flap(1)
        self.assertEqual((self.wait(), self.wait(part=0.5), self.damping.held), (0.0, 0.0, None))

    def test_waits(self) -> None:
        """The waits double up to a limit, so that the number of returns in any time is limited."""
        self.flap(1)
        waits = []
        for _ in range(7):
            self.flap(1)
            waits.append(self.wait())
        self.assertEqual(waits, [30.0, 60.0, 120.0, 240.0, *[WAITS[1]] * 3])
        self.assertEqual(self.damping.held, (PathKind.REFLEXIVE, self.now + WAITS[1]))
        self.assertEqual(self.wait(part=0.5), WAITS[1] / 2)

    def test_a_path_that_lasts(self) -> None:
        """After a path that has lasted, the count begins anew."""
        self.flap(4)
        self.take(PathKind.REFLEXIVE, LASTED)
        self.assertTrue(self.take(PathKind.RELAYED, 0.0))
        self.assertEqual((self.wait(), self.damping.held, self.damping.short_lived), (0.0, None, 0))
        self.flap(1)
        self.assertEqual(self.wait(), 0.0)

    def test_another_network(self) -> None:
        """A path that was left for another network does not count."""
        self.flap(1)
        self.take(PathKind.REFLEXIVE, SHORT)
        self.damping.clear()
        self.take(PathKind.RELAYED, SHORT)
        self.assertEqual(self.damping.short_lived, 0)
        self.flap(4)
        self.assertTrue(self.damping.clear())
        self.assertEqual((self.wait(), self.damping.held), (0.0, None))
        self.assertFalse(self.damping.clear())

    def test_better_kinds_are_looked_for(self) -> None:
        """
        A path over TCP that does not last holds back no path over UDP, while one over UDP holds back TCP.
        """
        self.flap(4, PathKind.TCP)
        self.assertEqual((self.wait(PathKind.TCP), self.wait(PathKind.REFLEXIVE)), (120.0, 0.0))
        self.flap(1, PathKind.REFLEXIVE)
        self.assertEqual((self.wait(PathKind.TCP), self.wait(PathKind.REFLEXIVE)), (240.0, 240.0))
        self.flap(1, PathKind.TCP)
        self.assertEqual(self.wait(PathKind.REFLEXIVE), 300.0)

    def test_what_is_learned_about_a_path(self) -> None:
        """If it turns out that the other end of the path is a relay, the path has not changed."""
        for _ in range(4):
            self.take(PathKind.RELAYED, SHORT)
            for kind in (PathKind.REFLEXIVE, PathKind.RELAYED):
                self.damping.selected(pair(kind, 7), self.now)
        self.assertEqual((self.wait(), self.damping.short_lived), (0.0, 0))

    def test_a_path_that_is_still_better(self) -> None:
        """It counts, whatever is learned about its kind meanwhile."""
        for _ in range(2):
            self.take(PathKind.RELAYED, SHORT)
            for kind in (PathKind.HOST, PathKind.REFLEXIVE):
                self.damping.selected(pair(kind, 7), self.now)
        self.take(PathKind.RELAYED, 0.0)
        self.assertEqual((self.damping.short_lived, self.wait()), (2, 30.0))

    def test_equal_paths(self) -> None:
        """Moves between paths of one kind do not count."""
        for port in range(10):
            self.damping.selected(pair(PathKind.REFLEXIVE, port), self.now)
        self.assertEqual(self.damping.short_lived, 0)
