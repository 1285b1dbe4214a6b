"""
The whole system on the simulated internet: a rendezvous, peers, and an application that notes what it is
told.

Nothing under `punch` is patched here: services and nodes get a host's reactor, the simulation's time and its
seeded randomness, as every part takes them.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypeVar

from punch.apps.chat import Chat, MessageState
from punch.apps.chat.events import Event as ChatEvent
from punch.apps.chat.events import MessageAdded, MessageChanged
from punch.apps.chat.storage import ImmediateWorker, Worker
from punch.apps.chat.store import Store
from punch.contacts import AddressBook
from punch.identity import Identity, PeerID
from punch.link.core import LinkCore
from punch.link.link import Link
from punch.net.udp.socket_set import OpenSocket
from punch.net.udp.sockets import open_socket as open_best_socket
from punch.net.upnp import Upnp
from punch.node.calls.offer_freshness import OfferMemory
from punch.node.events import (
    CallFailed,
    Connected,
    Disconnected,
    Event,
    IncomingCall,
    Registered,
)
from punch.node.node import Node
from punch.node.policies import RelayPolicy, SprayPolicy
from punch.rendezvous.config import RendezvousConfig, RendezvousLimits
from punch.rendezvous.members.membership import Membership
from punch.rendezvous.service import RendezvousService
from punch.test.internet import NAT, Filtering, Host, Internet, InternetTestCase, LinkSpec
from punch.wire.control import Accept
from punch.wire.proxy import ProxySettings
from punch.wire.rendezvous_address import RendezvousAddress
from punch.wire.turn import TurnURI

E = TypeVar("E", bound=Event)

SERVICE = "198.51.100.1"

EPOCH = 1_700_000_000.0
"""What the clocks of all machines say when a simulation begins, in seconds since 1970."""


class Rendezvous:
    """A rendezvous on a simulated host, that can be stopped and started again with the same key."""

    def __init__(
        self,
        net: Internet,
        host: Host,
        limits: RendezvousLimits | None = None,
        *,
        control: str | None = "tcp:7001",
        name: str = SERVICE,
        relay: bool = True,
        turn: Sequence[str] = (),
        turn_secret: bytes | None = None,
        membership: Membership | None = None,
    ) -> None:
        self.net = net
        self.host = host
        self.reports: list[tuple[str, dict[str, object]]] = []
        self.identity = Identity.generate(net.random_bytes("rendezvous key"))
        self._limits = limits or RendezvousLimits()
        self._control = control
        self._name = name
        self._relay = relay
        self._turn = tuple(TurnURI.parse(text) for text in turn)
        self._turn_secret = turn_secret
        self._membership = membership
        self._starts = 0
        self.service = self.start()

    def start(self) -> RendezvousService:
        """Start it, anew after `stop`."""
        self._starts += 1
        config = RendezvousConfig(
            identity=self.identity,
            control=self._control,
            host=self._name,
            limits=self._limits,
            relay=self._relay,
            turn=self._turn,
            turn_secret=self._turn_secret,
        )
        self.service = RendezvousService(
            config,
            reactor=self.host.reactor,
            monotonic=self.net.monotonic,
            random=self.net.random_bytes(f"rendezvous {self._starts}"),
            report=self._report,
            wall=lambda: EPOCH + self.host.wall(),
            membership=self._membership,
        )
        self.service.startService()
        self.net.run_until(lambda: self.service.address is not None, 1.0, "the rendezvous listens")
        return self.service

    def stop(self) -> None:
        """Stop it in good order."""
        self.net.wait(self.service.stopService(), self._limits.stop_time + 5.0, "the rendezvous stops")

    @property
    def address(self) -> RendezvousAddress:
        """What it prints when it starts."""
        assert self.service.address is not None
        return self.service.address

    def _report(self, event: str, **fields: object) -> None:
        self.reports.append((event, fields))


Hears = Callable[[Link, int, bytes], bool]
"""Whether a node is given a control frame that has arrived: its link, type and payload."""


def hear_all(link: Link, frame_type: int, payload: bytes) -> bool:
    """Give the node every frame."""
    return True


def hear_nothing(link: Link, frame_type: int, payload: bytes) -> bool:
    """Give the node no frame, as if it were of a release that knows none of them."""
    return False


class Peer:
    """
    A node on a simulated host with a chat on it.

    :ivar events: all that the node told, with the time of each.
    :ivar messages: what the chat received: sender and text, in order.
    :ivar delivered: when each of our messages got its mark: peer and number.
    """

    def __init__(
        self,
        net: Internet,
        host: Host,
        rendezvous: RendezvousAddress,
        *,
        name: str | None = None,
        accept: Accept = Accept.ASK,
        identity: Identity | None = None,
        known: AddressBook | None = None,
        pacing: float = 0.05,
        addresses: Callable[[], list[str]] | None = None,
        own_addresses: Callable[[], list[str]] | None = None,
        relay: RelayPolicy = RelayPolicy.AUTO,
        spray: SprayPolicy = SprayPolicy.AUTO,
        descriptors: Callable[[], int] = lambda: 1024,
        salt: str = "",
        worker: Worker | None = None,
        wall: Callable[[], float] | None = None,
        offers: OfferMemory | None = None,
        gateways: Callable[[], Mapping[str, str]] | None = None,
        upnp: Upnp | None = None,
        proxy: ProxySettings | None = None,
        member: Identity | None = None,
        open_socket: OpenSocket = open_best_socket,
    ) -> None:
        self.net = net
        self.host = host
        self.name = name or host.name
        random = net.random_bytes(f"peer {host.name} {salt}")
        self.identity = identity or Identity.generate(net.random_bytes(f"key {host.name}"))
        self.known = AddressBook(None) if known is None else known
        self.events: list[tuple[float, Event]] = []
        self._told = 0
        self.messages: list[tuple[PeerID, str]] = []
        self.message_times: list[float] = []
        self.delivered: list[tuple[float, PeerID, int]] = []
        self.on_event: Callable[[Event], None] | None = None
        self.on_connected: Callable[[Connected], None] | None = None
        self.hears: Hears = hear_all
        """Decides which received control frames are passed to the node."""
        self.make_link: Callable[..., Link] = Link
        """Called with the arguments of `Link` to make each link."""
        self.node = Node(
            reactor=host.reactor,
            identity=self.identity,
            name=self.name,
            accept=accept,
            known=self.known,
            rendezvous=rendezvous,
            addresses=addresses or (lambda: host.addresses),
            own_addresses=own_addresses or (lambda: host.addresses),
            random=random,
            monotonic=host.monotonic,
            wall=wall or host.wall,
            offers=offers,
            waiting=lambda: self.chat.calls.await_rendezvous,
            pacing=pacing,
            relay=relay,
            spray=spray,
            descriptors=descriptors,
            gateways=gateways,
            upnp=upnp,
            proxy=proxy,
            member=member,
            open_socket=open_socket,
            make_link=self._make_link,
        )
        self.chat = Chat(
            me=self.id,
            name=self.name,
            node=self.node,
            book=self.known,
            worker=worker or ImmediateWorker(Store(None)),
            clock=host.reactor,
            wall=lambda: EPOCH + host.wall(),
            random=net.random_bytes(f"chat {host.name} {salt}"),
        )
        self.node.subscribe(self._event, lambda: self.chat.views.can_answer)
        self.chat.views.attach(self)

    @property
    def id(self) -> PeerID:
        """Its peer ID."""
        return self.identity.peer_id

    def start(self) -> Peer:
        """Start it, without waiting for the registration."""
        self.chat.start()
        self.node.startService()
        return self

    def register(self) -> Peer:
        """Start it, and wait until it is registered."""
        self.start()
        self.wait_for(Registered, 5.0)
        return self

    def call(self, peer: PeerID) -> None:
        """Call a peer; events tell what becomes of it."""
        self.node.connect(peer).addErrback(lambda failure: failure.trap(CallFailed) and None)

    def stop(self) -> None:
        """Stop it in good order."""
        self.net.wait(self.node.stopService(), 3.0, f"{self.name} stops")
        self.net.wait(self.chat.stop(), 1.0, f"the chat of {self.name} stops")

    def of(self, kind: type[E]) -> list[E]:
        """All events of one kind so far."""
        return [event for _, event in self.events if isinstance(event, kind)]

    def last(self, kind: type[E]) -> E:
        """The newest event of one kind."""
        return self.of(kind)[-1]

    def wait_for(self, kind: type[E], timeout: float, count: int = 1) -> E:
        """Let time pass until there were so many events of one kind; returns the last."""
        what = f"{self.name}: {kind.__name__}"
        self._run_until(lambda: len(self.of(kind)) >= count, timeout, what)
        return self.last(kind)

    def wait_for_end(self, timeout: float) -> Connected | CallFailed:
        """Let time pass until a call came to something or nothing."""
        ends: list[Connected | CallFailed] = []

        def ended() -> bool:
            ends[:] = [*self.of(Connected), *self.of(CallFailed)]
            return bool(ends)

        self._run_until(ended, timeout, f"{self.name}: an end")
        return ends[0]

    def _run_until(self, condition: Callable[[], bool], timeout: float, what: str) -> None:
        """Let time pass until a condition on the events holds; it is looked at when there is a new one."""
        looked_at = -1

        def holds() -> bool:
            nonlocal looked_at
            if looked_at == self._told:
                return False
            looked_at = self._told
            return condition()

        self.net.run_until(holds, timeout, what)

    def link_to(self, other: Peer) -> Link:
        """The live link."""
        link = self.node.link(other.id)
        assert link is not None
        return link

    def texts(self) -> list[str]:
        """What was received."""
        return [text for _, text in self.messages]

    def _make_link(self, core: LinkCore, *, on_control: Callable[[int, bytes], object], **parts: Any) -> Link:
        def received(frame_type: int, payload: bytes) -> None:
            if self.hears(link, frame_type, payload):
                on_control(frame_type, payload)

        link = self.make_link(core, on_control=received, **parts)
        return link

    def _event(self, event: Event) -> None:
        self._told += 1
        self.events.append((self.net.now, event))
        self.chat.handle(event)
        if isinstance(event, Connected) and self.on_connected is not None:
            self.on_connected(event)
        if self.on_event is not None:
            self.on_event(event)

    # What a view of the chat does

    can_answer = True

    def handle(self, event: ChatEvent) -> None:
        """The chat tells something."""
        if isinstance(event, MessageAdded) and not event.message.outgoing:
            self.messages.append((event.message.peer, event.message.text))
            self.message_times.append(self.net.now)
        elif isinstance(event, MessageChanged) and event.message.state is MessageState.DELIVERED:
            self.delivered.append((self.net.now, event.message.peer, event.message.id))


def introduce(caller: Peer, callee: Peer) -> None:
    """Make the caller somebody that the callee has accepted before."""
    callee.known.add(caller.id, caller.name)


def connect(caller: Peer, callee: Peer, timeout: float = 30.0) -> tuple[Connected, Connected]:
    """Call a peer that knows the caller, and wait for the link on both sides."""
    introduce(caller, callee)
    before = len(caller.of(Connected)), len(callee.of(Connected))
    caller.call(callee.id)
    here = caller.wait_for(Connected, timeout, before[0] + 1)
    there = callee.wait_for(Connected, timeout, before[1] + 1)
    return here, there


class SystemTestCase(InternetTestCase):
    """A test with a rendezvous, and peers behind NATs of their own."""

    link = LinkSpec(delay=0.05)
    limits = RendezvousLimits()

    def setUp(self) -> None:
        self.net: Internet = self.internet()
        self.rendezvous = Rendezvous(self.net, self.net.host("rendezvous", SERVICE), self.limits)
        self.homes = 0
        self.peers: list[Peer] = []

    def tearDown(self) -> None:
        """Check that every peer stops in time and leaves no timer or socket behind."""
        for peer in self.peers:
            if peer.node.running:
                peer.stop()
        self.rendezvous.stop()
        self.net.advance(60.0)
        for host in self.net.hosts.values():
            self.assertEqual(host.reactor.getDelayedCalls(), [], host.name)

    def host(self, name: str, link: LinkSpec | None = None) -> Host:
        """A host alone behind its own NAT."""
        self.homes += 1
        nat = NAT(public=f"203.0.113.{self.homes}", filtering=Filtering.APDF)
        lan = self.net.lan(f"home-{name}", f"192.168.{self.homes}.0/24", nat=nat, link=link or self.link)
        return lan.host(name)

    def peer(self, name: str, accept: Accept = Accept.ASK, **options: object) -> Peer:
        """A peer that is not started, alone behind its own NAT."""
        peer = Peer(self.net, self.host(name), self.rendezvous.address, accept=accept, pacing=0.02)
        self.peers.append(peer)
        return peer

    def public(self, name: str) -> Peer:
        """A peer that is not started, on a host that everybody reaches."""
        host = self.net.host(name, "198.51.100.88", link=self.link)
        peer = Peer(self.net, host, self.rendezvous.address, pacing=0.02)
        self.peers.append(peer)
        return peer

    def pair(self) -> tuple[Peer, Peer]:
        """Two registered peers."""
        return self.peer("alice").register(), self.peer("bob").register()

    def linked(self) -> tuple[Peer, Peer]:
        """Two peers with a link, called by the first."""
        alice, bob = self.pair()
        connect(alice, bob)
        return alice, bob

    def reborn(self, peer: Peer, accept: Accept = Accept.ASK) -> Peer:
        """Kill a peer, and register the same identity on another host, without the state of its links."""
        peer.host.kill()
        self.net.advance(1.0)
        again = Peer(
            self.net,
            self.host(f"{peer.name}-2"),
            self.rendezvous.address,
            name=peer.name,
            identity=peer.identity,
            accept=accept,
            salt="again",
            pacing=0.02,
        )
        self.peers.remove(peer)
        self.peers.append(again)
        return again.register()

    def kinds(self, peer: Peer) -> list[type[Event]]:
        """The types of the events that a peer has had, in order."""
        return [type(event) for _, event in peer.events]


__all__ = [
    "SERVICE",
    "CallFailed",
    "Connected",
    "Disconnected",
    "IncomingCall",
    "Peer",
    "Registered",
    "Rendezvous",
    "SystemTestCase",
    "connect",
    "introduce",
]


class DualStackTestCase(SystemTestCase):
    """
    A test with a second rendezvous, which has both address families and one name.

    :ivar dual: this rendezvous.
    """

    def setUp(self) -> None:
        super().setUp()
        self.net.dns["meet.example"] = ["198.51.100.2", "2001:db8:ffff::1"]
        host = self.net.host("dual", "198.51.100.2", "2001:db8:ffff::1")
        self.dual = Rendezvous(self.net, host, control=None, name="meet.example")

    def tearDown(self) -> None:
        """Stop the second service, too."""
        for peer in self.peers:
            peer.stop()
        self.dual.stop()
        super().tearDown()
