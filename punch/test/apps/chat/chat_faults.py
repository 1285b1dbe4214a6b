"""
Two peers chat while faults happen that a seed chooses: loss, partitions, restarts of the rendezvous, NATs
that lose their mappings, processes that are stopped, or killed in the middle of a call to the disk, and start
again.
`python -m punch.test.apps.chat.chat_faults SEED…` runs some and prints a line for each.

In the end, both disks must have the same messages: each that was stored by its sender, once and in order. And
each must have been shown.
"""

from __future__ import annotations

import sys
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from random import Random
from typing import Any, Concatenate, ParamSpec, TypeVar

from twisted.internet.defer import Deferred, succeed
from twisted.internet.interfaces import IReactorTime
from twisted.python.failure import Failure

from punch.apps.chat import ChatMessage, MessageState
from punch.apps.chat.events import Event, MessageAdded
from punch.apps.chat.store import Store
from punch.contacts import AddressBook
from punch.identity import Identity, PeerID
from punch.test.internet import NAT, Filtering, Host, Internet, LinkSpec, Mapping, Ports
from punch.test.scenarios.nat_pairs import KINDS
from punch.test.system import SERVICE, Peer, Rendezvous

P = ParamSpec("P")
T = TypeVar("T")

MESSAGES = 25
"""How many each side sends."""
TIME = 120.0
"""Seconds in which they are sent and in which the faults happen."""
SETTLE_TIME = 400.0
"""Seconds after that within which all messages must be delivered."""
FAULTS = 7


class SlowDisk:
    """
    The worker of a machine whose disk is slow. Its process can be ended between any two steps of a call:
    before the call was made, or before its result was reported.
    """

    def __init__(self, clock: IReactorTime, store: Store, random: Random) -> None:
        self._clock = clock
        self._store = store
        self._random = random
        self._calls: deque[tuple[Deferred[Any], Callable[[], Any]]] = deque()
        self._busy = False
        self._steps = 0
        self._end: Callable[[], None] | None = None

    def end_process(self, steps: int, end: Callable[[], None] | None) -> None:
        """Call `end` so many steps from now, in the middle of a call, and make no more calls; None: don't."""
        self._steps, self._end = steps, end

    def _ends_process(self) -> bool:
        self._steps -= 1
        if self._end is None or self._steps > 0:
            return False
        self._end()
        return True

    def run(
        self, call: Callable[Concatenate[Store, P], T], *arguments: P.args, **named: P.kwargs
    ) -> Deferred[T]:
        done: Deferred[T] = Deferred()
        self._calls.append((done, partial(call, self._store, *arguments, **named)))
        if not self._busy:
            self._busy = True
            self._clock.callLater(self._random.uniform(0.0, 0.02), self._make)
        return done

    def _make(self) -> None:
        if self._ends_process():
            return
        done, call = self._calls.popleft()
        try:
            result = call()
        except Exception:
            result = Failure()
        self._clock.callLater(self._random.uniform(0.0, 0.01), self._tell, done, result)

    def _tell(self, done: Deferred[Any], result: Any) -> None:
        if self._ends_process():
            return
        self._busy = bool(self._calls)
        if self._busy:
            self._clock.callLater(self._random.uniform(0.0, 0.02), self._make)
        if isinstance(result, Failure):
            done.errback(result)
        else:
            done.callback(result)

    def stop(self) -> Deferred[None]:
        return succeed(None) if not self._busy else self.run(Store.retention).addCallback(lambda _: None)


