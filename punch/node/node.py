"""
A peer on the network: registered with one rendezvous, with any number of calls and links.

`Node` is what front ends talk to: it joins calls of ours (`OutgoingCalls`), calls of others (`IncomingCalls`)
and what came of them (`Calls`) with the rendezvous and the network, and tells what happens in events. A call
is a `Call`; its link outlives the rendezvous.
"""

from __future__ import annotations

import os
import time
from collections import deque
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import replace
from typing import Any

from cryptography import x509
from twisted.application.service import Service
from twisted.internet.defer import Deferred, DeferredList
from twisted.internet.interfaces import IProtocolFactory, IStreamClientEndpoint
from twisted.logger import Logger

from punch.contacts import AddressBook, AddressBookError
from punch.ice.budget import Budgets
from punch.ice.checklist import PairStatus
from punch.identity import Identity, PeerID, RandomBytes
from punch.link.events import CloseCode
from punch.link.link import Link
from punch.link.services import Authorize, anyone
from punch.net.interfaces import local_addresses
from punch.net.socket_set import OpenSocket
from punch.net.udp import open_socket as open_best_socket
from punch.node import limits, sentences
from punch.node.call import Call
from punch.node.call_context import CallContext
from punch.node.calls import Calls
from punch.node.control.client import ControlClient
from punch.node.control.problems import ControlProblem
from punch.node.events import (
    AlreadyConnected,
    CallFailed,
    Calling,
    Checking,
    Connected,
    Disconnected,
    Event,
    Introduced,
    PathChanged,
    PathLost,
    Ready,
    Reason,
    Registered,
    Unregistered,
)
from punch.node.incoming_calls import IncomingCalls
from punch.node.netcheck import NetcheckRun, as_json
from punch.node.network import Network
from punch.node.offer_freshness import (
    KeptOffers,
    OfferMemory,
    OfferTimes,
    milliseconds,
)
from punch.node.outgoing_calls import OutgoingCalls
from punch.node.policy import RelayPolicy
from punch.node.signaling_state import Side
from punch.node.status import NodeStatus, RelayStatus
from punch.wire.address import Address
from punch.wire.control import (
    Accept,
    Answered,
    Candidates,
    Ended,
    Error,
    ErrorCode,
    Establish,
    Incoming,
    Register,
    Relays,
    RenewRelays,
    Reply,
    Request,
    Welcome,
)
from punch.wire.rendezvous_address import RendezvousAddress

EXPECTED_TIME = 600.0
"""
Seconds for which the rendezvous is tried more often than by others after it went away while a call was
under way.
"""
CHECK_TIME = 1.2
"""
Seconds within which the rendezvous must answer when a path is in doubt, or it is connected to anew…
"""
CHECK_TRIPS = 4
"""…and so many round trips of the slowest link more, since the connection may share its queue."""


