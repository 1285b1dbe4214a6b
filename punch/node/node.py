"""
A peer on the network: registered with one rendezvous, with any number of calls and links.

`Node` is what front ends talk to: it joins calls of ours (`OutgoingCalls`), calls of others (`IncomingCalls`)
and their links (`Calls`) with the rendezvous and the network, and reports what happens as events. A call is a
`Call`; its link outlives the rendezvous.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING, Any

from cryptography import x509
from twisted.application.service import Service
from twisted.internet.defer import Deferred, DeferredList, fail, succeed
from twisted.internet.interfaces import IProtocolFactory, IStreamClientEndpoint
from zope.interface import implementer

from punch.contacts import AddressBook, AddressBookError
from punch.ice.budget import Budgets
from punch.identity import Identity, PeerID, RandomBytes
from punch.link.events import CloseCode
from punch.net.interfaces import all_addresses, local_addresses
from punch.net.srv import LookUpService
from punch.net.udp.socket_set import OpenSocket
from punch.net.udp.sockets import free_descriptors
from punch.net.udp.sockets import open_socket as open_best_socket
from punch.net.upnp import Upnp
from punch.node.calls.call_context import CallContext, SignalingChannel
from punch.node.calls.calls import Calls, IncomingCalls, OutgoingCalls
from punch.node.calls.offer_freshness import OfferMemory, OfferTimes
from punch.node.calls.prekeys import Prekeys, PrekeyStorage
from punch.node.causes import ControlProblem, SimpleCause
from punch.node.control.client import ControlClient
from punch.node.events import (
    AlreadyConnected,
    CallFailed,
    Calling,
    CallState,
    Event,
    IncomingCall,
    PeerReturned,
    Ready,
    Registered,
    Unregistered,
)
from punch.node.interfaces import INode
from punch.node.listeners import Listeners, Waiters
from punch.node.network.network import Network, NetworkChanges
from punch.node.network.port_mappings import Gateways
from punch.node.paths.path_memory import PathMemory
from punch.node.policies import RelayPolicy, SprayPolicy
from punch.wire.control import (
    Accept,
    Answered,
    Candidates,
    Ended,
    Error,
    Incoming,
    Prekey,
    Register,
    Relays,
    Reply,
    Returned,
    Welcome,
)
from punch.wire.proxy import ProxySettings
from punch.wire.rendezvous_address import RendezvousAddress, invitation_in

if TYPE_CHECKING:
    from punch.ice.checklist import PairStatus
    from punch.link.link import Link
    from punch.link.services import Authorize
    from punch.natcheck.report import NetcheckReport
    from punch.node.calls.call import Call
    from punch.node.status import NodeStatus

STOP_TIME = 1.2
"""Seconds that closing the links in good order may take."""


@implementer(INode)
class Node(Service):
    """
    The peer as a service; see `punch.node.events` for what it tells those who `subscribe`.

    :param identity: None: a new one, for as long as the process runs.
    :param name: what other peers see.
    :param accept: who may call besides known peers.
    :param known: peers that were called or accepted before, and blocked ones; grows with each call. None: a
        new address book in memory.
    :param offers: tells offers from copies of old ones; None: callers whose offers are older than this node
        are asked.
    :param addresses: returns the local addresses to use; called for every call.
    :param own_addresses: returns all addresses of this machine, to none of which a peer can have it connect.
    :param source: returns from which of `addresses` an IP address is reached, None if that is not known. The
        local address of the control connection is known without it.
    :param gateways: returns the router of each of our addresses, which is asked for a port that leads to
        this node (`punch.net.interfaces.gateways_of_machine`); None: none is asked.
    :param upnp: asks these routers by UPnP, too (`punch.net.upnp.upnp_of_machine`); None: no UPnP is used.
    :param wall: returns seconds since 1970, to notice sleep, and for the times of offers and links. All
        intervals are measured with `monotonic`, and `reactor` counts the same (`punch.net.reactor`).
    :param pacing: ICE's Ta that we signal, in seconds.
    :param relay: whether links may be relayed.
    :param spray: whether many packets may be sent to guessed ports of a peer (`punch.ice.punching.spraying`).
    :param descriptors: returns how many more sockets this process may open.
    :param roots: certificate authorities for a rendezvous address without a pin; None: the platform's.
    :param proxy: the proxy through which the rendezvous and relays are reached over TCP, if there is one.
    :param waiting: returns whether messages wait for the rendezvous, beside the calls that this node has.
    :param member: vouches for `identity` where only members of the rendezvous may register, or may use its
        relay; None: nobody.
    :param prekeys: keeps the prekeys of known peers; None: they are forgotten with the process.
    :param make_link: makes the link of each call, from what `Link` is made from; None: `Link`.
    :param sentence: returns what the log says of an error of the address book (`punch.sentences`).
    :param control_endpoint: another way to the rendezvous than TCP to its address, below TLS.
    :ivar identity: the key of this node.
    :ivar network_changes: is told when the network of this machine changes.
    """

    def __init__(
        self,
        *,
        reactor: Any,
        rendezvous: RendezvousAddress | Sequence[RendezvousAddress],
        accept: Accept,
        identity: Identity | None = None,
        name: str = "punch",
        known: AddressBook | None = None,
        addresses: Callable[[], list[str]] = local_addresses,
        own_addresses: Callable[[], list[str]] = all_addresses,
        source: Callable[[str], str | None] | None = None,
        gateways: Gateways | None = None,
        upnp: Upnp | None = None,
        open_socket: OpenSocket = open_best_socket,
        random: RandomBytes = os.urandom,
        monotonic: Callable[[], float] = time.monotonic,
        wall: Callable[[], float] = time.time,
        offers: OfferMemory | None = None,
        pacing: float = 0.05,
        relay: RelayPolicy = RelayPolicy.AUTO,
        spray: SprayPolicy = SprayPolicy.AUTO,
        descriptors: Callable[[], int] = free_descriptors,
        roots: Sequence[x509.Certificate] | None = None,
        control_endpoint: IStreamClientEndpoint | None = None,
        proxy: ProxySettings | None = None,
        waiting: Callable[[], bool] = lambda: False,
        look_up_service: LookUpService | None = None,
        prekeys: PrekeyStorage | None = None,
        member: Identity | None = None,
        make_link: Callable[..., Link] | None = None,
        sentence: Callable[[AddressBookError], str] = str,
    ) -> None:
        self.identity = identity = Identity.generate() if identity is None else identity
        self._known = known = AddressBook(None) if known is None else known
        own_prekeys = Prekeys(identity, prekeys)
        self._listeners = Listeners(self.reject_unanswerable)
        self._waiters = Waiters(self.link, self._is_calling)
        self._clock = reactor
        self._addresses = addresses
        self._open_socket = open_socket
        self._source = source
        self._gateways = gateways
        self._upnp = upnp
        self._roots = roots
        self._member = identity if member is None else member
        self._control = ControlClient(
            reactor=reactor,
            address=rendezvous,
            identity=identity,
            register=Register(name, accept, invitation_in(rendezvous), own_prekeys.own),
            handler=self,
            random=random,
            roots=roots,
            endpoint=control_endpoint,
            proxy=proxy,
            waiting=lambda: self._outgoing.interrupted or waiting(),
            look_up_service=look_up_service,
            member=member,
            for_relays=relay is not RelayPolicy.NEVER,
        )
        self._calls = Calls(
            known,
            tell=self._tell,
            retry=lambda peer, cause: self._outgoing.retry(peer, cause),
            path_silent=lambda: self.network_changes.check_control(),
            disconnected_changed=self._watch_for_return,
            sentence=sentence,
        )
        self.network_changes = NetworkChanges(self._calls, self._control)
        self._network = Network(
            reactor,
            self.network_changes,
            addresses=addresses,
            own_addresses=own_addresses,
            open_socket=open_socket,
            random=random,
            monotonic=monotonic,
            wall=wall,
            pacing=pacing,
            relay_policy=relay,
            rendezvous=self._control.address.host,
            roots=roots,
            proxy=proxy,
            source=lambda remote: self._control.local_host_for(remote) or (source and source(remote)),
            gateways=gateways,
            upnp=upnp,
        )
        self._name = name
        self._channel = SignalingChannel(self._control.send, lambda: self._control.registered, monotonic)
        self._context = CallContext(
            calls=self._calls,
            identity=identity,
            name=lambda: self._name,
            clock=reactor,
            monotonic=monotonic,
            wall=wall,
            random=random,
            pacing=pacing,
            network=self._network,
            relay_policy=relay,
            channel=self._channel,
            offer_times=OfferTimes(wall),
            paths=PathMemory(known, lambda: self._network.key, wall, sentence),
            budgets=Budgets(lambda peer: peer in known and not known.blocked(peer)),
            prekeys=own_prekeys,
            spray_policy=spray,
            descriptors=descriptors,
            make_link=make_link,
        )
        self._outgoing = OutgoingCalls(self._context, self._calls)
        self._incoming = IncomingCalls(
            self._context,
            self._calls,
            self._outgoing,
            accept,
            known,
            offers or OfferMemory.in_memory(random, wall()),
            self._tell,
        )
        self._registration: Registered | Unregistered | None = None
        self._stopping = False

    # What the user and applications do

    def startService(self) -> None:
        """Register, and take calls."""
        super().startService()  # type: ignore[no-untyped-call]
        self._tell(Ready(self.identity.peer_id))
        self._control.start()
        self._network.start()

    def stopService(self) -> Deferred[None]:
        """
        Say goodbye on every link and to the rendezvous, then close the sockets.

        :return: fires when all is closed, within about a second; two, if a router takes a port back by UPnP.
        """
        super().stopService()  # type: ignore[no-untyped-call]
        self._stopping = True
        self._network.stop()
        self._outgoing.stop()
        self._waiters.stop()
        for call in list(self._calls.attempts.values()):
            self._calls.withdraw(call)
        closing: list[Deferred[Any]] = [link.when_closed() for link in self.links()]
        for call in list(self._calls.links.values()):
            call.hang_up(CloseCode.SHUTDOWN)
        closing.append(self._control.stop())
        done: Deferred[Any] = DeferredList(closing, consumeErrors=True)
        done.addTimeout(STOP_TIME, self._clock, onTimeoutCancel=lambda result, timeout: None)
        return done.addCallback(lambda _: self._close_network())

    def _close_network(self) -> Deferred[None]:
        closed = self._network.close()
        return closed.addTimeout(STOP_TIME, self._clock, onTimeoutCancel=lambda result, timeout: None)

    def when_registered(self) -> Deferred[None]:
        """Implement `INode.when_registered`."""
        if self._stopping:
            return fail(CallFailed(None, SimpleCause.STOPPED))
        if self._control.registered:
            return succeed(None)
        if self._outgoing.final is not None:
            return fail(CallFailed(None, self._outgoing.final))
        return self._waiters.wait_for_registration()

    def registration(self) -> Registered | Unregistered | None:
        """Implement `INode.registration`."""
        return self._registration

    def was_registered(self) -> bool:
        """Implement `INode.was_registered`."""
        return self._control.was_registered

    def subscribe(
        self, listener: Callable[[Event], object], can_answer: Callable[[], bool] = lambda: False
    ) -> Callable[[], None]:
        """Implement `INode.subscribe`."""
        return self._listeners.add(listener, can_answer)

    def connect(self, peer: PeerID) -> Deferred[Link]:
        """Implement `INode.connect`."""
        if self._stopping:
            return fail(CallFailed(peer, SimpleCause.STOPPED))
        waiter = self._waiters.wait_for_link(peer)
        if peer == self.identity.peer_id:
            self._tell(CallFailed(peer, SimpleCause.OWN_ID))
        elif peer in self._calls.attempts:
            self.accept(peer)
        elif peer in self._calls.links:
            self._calls.links[peer].ask(self._asked)
        elif peer not in self._outgoing:
            self._call(peer)
        return waiter

    def accept(self, peer: PeerID) -> None:
        """Implement `INode.accept`."""
        call = self._calls.attempts.get(peer)
        if call is None or call.state is not CallState.RINGING:
            return
        self._calls.remember(peer, call.name or "")
        self._incoming.accept(call)

    def reject_unanswerable(self) -> None:
        """Implement `INode.reject_unanswerable`."""
        if not self._listeners.can_answer:
            self._incoming.decide_unanswered()

    def reject(self, peer: PeerID) -> None:
        """Implement `INode.reject`."""
        self._incoming.reject(peer)

    def hangup(self, peer: PeerID) -> None:
        """Implement `INode.hangup`."""
        if self._outgoing.withdraw(peer):
            self._calls.failed(peer, SimpleCause.GIVEN_UP)
        for calls in (self._calls.attempts, self._calls.links):
            call = calls.get(peer)
            if call is not None:
                call.hang_up()

    def rename(self, name: str) -> None:
        """Implement `INode.rename`."""
        self._name = name
        self._control.register = replace(self._control.register, name=name)

    def netcheck(self) -> Deferred[NetcheckReport]:
        """Implement `INode.netcheck`."""
        # Few nodes are asked for it, and each start would pay for it.
        from punch.node.netcheck import NetcheckRun

        run = NetcheckRun(
            reactor=self._clock,
            rendezvous=self._control.address,
            addresses=self._addresses,
            source=self._source,
            open_socket=self._open_socket,
            random=self._context.random,
            monotonic=self._context.monotonic,
            roots=self._roots,
            gateways=self._gateways,
            upnp=self._upnp,
            proxy=self._control.proxy,
            # A run has a key of its own, which the rendezvous has not admitted.
            member=self._member,
            relay=self._context.relay_policy,
            spray=self._context.spray_policy,
        )
        return run.start()

    def link(self, peer: PeerID) -> Link | None:
        """Implement `INode.link`."""
        call = self._calls.links.get(peer)
        return None if call is None else call.link

    def links(self) -> list[Link]:
        """Implement `INode.links`."""
        return [call.link for call in self._calls.links.values() if call.link is not None]

    def calls(self) -> dict[PeerID, CallState]:
        """Implement `INode.calls`."""
        waiting = dict.fromkeys(self._outgoing.waiting, CallState.CALLING)
        return waiting | {peer: call.state for peer, call in self._calls.attempts.items()}

    def pairs(self, peer: PeerID) -> list[PairStatus]:
        """Return the candidate pairs of the call with a peer, or else of the link, as they are now."""
        call = self._calls.attempts.get(peer) or self._calls.links.get(peer)
        return [] if call is None else call.pairs

    @property
    def status(self) -> NodeStatus:
        """The sockets, relays and table sizes as they are now."""
        # Imported here because few nodes are asked for their status, and the import takes time at each start
        from punch.node.status import node_status

        rendezvous = str(self._control.address) if self._control.registered else None
        services = self._context.services
        return node_status(
            self._network, self._channel, self._calls, services, rendezvous, self._control.post_quantum
        )

    def serve(
        self,
        service: str,
        factory: IProtocolFactory,
        authorize: Authorize | None = None,
        *,
        takes_calls: bool = False,
    ) -> Callable[[], None]:
        """Implement `INode.serve`."""
        if authorize is None:
            authorize = partial(self._known.granted, service=service)
        return self._context.services.serve(service, factory, authorize, takes_calls=takes_calls)

    # Calls of the control connection (ControlHandler)

    def control_welcome(self, welcome: Welcome, host: str) -> None:
        """The node is registered: place the calls that waited, and look for paths."""
        self._network.welcomed(welcome, host, self._control.address.port)
        self._watch_for_return()
        self._registration = Registered(str(self._control.address))
        self._tell(self._registration)
        self._channel.connected()
        self._outgoing.registered()
        for call in list(self._calls.links.values()):
            call.network_back()

    def control_lost(self, problem: ControlProblem, retry_in: float | None) -> None:
        """The node is not registered any more: place calls of ours anew that were not answered yet."""
        self._registration = Unregistered(problem, retry_in)
        self._tell(self._registration)
        self._outgoing.unregistered(problem)
        self._watch_for_return()
        if retry_in is None:
            self._tell(CallFailed(None, problem))
            self._outgoing.give_up(problem)

    def control_reply(self, reply: Reply) -> None:
        """Hand on a message about a call, a peer or the relays. One that belongs to no call is dropped."""
        if isinstance(reply, Incoming):
            self._incoming.receive(reply)
        elif isinstance(reply, Relays):
            self._network.offered(reply.relays)
        elif isinstance(reply, Prekey):
            self._context.prekeys.told(reply.sender, reply.prekey, keep=reply.sender in self._known)
        elif isinstance(reply, Returned):
            self._outgoing.returned(reply.sender)
            self._tell(PeerReturned(reply.sender))
        elif isinstance(reply, (Answered, Candidates, Ended, Error)):
            self._channel.receive(reply)

    # Internals

    def _tell(self, event: Event) -> None:
        self._listeners.tell(event)
        if not (isinstance(event, IncomingCall) and event.decided):
            # A call that is decided is accepted right after this event, and told of then
            self._listeners.check_left()
        if isinstance(event, IncomingCall) and not event.decided:
            self.reject_unanswerable()
        self._waiters.handle(event)

    def _is_calling(self, peer: PeerID) -> bool:
        return peer in self._calls.attempts or peer in self._outgoing

    def _call(self, peer: PeerID) -> None:
        refusal = self._outgoing.refusal()
        if refusal is not None:
            self._calls.failed(peer, refusal)
            return
        if peer not in self._known:
            self._calls.remember(peer, "")
        self._tell(Calling(peer))
        self._outgoing.place(peer)

    def _asked(self, call: Call, answered: bool) -> None:
        """Take the answer of `Call.ask`. The link may be over or replaced by now."""
        peer = call.peer
        if not self.running or self._is_calling(peer):
            return
        if answered or self._calls.links.get(peer, call) is not call:
            self._tell(AlreadyConnected(peer))
        else:
            self._call(peer)

    def _watch_for_return(self) -> None:
        """
        While a link has no path, ask reflectors, the rendezvous and relays often. Relays are asked only
        if the node is registered: otherwise they are asked as soon as it is.
        """
        wanted = self._calls.disconnected
        self._network.watch_for_return(wanted, wanted and self._control.registered)
        self._control.need(wanted)
