"""
What happens to two peers in the middle of a transfer, drawn by seed: NATs flushed, other addresses, other
networks, dead paths, dead relays, sleep. `python -m punch.test.scenarios.roaming SEED…` runs some and prints
a line for each.
"""

from __future__ import annotations

import gc
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from hashlib import sha256
from itertools import pairwise
from random import Random

from twisted.internet.protocol import Factory, Protocol
from twisted.logger import capturedLogs

from punch.link.link import Link
from punch.link.services import anyone
from punch.node.events import (
    Connected,
    Disconnected,
    PathChanged,
    Registered,
)
from punch.node.paths.path import HOLD
from punch.test.internet import NAT, Filtering, Host, Internet, Lan, LinkSpec, Mapping, Packet, Ports
from punch.test.scenarios.nat_pairs import KINDS
from punch.test.system import SERVICE, Peer, Rendezvous, connect
from punch.wire.control import Accept

STREAM = "transfer/1"
CHUNK = 2000
DIRECTIONS = ((120, 120), (0, 120), (120, 0))
"""Chunks that the caller and the callee send."""
PERIOD = 0.1
"""A chunk leaves every so many seconds: slow enough to be in the middle when something happens."""
HOUR = 3600.0
STALL = 5.0
"""Seconds in which a transfer goes on after anything."""


class TransferProtocol(Protocol):
    """Sends chunks for a while, and notes what comes."""

    def __init__(self, net: Internet, random: Random, chunks: int, expected: int) -> None:
        self._net = net
        self._random = random
        self._left = chunks
        self._missing = expected * CHUNK
        self.one_way = expected == 0
        self.sent = sha256()
        self.received = sha256()
        self.arrivals: list[float] = []

    @property
    def finished(self) -> bool:
        """Whether all has arrived."""
        return self._missing == 0

    def connectionMade(self) -> None:
        self._tick()

    def _tick(self) -> None:
        assert self.transport is not None
        if not self._left:
            return
        self._left -= 1
        data = self._random.randbytes(CHUNK)
        self.sent.update(data)
        self.transport.write(data)
        self._net.clock.callLater(PERIOD, self._tick)

    def dataReceived(self, data: bytes) -> None:
        self.received.update(data)
        self._missing -= len(data)
        self.arrivals.append(self._net.now)


@dataclass
class TransferOutcome:
    """How a transfer went. `stall`: seconds from the event to the next bytes, on the slower side."""

    seed: int
    places: str
    event: str
    stall: float = 0.0
    wrong: list[str] = field(default_factory=list)

    def __str__(self) -> str:
        end = "; ".join(self.wrong) or "well"
        return f"{self.seed:5} {self.places:22} {self.event:32} {self.stall:5.2f} s  {end}"