class Node(Service):
    """
    The peer as a service; see `punch.node.events` for what it tells `on_event`.

    :param name: what other peers see.
    :param accept: who may call besides known peers.
    :param known: peers that were called or accepted before, and blocked ones; grows with each call.
    :param offers: tells offers from copies of old ones; without, those made before now are all doubted.
    :param addresses: the local addresses to use, asked anew for every call.
    :param source: from which of them an IP address is reached; None: as the control connection, or unknown.
    :param wall: seconds since 1970 by the wall clock, only to notice sleep and for the times of offers; all
        intervals are `monotonic`, which is what `reactor` counts, too (`punch.net.reactor`).
    :param pacing: ICE's Ta that we signal, in seconds.
    :param relay: whether links may be relayed.
    :param roots: certificate authorities for a rendezvous address without a pin; None: the platform's.
    :param proxy: the variable of the environment that names a proxy (`problems.proxy_variable`).
    :param waiting: whether messages wait for the rendezvous, beside the calls that this node knows of.
    :param control_endpoint: another way to the rendezvous than TCP to its address, below TLS.
    """

    _log = Logger()

    def __init__(
        self,
        *,
        reactor: Any,
        identity: Identity,
        name: str,
        accept: Accept,
        known: AddressBook,
        rendezvous: RendezvousAddress,
        on_event: Callable[[Event], None],
        addresses: Callable[[], list[str]] = local_addresses,
        source: Callable[[str], str | None] | None = None,
        open_socket: OpenSocket = open_best_socket,
        random: RandomBytes = os.urandom,
        monotonic: Callable[[], float] = time.monotonic,
        wall: Callable[[], float] = time.time,
        offers: OfferMemory | None = None,
        pacing: float = 0.05,
        relay: RelayPolicy = RelayPolicy.AUTO,
        roots: Sequence[x509.Certificate] | None = None,
        control_endpoint: IStreamClientEndpoint | None = None,
        proxy: str | None = None,
        waiting: Callable[[], bool] = lambda: False,
    ) -> None:
        self.identity = identity
        self._known = known
        self._rendezvous = rendezvous
        self._on_event = on_event
        self._clock = reactor
        self._addresses = addresses
        self._open_socket = open_socket
        self._source = source
        self._roots = roots
        self._network = Network(
            reactor,
            self,
            addresses=addresses,
            open_socket=open_socket,
            random=random,
            monotonic=monotonic,
            wall=wall,
            pacing=pacing,
            relay_policy=relay,
            rendezvous=rendezvous.host,
            roots=roots,
            source=self._source_for,
        )
        self._control = ControlClient(
            reactor=reactor,
            address=rendezvous,
            identity=identity,
            register=Register(name, accept),
            handler=self,
            random=random,
            roots=roots,
            endpoint=control_endpoint,
            proxy=proxy,
            waiting=lambda: monotonic() < self._expected_until or waiting(),
        )
        self._sessions = Calls()
        self._around = CallContext(
            identity=identity,
            name=name,
            clock=reactor,
            monotonic=monotonic,
            random=random,
            pacing=pacing,
            sockets=self._network.sockets,
            router=self._network.router,
            relays=self._network.relays,
            relay_policy=relay,
            send_control=self._send_control,
            registered=lambda: self._control.registered,
            calls=self._sessions.calls,
            refresh_sockets=self._network.refresh,
            mappings=self._network.keeper.mappings,
            offer_times=OfferTimes(wall),
            budgets=Budgets(),
            reflectors=self._network.reflectors,
        )
        self._outgoing = OutgoingCalls(self._around, self._sessions, self, self._failed)
        self._incoming_calls = IncomingCalls(
            self._around,
            self._sessions,
            self._outgoing,
            self,
            accept,
            known,
            offers or OfferMemory(KeptOffers(milliseconds(wall())), random, lambda content: True),
            wall,
            on_event,
        )
        self._unsent: deque[Request] = deque(maxlen=limits.MAX_UNSENT)
        self._disconnected: set[Call] = set()
        # Calls were under way when the rendezvous went away
        self._expected_until = float("-inf")
        self._replaced: dict[PeerID, Disconnected] = {}

    # What the user does

    def startService(self) -> None:
        """Register, and take calls."""
        super().startService()  # type: ignore[no-untyped-call]
        self._on_event(Ready(self.identity.peer_id))
        self._control.start()
        self._network.start()

    def stopService(self) -> Deferred[None]:
        """
        Say goodbye on every link and to the rendezvous, then close the sockets.

        :return: fires when all is closed, within about a second.
        """
        super().stopService()  # type: ignore[no-untyped-call]
        self._network.stop()
        self._outgoing.stop()
        for session in list(self._sessions.attempts.values()):
            self._sessions.drop(session)
        closing: list[Deferred[Any]] = []
        for session in list(self._sessions.links.values()):
            if session.link is not None:
                closing.append(session.link.when_closed())
                session.hang_up(CloseCode.SHUTDOWN)
        closing.append(self._control.stop())
        done: Deferred[Any] = DeferredList(closing, consumeErrors=True)
        done.addTimeout(limits.STOP_TIME, self._clock, onTimeoutCancel=lambda result, timeout: None)
        return done.addCallback(lambda _: self._network.close())

    def call(self, peer: PeerID) -> None:
        """
        Call `peer`, at once or as soon as the rendezvous is there (for up to 12 s). It is a known peer from
        now on.

        Where a call is under way nothing happens; a call of its that rings is accepted. A link that is there
        already is asked first: if the other side answers on it, that is told (`AlreadyConnected`), if not, a
        new call is placed, whose link will take the place of the dead one.
        """
        if peer == self.identity.peer_id:
            self._on_event(CallFailed(peer, Reason.SELF.value, sentences.own_id()))
        elif peer in self._sessions.attempts:
            self.accept(peer)
        elif peer in self._sessions.links:
            self._sessions.links[peer].ask(self._asked)
        elif peer not in self._outgoing:
            self._call(peer)

    def accept(self, peer: PeerID) -> None:
        """Let `peer`, whose call rings, in. It is a known peer from now on."""
        session = self._sessions.attempts.get(peer)
        if session is None or not session.ringing:
            return
        self._remember(peer, session.name or "")
        self._incoming_calls.let_in(session)

    def reject(self, peer: PeerID) -> None:
        """Refuse the call of `peer` that rings."""
        session = self._sessions.attempts.get(peer)
        if session is not None and session.ringing:
            session.hang_up()

    def hangup(self, peer: PeerID) -> None:
        """End whatever there is with `peer`: the link, or the call in whatever stage."""
        if self._outgoing.withdraw(peer):
            self._failed(peer, ErrorCode.CANCELLED.value, sentences.hung_up_early(peer, None))
        for sessions in (self._sessions.attempts, self._sessions.links):
            session = sessions.get(peer)
            if session is not None:
                session.hang_up()

    def rename(self, name: str) -> None:
        """Be called `name` in calls from now on, and at the rendezvous from the next registration on."""
        self._around.name = name
        self._control.register = replace(self._control.register, name=name)

    def netcheck(self) -> Deferred[Mapping[str, Any]]:
        """Find out what the network does; fires after seconds with what `punch netcheck --json` prints."""
        run = NetcheckRun(
            reactor=self._clock,
            rendezvous=self._rendezvous,
            addresses=self._addresses,
            source=self._source,
            open_socket=self._open_socket,
            random=self._around.random,
            monotonic=self._around.monotonic,
            roots=self._roots,
        )
        return run.start().addCallback(as_json)

    def link(self, peer: PeerID) -> Link | None:
        """The live link to `peer`, if there is one."""
        session = self._sessions.links.get(peer)
        return None if session is None else session.link

    def pairs(self, peer: PeerID) -> list[PairStatus]:
        """
        The candidate pairs between here and `peer` as they are now: of the call that is under way, else of
        the link; none if there is neither. A snapshot, to be looked at.
        """
        session = self._sessions.attempts.get(peer) or self._sessions.links.get(peer)
        return [] if session is None else session.pairs

    @property
    def status(self) -> NodeStatus:
        """The sockets, relays and table sizes as they are now."""
        network, links = self._network, self._sessions.links
        return NodeStatus(
            sockets=tuple(network.sockets.bases),
            reflectors=tuple(network.reflectors),
            relays=tuple(
                RelayStatus(relay.server.url.transport, relay.base, relay.local)
                for relay in network.relays.current
            ),
            relay_attempts=network.relays.attempt_count,
            signaling=len(self._sessions.calls),
            connection_ids=network.router.connection_id_count,
            generations={
                peer: session.paths.generations.number
                for peer, session in links.items()
                if session.paths is not None
            },
        )

    def serve(
        self, service: str, factory: IProtocolFactory, authorize: Authorize = anyone
    ) -> Callable[[], None]:
        """
        Answer the streams that peers open to a service, on every link.

        :param authorize: whether a peer may open it; any peer with a link by default.
        :return: call it to stop the service.
        :raise ValueError: as `Services.serve`.
        """
        return self._around.services.serve(service, factory, authorize)

    # What the rendezvous says (ControlHandler)

    def control_welcome(self, welcome: Welcome, host: str) -> None:
        """Registered."""
        self._expected_until = float("-inf")
        self._network.welcomed(welcome, host)
        self._look_out()
        self._on_event(Registered(str(self._rendezvous)))
        unsent, self._unsent = list(self._unsent), deque(maxlen=limits.MAX_UNSENT)
        for request in unsent:
            self._control.send(request)
        self._outgoing.registered()
        for session in list(self._sessions.links.values()):
            session.network_back()

    def control_lost(self, problem: ControlProblem, retry_in: float | None) -> None:
        """
        Not registered: links, introduced calls and those that ring here live on, calls of ours that were not
        answered yet are placed anew.
        """
        if self._sessions.attempts:
            self._expected_until = self._around.monotonic() + EXPECTED_TIME
        self._on_event(Unregistered(problem.reason, problem.text, retry_in))
        self._outgoing.unregistered(problem)
        self._look_out()
        if retry_in is None:
            self._on_event(CallFailed(None, problem.reason, problem.text))
            self._outgoing.give_up(problem)

    def control_reply(self, reply: Reply) -> None:
        """Something about a call. What does not fit any call of ours is nobody's, and is dropped."""
        if isinstance(reply, Incoming):
            self._incoming_calls.receive(reply)
        elif isinstance(reply, Relays):
            self._network.offered(reply.relays)
        elif isinstance(reply, (Answered, Candidates, Ended, Error)) and reply.call is not None:
            session = self._sessions.calls.get(reply.call)
            if session is None or getattr(reply, "sender", None) not in (None, session.peer):
                return
            if isinstance(reply, Answered):
                session.receive_answer(reply.answer)
            elif isinstance(reply, Candidates):
                session.receive_candidates(reply.envelope)
            else:
                session.receive_end(reply.code)

    # What sessions say (SessionObserver)

    def call_introduced(self, session: Call) -> None:
        """Both sides know each other's candidates."""
        if session.call.side is Side.CALLER:
            self._remember(session.peer, session.name or "")
        self._on_event(Introduced(session.peer, session.name or ""))

    def call_checking(self, session: Call, pairs: int) -> None:
        """Checks began."""
        self._on_event(Checking(session.peer, pairs))

    def call_connected(self, session: Call) -> None:
        """A link is proved. It takes the place of an older one with the same peer."""
        peer, link, pair = session.peer, session.link, session.pair
        assert link is not None
        assert pair is not None
        older = self._sessions.connect(session)
        self._replaced.pop(peer, None)
        if older is not None:
            older.hang_up(CloseCode.REPLACED, "A newer link with the same peer took over.")
        self._on_event(
            Connected(
                peer,
                session.name or "",
                pair.path,
                pair.local.address,
                pair.remote_address,
                pair.local.protocol,
                pair.rtt or link.rtt or 0.0,
                link,
            )
        )

    def call_path_changed(self, session: Call) -> None:
        """The link moved."""
        pair = session.pair
        if pair is None or self._sessions.links.get(session.peer) is not session:
            return
        rtt = pair.rtt or (session.link.rtt if session.link is not None else None) or 0.0
        self._on_event(
            PathChanged(
                session.peer, pair.path, pair.local.address, pair.remote_address, pair.local.protocol, rtt
            )
        )

    def call_path_lost(self, session: Call) -> None:
        """The link has no path, and waits for one."""
        if self._sessions.links.get(session.peer) is session:
            self._on_event(PathLost(session.peer, sentences.path_lost(session.peer, session.name)))

    def call_silent(self, session: Call) -> None:
        """The path may be dead, and the network with it: then the rendezvous is needed soon."""
        self._check_control()

    def call_disconnected(self, session: Call, disconnected: bool) -> None:
        """A link has no path, or has one again."""
        if disconnected:
            self._disconnected.add(session)
            self._check_control()
        else:
            self._disconnected.discard(session)
        self._look_out()

    def call_ended(self, session: Call, reason: str, text: str) -> None:
        """A call or a link is over."""
        sessions, peer = self._sessions, session.peer
        sessions.forget_call(session)
        self._disconnected.discard(session)
        self._look_out()
        if sessions.links.get(peer) is session:
            del sessions.links[peer]
            over = Disconnected(peer, reason, text)
            newer = reason == ErrorCode.REPLACED.value and peer in sessions.attempts
            if newer or session.asked:
                # The other side has proved the newer link before we have, or its peer is being called again:
                # what comes of that, one `Connected` for example, tells of both.
                self._replaced[peer] = over
            else:
                self._on_event(over)
        elif sessions.attempts.get(peer) is session:
            del sessions.attempts[peer]
            self._failed(peer, reason, text)

    # The inside

    def _call(self, peer: PeerID) -> None:
        refusal = self._outgoing.refusal()
        if refusal is not None:
            self._failed(peer, *refusal)
            return
        if peer not in self._known:
            self._remember(peer, "")
        self._on_event(Calling(peer))
        self._outgoing.place(peer)

    def _failed(self, peer: PeerID, reason: str, text: str) -> None:
        """A call came to nothing; so did what it was to replace."""
        replaced = self._replaced.pop(peer, None)
        if replaced is not None:
            self._on_event(replaced)
        self._on_event(CallFailed(peer, reason, text))

    def _asked(self, session: Call, answered: bool) -> None:
        """A link was asked because its peer is called again. It may be over or replaced by now."""
        peer = session.peer
        if not self.running or peer in self._sessions.attempts or peer in self._outgoing:
            return
        if answered or self._sessions.links.get(peer, session) is not session:
            self._on_event(AlreadyConnected(peer))
        else:
            self._call(peer)

    def _source_for(self, remote: str) -> str | None:
        """From which of our addresses the system reaches the rendezvous, at one of its addresses."""
        local = self._control.local_host
        if local is not None and (":" in local) == (":" in remote):
            return local
        return None if self._source is None else self._source(remote)

    def _send_control(self, request: Request) -> bool:
        if self._control.send(request):
            return True
        if not isinstance(request, Establish):
            self._unsent.append(request)
        return False

    def _remember(self, peer: PeerID, name: str) -> None:
        try:
            self._known.add(peer, name)
        except AddressBookError as error:
            # The call is worth more than the memory of it.
            self._log.warn("{peer} could not be remembered: {error}", peer=peer, error=error)

    def _look_out(self) -> None:
        """
        While a link has no path, whoever could bring one back is asked often; relays only if the rendezvous
        is there, since its return makes them be asked at once.
        """
        wanted = bool(self._disconnected)
        self._network.look_out(wanted, wanted and self._control.registered)
        self._control.need(wanted)

    # What happens to the network (NetworkOwner)

    def paths_in_use(self) -> list[Address]:
        """The local addresses of the paths that links have."""
        return [
            session.pair.local_base for session in self._sessions.links.values() if session.pair is not None
        ]

    def network_changed(self, bases: list[Address], gone: Collection[str]) -> None:
        """This machine has other addresses."""
        self._check_control(gone)
        for session in self._sessions:
            session.network_changed(bases)

    def _check_control(self, gone: Collection[str] = ()) -> None:
        """Make sure that the rendezvous' connection lives."""
        links = [session.link for session in self._sessions.links.values()]
        slowest = max((link.rtt or 0.0 for link in links if link is not None), default=0.0)
        self._control.check(CHECK_TIME + CHECK_TRIPS * slowest, gone)

    def network_back(self) -> None:
        """A reflector answers again."""
        self._check_control()
        for session in list(self._sessions.links.values()):
            session.network_back()

    def woke(self) -> None:
        """The machine has slept."""
        self._check_control()
        for session in list(self._sessions.links.values()):
            session.woke()

    def renew_relays(self) -> None:
        """The relays' credentials end soon."""
        self._control.send(RenewRelays())