class ChatSide:
    """
    One side of the chat: a disk, and at most one process.

    :ivar safe: the messages that the chat has reported as stored.
    :ivar shown: the messages that processes showed, and whether with `again`.
    """

    def __init__(self, scenario: FaultScenario, name: str, host: Host) -> None:
        self.net = scenario.net
        self.scenario = scenario
        self.name = name
        self.host = host
        self.random = Random(f"{name} {scenario.net.seed}")
        self.identity = Identity.generate(self.net.random_bytes(f"key {name}"))
        self.store = Store(None)
        self.book = AddressBook(None)
        self.peer: Peer | None = None
        self.starts = 0
        self.said = 0
        self.safe: list[str] = []
        self.shown: list[tuple[str, bool]] = []
        self.other: ChatSide

    @property
    def id(self) -> PeerID:
        """Its peer ID."""
        return self.identity.peer_id

    def start(self) -> None:
        """Start a process on the disk, unless one runs."""
        if self.peer is None:
            self.starts += 1
            self.disk = SlowDisk(self.host.reactor, self.store, self.random)
            self.peer = Peer(
                self.net,
                self.host,
                self.scenario.rendezvous.address,
                name=self.name,
                identity=self.identity,
                known=self.book,
                salt=str(self.starts),
                worker=self.disk,
            )
            self.peer.chat.views.attach(self)
            self.peer.start()

    def kill(self) -> None:
        """As kill -9 does."""
        if self.peer is not None:
            self.host.kill()
            self.peer = None

    def stop(self) -> None:
        """As /quit does."""
        if self.peer is not None:
            peer, self.peer = self.peer, None
            self.disk.end_process(0, None)
            peer.stop()
            self.host.kill()

    def say(self) -> None:
        """Send the next message, if there is a process."""
        if self.peer is not None:
            self.said += 1
            text = f"{self.name} {self.said}" + "!" * self.random.choice((0, 0, 0, 3000))
            self.peer.chat.send(self.other.id, text).addCallback(lambda _: self.safe.append(text))

    # A view

    can_answer = False

    def handle(self, event: Event) -> Deferred[None] | None:
        """Show it; that may take a while."""
        if not isinstance(event, MessageAdded) or event.message.outgoing:
            return None
        self.shown.append((event.message.text, event.again))
        if self.random.random() < 0.7:
            return None
        shown: Deferred[None] = Deferred()
        self.host.reactor.callLater(self.random.uniform(0.0, 0.2), shown.callback, None)
        return shown

    def kept(self, outgoing: bool) -> list[ChatMessage]:
        """What is on its disk."""
        return [m for m in self.store.history(self.other.id, limit=10_000) if m.outgoing is outgoing]


@dataclass
class ChatOutcome:
    """The result of one seed; `wrong` says what should not have happened."""

    seed: int
    what: str
    messages: int = 0
    wrong: list[str] = field(default_factory=list)

    def __str__(self) -> str:
        return f"{self.seed:5} {self.what:90} {self.messages:3} messages  {'; '.join(self.wrong) or 'well'}"


class FaultScenario:
    """Two homes, a rendezvous, and faults at times that the seed chooses."""

    def __init__(self, seed: int) -> None:
        self.net = Internet(seed)
        self.net.announce = False
        self.random = Random(f"torture {self.net.seed}")
        self.rendezvous = Rendezvous(self.net, self.net.host("rendezvous", SERVICE))
        self.loss = self.random.choice((0.0, 0.02, 0.1))
        self.sides = [self._side(number, name) for number, name in enumerate(("alice", "bob"), 1)]
        for one, other in (self.sides, self.sides[::-1]):
            one.other = other
            one.book.add(other.id, other.name)

    def _side(self, number: int, name: str) -> ChatSide:
        mapping, filtering = self.random.choice(KINDS).split("/")
        nat = NAT(
            public=f"203.0.113.{number}",
            mapping=Mapping[mapping],
            filtering=Filtering[filtering],
            ports=self.random.choice(list(Ports)),
        )
        link = LinkSpec(delay=self.random.uniform(0.002, 0.05), loss=self.loss, jitter=0.005)
        lan = self.net.lan(f"home {name}", f"10.0.{number}.0/24", nat=nat, link=link)
        return ChatSide(self, name, lan.host(name))

    def run(self) -> ChatOutcome:
        """Run the chat and the faults, then check the result."""
        plan: list[tuple[float, Callable[[], None]]] = []
        for side in self.sides:
            side.start()
            for _ in range(MESSAGES):
                plan.append((self.random.uniform(1.0, TIME), side.say))
        kinds = []
        for _ in range(FAULTS):
            fault = self.random.choice(FAULT_KINDS)
            # Near a message, since something is under way then
            when = self.random.choice(plan)[0] + self.random.choice((0.0, 0.03, 0.1, 0.3, 2.0))
            side = self.random.choice(self.sides)
            plan += fault(self, side, when, self.random.expovariate(1 / 12.0))
            kinds.append(fault.__name__)
        start = self.net.now
        for when, action in sorted(plan, key=lambda item: item[0]):
            if start + when > self.net.now:
                self.net.advance(start + when - self.net.now)
            action()
        for side in self.sides:
            side.host.up()
            side.start()
        self.net.drop = None
        end = self.net.now + SETTLE_TIME
        while self.net.now < end and not self._settled():
            self.net.advance(1.0)
        outcome = ChatOutcome(self.net.seed, f"loss {self.loss:.0%}, " + ", ".join(kinds))
        for side in self.sides:
            self._check(side, outcome)
        for side in self.sides:
            side.stop()
        self.rendezvous.stop()
        return outcome

    def _settled(self) -> bool:
        return all(
            side.peer is not None
            and not side.peer.chat.conversations.undelivered()
            and not side.peer.chat.conversations.unhandled(side.other.id)
            and not side.store.waiting()
            for side in self.sides
        )

    def _check(self, side: ChatSide, outcome: ChatOutcome) -> None:
        sent, heard = side.kept(outgoing=True), side.other.kept(outgoing=False)
        outcome.messages += len(heard)
        texts = [message.text for message in sent]
        if [message.text for message in heard] != texts:
            outcome.wrong.append(f"{side.name} said {len(sent)}, {side.other.name} has {len(heard)}")
        if len(set(texts)) != len(texts) or sorted(texts, key=_number) != texts:
            outcome.wrong.append(f"{side.name}'s own words are out of order")
        if not set(side.safe) <= set(texts):
            outcome.wrong.append(f"{side.name} lost what was safe")
        if any(message.state is not MessageState.DELIVERED for message in sent):
            outcome.wrong.append(f"not all of {side.name} is marked as delivered")
        shown = [text for text, again in side.other.shown if not again]
        if len(set(shown)) != len(shown):
            outcome.wrong.append(f"{side.other.name} was shown something twice, and not told so")
        if {text for text, _ in side.other.shown} != set(texts):
            outcome.wrong.append(f"{side.other.name} was not shown all")


