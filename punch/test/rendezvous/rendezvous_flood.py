"""
A rendezvous that is attacked from 60 addresses in every way that its tables know, and honest peers beside:
`test_floods.py`, here and in `tests/`.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from random import Random

from punch.identity import Identity, PeerID
from punch.node.events import (
    Event,
    IncomingCall,
    PathLost,
    Registered,
)
from punch.rendezvous.config import RendezvousLimits
from punch.rendezvous.registry.admission import TURN
from punch.test.internet import NAT, Filtering, Host, Internet, LinkSpec, Packet
from punch.test.rendezvous.control_client import RecordingControlClient, connect_control, connect_raw, key_of
from punch.test.system import SERVICE, Peer, Rendezvous
from punch.wire.control import Accept, Establish, Ping, Register, new_call
from punch.wire.peers.sealed import Envelope, Offer, seal_offer

LIMITS = replace(
    RendezvousLimits(),
    registrations=160,
    registrations_per_address=4,
    introductions=240,
    introductions_per_address=8,
    connections=400,
    connections_per_address=8,
    handshakes=64,
    handshakes_per_address=8,
)
"""Small tables, so that few packets fill them."""
PORT = 7001
DELAY = 0.01

SIXTY = [
    *(f"203.0.113.{number}" for number in range(1, 31)),
    *(f"100.{number}.0.1" for number in range(30)),
]
"""Where the attackers are: half of them in one network, each of the others in its own."""


class Attacker:
    """
    One address: identities that register, call each other and call honest peers, handshakes that are never
    finished, lines without a meaning.
    """

    def __init__(self, flood: Flood, host: Host) -> None:
        self._flood = flood
        self._host = host
        self._random = flood.random
        self._clients: dict[PeerID, RecordingControlClient] = {}
        self._identities: list[Identity] = []

    @property
    def peers(self) -> list[PeerID]:
        """Those of its identities that are registered."""
        return [peer for peer, client in self._clients.items() if client.of("welcome") and not client.ended]

    @property
    def refused(self) -> int:
        """How often it was told no."""
        return sum(len(client.of("error")) + len(client.of("ended")) for client in self._clients.values())

    def connect(self) -> None:
        """Register one identity more, or one anew that was closed."""
        for identity in self._identities:
            if self._clients[identity.peer_id].ended is not None:
                break
        else:
            identity = Identity.generate(
                self._flood.net.random_bytes(f"{self._host.name} {len(self._identities)}")
            )
            self._identities.append(identity)
        client = connect_control(self._host.reactor, SERVICE, PORT, key_of(identity))
        self._clients[identity.peer_id] = client
        self._host.reactor.callLater(5 * DELAY, self._register, client)

    def _register(self, client: RecordingControlClient) -> None:
        if client.transport is not None and client.ended is None:
            client.send(Register("flood", Accept.ANYONE))

    def hold(self) -> None:
        """Begin a handshake, and say no more."""
        client = connect_raw(self._host.reactor, SERVICE, PORT)
        self._host.reactor.callLater(3 * DELAY, self._begin, client)

    def _begin(self, client: RecordingControlClient) -> None:
        if client.transport is not None and client.ended is None:
            client.transport.write(
                b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + self._random.randbytes(50)
            )

    def call(self, callee: PeerID) -> None:
        """Each identity calls, with an offer that is as it must be."""
        for identity in self._identities:
            client = self._clients[identity.peer_id]
            if identity.peer_id != callee and client.of("welcome") and client.ended is None:
                client.send(
                    Establish(new_call(self._random.randbytes), callee, self._offer(identity, callee))
                )

    def _offer(self, identity: Identity, callee: PeerID) -> Envelope:
        if callee not in self._flood.callees:
            return Envelope(callee, bytes(304), bytes(64))
        key = identity.x25519().public_key().public_bytes_raw()
        now = int(1000 * self._host.wall())
        return seal_offer(identity, callee, Offer("flood", "ufrag", "p" * 24, (), key, time=now))

    def chatter(self) -> None:
        """Say something useless, many times."""
        for client in list(self._clients.values())[:1]:
            if client.of("welcome") and client.ended is None:
                client.send(*[Ping()] * 10)


class Flood:
    """
    Attackers that take turns, for as long as it lasts.

    :ivar callees: honest peers that they call.
    :ivar period: seconds from one attacker's turn to the next one's.
    """

    def __init__(self, net: Internet, addresses: Sequence[str], period: float) -> None:
        self.net = net
        self.random = Random(f"flood {net.seed}")
        self.callees: list[PeerID] = []
        self.period = period
        self._over = False
        self.attackers = [
            Attacker(self, net.host(f"attacker-{number}", address, link=LinkSpec(delay=DELAY)))
            for number, address in enumerate(addresses)
        ]

    def start(self, identities: int) -> None:
        """Register so many identities of each, then go on in turns."""
        for number, attacker in enumerate(self.attackers * identities):
            self.net.clock.callLater(number * 0.004, attacker.connect)
        self.net.advance(len(self.attackers) * identities * 0.004 + 1.0)
        self._turn(0)

    def stop(self) -> None:
        """Nothing more."""
        self._over = True

    def _turn(self, number: int) -> None:
        if self._over:
            return
        attacker = self.attackers[number % len(self.attackers)]
        attacker.hold()
        attacker.chatter()
        for callee in self.callees:
            attacker.call(callee)
        other = self.random.choice(self.attackers).peers
        if other:
            attacker.call(self.random.choice(other))
        if number % 4 == 0:
            attacker.connect()
        self.net.clock.callLater(self.period, self._turn, number + 1)


class FloodedRendezvous:
    """
    A rendezvous, a flood, two who are called by everybody, and honest peers that come one after the other.

    Bob is asked about strangers, Carol accepts anyone. Erin calls honest peers as a stranger.

    :ivar times: for each honest peer, the seconds that each thing took.
    """

    def __init__(self, net: Internet, addresses: Sequence[str], *, period: float = 0.02) -> None:
        self.net = net
        self.rendezvous = Rendezvous(net, net.host("rendezvous", SERVICE), LIMITS, relay=False)
        self.bob = self._peer("bob", "192.0.2.1").register()
        self.carol = self._peer("carol", "192.1.2.1", Accept.ANYONE).register()
        self.erin = self._peer("erin", "192.2.2.1").register()
        self.flood = Flood(net, addresses, period)
        self.flood.callees += self.bob.id, self.carol.id
        self._expected: set[PeerID] = set()
        """The strangers whose calls are answered by "y"."""
        self.peers: list[Peer] = []
        self.publics: list[str] = []
        self.dark: set[str] = set()
        self.times: list[dict[str, float]] = []
        net.drop = self._is_lost

    def _peer(self, name: str, public: str, accept: Accept = Accept.ASK) -> Peer:
        number = public.replace(".", "")[-5:]
        nat = NAT(public=public, filtering=Filtering.APDF)
        lan = self.net.lan(
            f"home-{number}", f"10.7.{len(self.net.hosts)}.0/24", nat=nat, link=LinkSpec(delay=DELAY)
        )
        peer = Peer(self.net, lan.host(name), self.rendezvous.address, accept=accept, pacing=0.02)
        peer.on_event = partial(self._answer, peer)
        return peer

    def _answer(self, peer: Peer, event: Event) -> None:
        """The user of a peer answers the call of a stranger that is expected, and lets all others ring."""
        if isinstance(event, IncomingCall) and not event.decided and event.peer in self._expected:
            peer.node.accept(event.peer)

    def _is_lost(self, packet: Packet) -> bool:
        """Whether it is on the direct way of a link that is dark."""
        ends = {packet.source[0], packet.destination[0]}
        return packet.protocol == "udp" and SERVICE not in ends and bool(ends & self.dark)

    def come(self, public: str) -> None:
        """
        An honest peer registers, calls Bob and Carol as a stranger, is called by Erin, who is one, calls Bob
        again, is called by him, and keeps that link. Every other one accepts anyone.
        """
        accept = Accept.ANYONE if len(self.peers) % 2 else Accept.ASK
        alice = self._peer(f"alice-{len(self.peers)}", public, accept)
        self.peers.append(alice)
        self.publics.append(public)
        self._expected.update((alice.id, self.erin.id))
        # So often a turn at Bob is over
        self._slow(TURN / RendezvousLimits().calls_per_callee, 0.2)
        times: dict[str, float] = {}
        self.times.append(times)
        began = self.net.now
        alice.start()
        alice.wait_for(Registered, 10.0)
        times["register"] = self.net.now - began
        for what, caller, callee in (
            ("call a stranger who asks", alice, self.bob),
            ("call a stranger who accepts anyone", alice, self.carol),
            (f"called by a stranger, accepting {accept.value}", self.erin, alice),
            ("call", alice, self.bob),
            ("is called", self.bob, alice),
        ):
            times[what] = self._call(caller, callee)
            if what != "is called":
                caller.node.hangup(callee.id)
                for one, other in ((caller, callee), (callee, caller)):
                    self._wait(lambda: one.node.link(other.id) is None)  # noqa: B023
        self.net.advance(0.2)

    def _call(self, caller: Peer, callee: Peer) -> float:
        """How many seconds it takes until both have a link."""
        began = self.net.now
        caller.call(callee.id)
        for one, other in ((caller, callee), (callee, caller)):
            self._wait(lambda: one.node.link(other.id) is not None)  # noqa: B023
        return self.net.now - began

    def _wait(self, condition: Callable[[], bool]) -> None:
        self.net.run_until(condition, 10.0, "both have the link, or none has")

    def ring(self) -> None:
        """
        The calls of the flood ring at Bob until all networks of the flood have had their turns, so that one
        that has not called before is the next one.
        """
        self._slow(6 * TURN, 0.5)

    def _slow(self, seconds: float, period: float) -> None:
        """Let time pass in which the flood does less."""
        before, self.flood.period = self.flood.period, period
        self.net.advance(seconds)
        self.flood.period = before

    def restart(self) -> None:
        """
        All links lose their paths, until only other credentials bring them back, which need the rendezvous.
        Then one after the other may have a path again.
        """
        self.dark.update(self.publics)
        self._slow(31.0, 1.0)
        self.net.advance(1.0)
        for alice, public, times in zip(self.peers, self.publics, self.times, strict=True):
            self.dark.discard(public)
            began = self.net.now
            assert alice.of(PathLost)
            alice.node.network_changes.network_back()
            self.net.wait(alice.link_to(self.bob).answers(10.0), 11.0, "the link answers")
            times["restart"] = self.net.now - began

    def check(self) -> None:
        """The flood was one, and nobody else noticed it."""
        registry = self.rendezvous.service.registry
        assert sum(attacker.refused for attacker in self.flood.attackers) > 30
        assert registry.introduction_count > 30
        for times in self.times:
            assert len(times) == 7, times
            assert max(times.values()) < 1.0, times

    def stop(self) -> None:
        """End it in good order."""
        self.flood.stop()
        for peer in (*self.peers, self.bob, self.carol, self.erin):
            peer.stop()
        self.rendezvous.stop()
        self.net.advance(60.0)