class Scenario:
    """Two homes, a rendezvous with its relay, a link, and a transfer in both directions."""

    def __init__(self, seed: int) -> None:
        self.net = net = Internet(seed)
        net.announce = False
        self.random = Random(f"scenario {seed}")
        self.rendezvous = Rendezvous(net, net.host("rendezvous", SERVICE))
        self._service = Factory.forProtocol(self._transfer)
        self.kinds = [self.random.choice(KINDS), self.random.choice(KINDS)]
        self.lans: list[Lan] = []
        self.peers = [self._peer(name, kind) for name, kind in zip(("alice", "bob"), self.kinds, strict=True)]
        for peer in self.peers:
            peer.wait_for(Registered, 10.0)
        self.transfers: list[TransferProtocol] = []

    def lan(self, kind: str) -> Lan:
        """Another network behind a NAT of a kind."""
        mapping, filtering = kind.split("/")
        number = len(self.lans) + 1
        nat = NAT(
            public=f"203.0.113.{number}",
            mapping=Mapping[mapping],
            filtering=Filtering[filtering],
            ports=self.random.choice(list(Ports)),
        )
        link = LinkSpec(delay=self.random.uniform(0.002, 0.04))
        lan = self.net.lan(f"lan {number}", f"10.0.{number}.0/24", nat=nat, link=link)
        self.lans.append(lan)
        return lan

    def _peer(self, name: str, kind: str) -> Peer:
        host = self.lan(kind).host(name)
        peer = Peer(self.net, host, self.rendezvous.address, accept=Accept.ANYONE)
        peer.node.serve(STREAM, self._service, anyone)
        return peer.start()

    def _transfer(self) -> TransferProtocol:
        random = Random(f"data {self.net.seed} {len(self.transfers)}")
        # Those who only listen have to notice, too
        here, there = DIRECTIONS[self.net.seed // len(EVENTS) % len(DIRECTIONS)]
        if self.transfers:
            here, there = there, here
        transfer = TransferProtocol(self.net, random, here, there)
        self.transfers.append(transfer)
        return transfer

    def run(self, event: Callable[[Scenario], None] | None = None) -> TransferOutcome:
        """Connect, begin to transfer, let something happen (else what the seed says), and see."""
        alice, bob = self.peers
        connect(alice, bob)
        links = alice.link_to(bob), bob.link_to(alice)
        links[0].connect(STREAM, self._service).addErrback(lambda _: None)
        self.net.advance(self.random.uniform(2.0, 5.0))
        event = event or EVENTS[self.net.seed % len(EVENTS)]
        outcome = TransferOutcome(self.net.seed, " - ".join(self.kinds), event.__name__)
        event(self)
        back = self.net.now
        self.net.advance(STALL)
        for transfer in self.transfers:
            if transfer.one_way:
                continue
            after = [time for time in transfer.arrivals if time > back]
            outcome.stall = max(outcome.stall, after[0] - back if after else 99.0)
        self.net.drop = None
        deadline = self.net.now + 60.0
        while self.net.now < deadline and not all(transfer.finished for transfer in self.transfers):
            self.net.advance(0.5)
        self._judge(outcome, links)
        return outcome

    def _judge(self, outcome: TransferOutcome, links: tuple[Link, Link]) -> None:
        alice, bob = self.peers
        one, other = self.transfers
        if outcome.stall > STALL:
            outcome.wrong.append("stalled")
        if not (one.finished and other.finished):
            outcome.wrong.append("never finished")
        elif [one.sent.digest(), other.sent.digest()] != [other.received.digest(), one.received.digest()]:
            outcome.wrong.append("other bytes arrived")
        if (alice.node.link(bob.id), bob.node.link(alice.id)) != links:
            outcome.wrong.append("another link")
        for peer in self.peers:
            if len(peer.of(Connected)) != 1 or peer.of(Disconnected):
                outcome.wrong.append("connected anew")
            told = [time for time, told in peer.events if isinstance(told, PathChanged)]
            if any(later - time < 0.9 * HOLD for time, later in pairwise(told)):
                outcome.wrong.append("told of paths that did not last")

    def stop(self) -> None:
        """End it in good order."""
        for peer in self.peers:
            peer.stop()
        self.rendezvous.stop()
        self.net.advance(60.0)

    @property
    def hosts(self) -> list[Host]:
        """Those of the peers."""
        return [peer.host for peer in self.peers]

    def nat(self, side: int) -> NAT:
        """The NAT that a peer is behind now."""
        lan = self.hosts[side].interfaces[0].network
        assert isinstance(lan, Lan)
        assert lan.nat is not None
        return lan.nat

    def one(self) -> int:
        """One of the two sides."""
        return self.random.randrange(2)


# What may happen


def nat_flushed(scenario: Scenario) -> None:
    scenario.nat(scenario.one()).forget()


def both_nats_flushed(scenario: Scenario) -> None:
    for side in (0, 1):
        scenario.nat(side).forget()


def public_address_changed(scenario: Scenario) -> None:
    scenario.nat(scenario.one()).renumber("203.0.113.101")


def both_public_addresses_changed(scenario: Scenario) -> None:
    for side in (0, 1):
        scenario.nat(side).renumber(f"203.0.113.{101 + side}")


def interface_swapped(scenario: Scenario) -> None:
    scenario.hosts[scenario.one()].move(scenario.lan(scenario.random.choice(KINDS)))


def both_moved(scenario: Scenario) -> None:
    for host in scenario.hosts:
        host.move(scenario.lan(scenario.random.choice(KINDS)))


def both_moved_to_one_network(scenario: Scenario) -> None:
    lan = scenario.lan(scenario.random.choice(KINDS))
    for host in scenario.hosts:
        host.move(lan)


def one_moved_while_the_other_was_flushed(scenario: Scenario) -> None:
    scenario.hosts[0].move(scenario.lan(scenario.random.choice(KINDS)))
    scenario.nat(1).forget()


def direct_path_blackholed(scenario: Scenario) -> None:
    scenario.net.drop = lambda packet: packet.protocol == "udp" and not _to_service(packet)


def relay_restarted(scenario: Scenario) -> None:
    scenario.rendezvous.stop()
    scenario.rendezvous.start()


def dark_for_a_while(scenario: Scenario) -> None:
    host = scenario.hosts[scenario.one()]
    host.down()
    scenario.net.advance(scenario.random.uniform(5.0, 60.0))
    host.up()


def slept(scenario: Scenario) -> None:
    side = scenario.one()
    seconds = scenario.random.uniform(6.0, 100.0)
    scenario.hosts[side].sleep(seconds)
    scenario.net.advance(seconds / 2)
    scenario.nat(side).forget()
    scenario.net.advance(seconds / 2)


def _both_dark(scenario: Scenario, seconds: float) -> None:
    for host in scenario.hosts:
        host.down()
    scenario.net.advance(seconds)
    for side, host in enumerate(scenario.hosts):
        scenario.nat(side).forget()
        host.up()


def _slept(scenario: Scenario, seconds: float) -> None:
    scenario.hosts[0].sleep(seconds)
    scenario.net.advance(seconds)


def both_dark_for_an_hour(scenario: Scenario) -> None:
    _both_dark(scenario, HOUR)


def both_dark_for_twelve_hours(scenario: Scenario) -> None:
    _both_dark(scenario, 12 * HOUR)


def slept_for_an_hour(scenario: Scenario) -> None:
    _slept(scenario, HOUR)


def slept_for_twelve_hours(scenario: Scenario) -> None:
    _slept(scenario, 12 * HOUR)


EVENTS: Sequence[Callable[[Scenario], None]] = (
    nat_flushed,
    both_nats_flushed,
    public_address_changed,
    both_public_addresses_changed,
    interface_swapped,
    both_moved,
    both_moved_to_one_network,
    one_moved_while_the_other_was_flushed,
    direct_path_blackholed,
    relay_restarted,
    dark_for_a_while,
    slept,
)


def _to_service(packet: Packet) -> bool:
    return SERVICE in (packet.source[0], packet.destination[0])


def run(seed: int, event: Callable[[Scenario], None] | None = None) -> TransferOutcome:
    """One scenario, from beginning to end."""
    with capturedLogs() as logged:
        scenario = Scenario(seed)
        outcome = scenario.run(event)
        scenario.stop()
        gc.collect()  # Failures that nobody takes are told when they are collected
    outcome.wrong += [f"logged {entry['log_failure'].value!r}" for entry in logged if "log_failure" in entry]
    return outcome


if __name__ == "__main__":
    outcomes = [run(int(seed)) for seed in sys.argv[1:]]
    print("\n".join(map(str, outcomes)))
    sys.exit(any(outcome.wrong for outcome in outcomes))
