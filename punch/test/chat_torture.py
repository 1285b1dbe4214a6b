"""
Two people talk while everything goes wrong, drawn by seed: loss, partitions, a rendezvous that restarts, NATs
that forget, processes that are stopped or killed at the worst moments and come back.
`python -m punch.test.chat_torture SEED…` runs some and prints a line for each.

What must hold in the end: both disks tell the same story, each message that was safe on its sender's disk is
in it once and in order, and each was shown.
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
from punch.test.nat_pairs import KINDS
from punch.test.system import SERVICE, Peer, Rendezvous

P = ParamSpec("P")
T = TypeVar("T")

MESSAGES = 25
"""That each side says."""
TIME = 120.0
"""Seconds in which they are said and in which things go wrong."""
CALM = 400.0
"""Seconds after that in which all must have come to its end."""
TROUBLES = 7


class SlowDisk:
    """
    The worker of a machine whose disk takes its time; it dies with its process, between any two steps of a
    call: before it was made, or when its result was not told yet.
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
        """Call `end` so many steps from now, in the middle of a call: that is when it hurts; None: don't."""
        self._steps, self._end = steps, end

    def _dies(self) -> bool:
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
        if self._dies():
            return
        done, call = self._calls.popleft()
        try:
            result = call()
        except Exception:
            result = Failure()
        self._clock.callLater(self._random.uniform(0.0, 0.01), self._tell, done, result)

    def _tell(self, done: Deferred[Any], result: Any) -> None:
        if self._dies():
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


class Person:
    """
    Somebody with a disk, and now and then a process.

    :ivar safe: what was said and is safe on the disk, as the process was told.
    :ivar shown: what processes showed, and whether they flagged it as perhaps a repetition.
    """

    def __init__(self, scenario: Torture, name: str, host: Host) -> None:
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
        self.other: Person

    @property
    def id(self) -> PeerID:
        """Its peer ID."""
        return self.identity.peer_id

    def start(self) -> None:
        """A new process on the old disk."""
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
        """The next message; nobody can type when there is no process."""
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
        had: Deferred[None] = Deferred()
        self.host.reactor.callLater(self.random.uniform(0.0, 0.2), had.callback, None)
        return had

    def kept(self, outgoing: bool) -> list[ChatMessage]:
        """What is on its disk."""
        return [m for m in self.store.history(self.other.id, limit=10_000) if m.outgoing is outgoing]


@dataclass
class Outcome:
    """How it went."""

    seed: int
    what: str
    messages: int = 0
    wrong: list[str] = field(default_factory=list)

    def __str__(self) -> str:
        return f"{self.seed:5} {self.what:90} {self.messages:3} messages  {'; '.join(self.wrong) or 'well'}"


class Torture:
    """Two homes with a rendezvous between, and what befalls them."""

    def __init__(self, seed: int) -> None:
        self.net = Internet(seed)
        self.net.announce = False
        self.random = Random(f"torture {self.net.seed}")
        self.rendezvous = Rendezvous(self.net, self.net.host("rendezvous", SERVICE))
        self.loss = self.random.choice((0.0, 0.02, 0.1))
        self.people = [self._person(number, name) for number, name in enumerate(("alice", "bob"), 1)]
        for one, other in (self.people, self.people[::-1]):
            one.other = other
            one.book.add(other.id, other.name)

    def _person(self, number: int, name: str) -> Person:
        mapping, filtering = self.random.choice(KINDS).split("/")
        nat = NAT(
            public=f"203.0.113.{number}",
            mapping=Mapping[mapping],
            filtering=Filtering[filtering],
            ports=self.random.choice(list(Ports)),
        )
        link = LinkSpec(delay=self.random.uniform(0.002, 0.05), loss=self.loss, jitter=0.005)
        lan = self.net.lan(f"home {name}", f"10.0.{number}.0/24", nat=nat, link=link)
        return Person(self, name, lan.host(name))

    def run(self) -> Outcome:
        """From the first word to the judgement."""
        plan: list[tuple[float, Callable[[], None]]] = []
        for person in self.people:
            person.start()
            for _ in range(MESSAGES):
                plan.append((self.random.uniform(1.0, TIME), person.say))
        kinds = []
        for _ in range(TROUBLES):
            trouble = self.random.choice(TROUBLE)
            # Near a message: that is when it hurts.
            when = self.random.choice(plan)[0] + self.random.choice((0.0, 0.03, 0.1, 0.3, 2.0))
            person = self.random.choice(self.people)
            plan += trouble(self, person, when, self.random.expovariate(1 / 12.0))
            kinds.append(trouble.__name__)
        start = self.net.now
        for when, action in sorted(plan, key=lambda item: item[0]):
            if start + when > self.net.now:
                self.net.advance(start + when - self.net.now)
            action()
        for person in self.people:
            person.host.up()
            person.start()
        self.net.drop = None
        end = self.net.now + CALM
        while self.net.now < end and not self._settled():
            self.net.advance(1.0)
        outcome = Outcome(self.net.seed, f"loss {self.loss:.0%}, " + ", ".join(kinds))
        for person in self.people:
            self._judge(person, outcome)
        for person in self.people:
            person.stop()
        self.rendezvous.stop()
        return outcome

    def _settled(self) -> bool:
        return all(
            person.peer is not None
            and not person.peer.chat.conversations.undelivered()
            and not person.peer.chat.conversations.unhandled(person.other.id)
            and not person.store.waiting()
            for person in self.people
        )

    def _judge(self, person: Person, outcome: Outcome) -> None:
        sent, heard = person.kept(outgoing=True), person.other.kept(outgoing=False)
        outcome.messages += len(heard)
        texts = [message.text for message in sent]
        if [message.text for message in heard] != texts:
            outcome.wrong.append(f"{person.name} said {len(sent)}, {person.other.name} has {len(heard)}")
        if len(set(texts)) != len(texts) or sorted(texts, key=_number) != texts:
            outcome.wrong.append(f"{person.name}'s own words are out of order")
        if not set(person.safe) <= set(texts):
            outcome.wrong.append(f"{person.name} lost what was safe")
        if any(message.state is not MessageState.DELIVERED for message in sent):
            outcome.wrong.append(f"not all of {person.name} is marked as delivered")
        shown = [text for text, again in person.other.shown if not again]
        if len(set(shown)) != len(shown):
            outcome.wrong.append(f"{person.other.name} was shown something twice, and not told so")
        if {text for text, _ in person.other.shown} != set(texts):
            outcome.wrong.append(f"{person.other.name} was not shown all")