def _number(text: str) -> int:
    return int(text.rstrip("!").split()[1])


# The faults: each returns when to do what

Plan = list[tuple[float, Callable[[], None]]]


def killed(scenario: FaultScenario, side: ChatSide, when: float, length: float) -> Plan:
    return [(when, side.kill), (when + length, side.start)]


def killed_at_once_again(scenario: FaultScenario, side: ChatSide, when: float, length: float) -> Plan:
    soon = when + 0.5 + length / 10
    return [(when, side.kill), (when + 0.2, side.start), (soon, side.kill), (soon + 1.0, side.start)]


def killed_while_the_disk_works(scenario: FaultScenario, side: ChatSide, when: float, length: float) -> Plan:
    def arm() -> None:
        if side.peer is not None:
            side.disk.end_process(scenario.random.randint(1, 8), side.kill)

    return [(when - 0.1, arm), (when + length, side.kill), (when + length + 0.5, side.start)]


def both_killed(scenario: FaultScenario, side: ChatSide, when: float, length: float) -> Plan:
    other = side.other
    return [
        (when, side.kill),
        (when + 0.01, other.kill),
        (when + length, side.start),
        (when + length * 1.5, other.start),
    ]


def stopped(scenario: FaultScenario, side: ChatSide, when: float, length: float) -> Plan:
    return [(when, side.stop), (when + length, side.start)]


def partition(scenario: FaultScenario, side: ChatSide, when: float, length: float) -> Plan:
    return [(when, side.host.down), (when + length, side.host.up)]


def rendezvous_restarts(scenario: FaultScenario, side: ChatSide, when: float, length: float) -> Plan:
    def restart() -> None:
        scenario.rendezvous.stop()
        scenario.rendezvous.start()

    return [(when, restart)]


def nat_forgets(scenario: FaultScenario, side: ChatSide, when: float, length: float) -> Plan:
    lan = scenario.net.lans[f"home {side.name}"]
    assert lan.nat is not None
    return [(when, lan.nat.forget)]


def heavy_loss(scenario: FaultScenario, side: ChatSide, when: float, length: float) -> Plan:
    random = Random(f"loss {scenario.net.seed} {when}")

    def begin() -> None:
        scenario.net.drop = lambda packet: packet.protocol == "udp" and random.random() < 0.5

    def end() -> None:
        scenario.net.drop = None

    return [(when, begin), (when + length, end)]


def hung_up(scenario: FaultScenario, side: ChatSide, when: float, length: float) -> Plan:
    def hang_up() -> None:
        if side.peer is not None and side.other.id in side.peer.chat.links:
            side.peer.node.hangup(side.other.id)

    return [(when, hang_up)]


FAULT_KINDS: list[Callable[[FaultScenario, ChatSide, float, float], Plan]] = [
    killed,
    killed_while_the_disk_works,
    killed_while_the_disk_works,
    killed_while_the_disk_works,
    killed_at_once_again,
    both_killed,
    stopped,
    partition,
    rendezvous_restarts,
    nat_forgets,
    heavy_loss,
    hung_up,
]


def run(seed: int) -> ChatOutcome:
    """Run one seed."""
    return FaultScenario(seed).run()


if __name__ == "__main__":
    wrong = 0
    for seed in sys.argv[1:]:
        outcome = run(int(seed))
        print(outcome, flush=True)
        wrong += bool(outcome.wrong)
    sys.exit(wrong > 0)