def _number(text: str) -> int:
    return int(text.rstrip("!").split()[1])


# What may happen: plans of when and what

Plan = list[tuple[float, Callable[[], None]]]


def killed(scene: Torture, person: Person, when: float, length: float) -> Plan:
    return [(when, person.kill), (when + length, person.start)]


def killed_at_once_again(scene: Torture, person: Person, when: float, length: float) -> Plan:
    soon = when + 0.5 + length / 10
    return [(when, person.kill), (when + 0.2, person.start), (soon, person.kill), (soon + 1.0, person.start)]


def killed_while_the_disk_works(scene: Torture, person: Person, when: float, length: float) -> Plan:
    def arm() -> None:
        if person.peer is not None:
            person.disk.end_process(scene.random.randint(1, 8), person.kill)

    return [(when - 0.1, arm), (when + length, person.kill), (when + length + 0.5, person.start)]


def both_killed(scene: Torture, person: Person, when: float, length: float) -> Plan:
    other = person.other
    return [
        (when, person.kill),
        (when + 0.01, other.kill),
        (when + length, person.start),
        (when + length * 1.5, other.start),
    ]


def stopped(scene: Torture, person: Person, when: float, length: float) -> Plan:
    return [(when, person.stop), (when + length, person.start)]


def partition(scene: Torture, person: Person, when: float, length: float) -> Plan:
    return [(when, person.host.down), (when + length, person.host.up)]


def rendezvous_restarts(scene: Torture, person: Person, when: float, length: float) -> Plan:
    def restart() -> None:
        scene.rendezvous.stop()
        scene.rendezvous.start()

    return [(when, restart)]


def nat_forgets(scene: Torture, person: Person, when: float, length: float) -> Plan:
    lan = scene.net.lans[f"home {person.name}"]
    assert lan.nat is not None
    return [(when, lan.nat.forget)]


def heavy_loss(scene: Torture, person: Person, when: float, length: float) -> Plan:
    random = Random(f"loss {scene.net.seed} {when}")

    def begin() -> None:
        scene.net.drop = lambda packet: packet.protocol == "udp" and random.random() < 0.5

    def end() -> None:
        scene.net.drop = None

    return [(when, begin), (when + length, end)]


def hung_up(scene: Torture, person: Person, when: float, length: float) -> Plan:
    def hang_up() -> None:
        if person.peer is not None and person.other.id in person.peer.chat.links:
            person.peer.node.hangup(person.other.id)

    return [(when, hang_up)]


TROUBLE: list[Callable[[Torture, Person, float, float], Plan]] = [
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


def run(seed: int) -> Outcome:
    """One story, from beginning to end."""
    return Torture(seed).run()


if __name__ == "__main__":
    wrong = 0
    for seed in sys.argv[1:]:
        outcome = run(int(seed))
        print(outcome, flush=True)
        wrong += bool(outcome.wrong)
    sys.exit(wrong > 0)
