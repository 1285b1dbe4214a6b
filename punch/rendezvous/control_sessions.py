"""The connections of registered peers, what the registry has for them, and how they end with the service."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence, Set
from typing import Protocol

from twisted.internet.interfaces import IReactorTime
from twisted.internet.task import deferLater
from twisted.logger import Logger

from punch.identity import PeerID
from punch.net.deadlines import Deadlines
from punch.net.driver import Driver, Timed
from punch.net.fairness import SourceShares
from punch.net.sources import source_of
from punch.rendezvous.config import RendezvousLimits
from punch.rendezvous.control_protocol import ControlServerProtocol
from punch.rendezvous.control_session import ControlSession, SessionFunctions
from punch.rendezvous.directory.connector import DirectoryConnector
from punch.rendezvous.members.access import AccessControl
from punch.rendezvous.members.membership import MemberStoreError
from punch.rendezvous.monitoring.status import Totals
from punch.rendezvous.operator_log import OperatorLog
from punch.rendezvous.registry.outputs import (
    Deliver,
    DeliverToProcess,
    Disconnect,
    LimitHit,
    PeerRegistered,
    PeerUnregistered,
)
from punch.rendezvous.registry.registry import SHUTDOWN_TEXT, Registry
from punch.rendezvous.relay_service import RelayService
from punch.rendezvous.udp_server import SecondReflector
from punch.wire.control import Error, ErrorCode, Register, Revoke

_STEP = 0.1
"""Seconds between two looks at the introductions when the service ends."""

_log = Logger()


class ServiceReport(Protocol):
    """Called with each event of the service and its fields."""

    def __call__(self, event: str, **fields: object) -> None: ...


class _SessionTimers:
    """
    The timers of all sessions as one: thousands of delayed calls would take memory, and make every other
    delayed call slower.

    :param controls: the connections by number.
    :param silence: the seconds that each line gives a peer that has registered.
    """

    def __init__(self, controls: Mapping[int, ControlServerProtocol], silence: float) -> None:
        self._controls = controls
        self._silence = silence
        self._deadlines: Deadlines[int] = Deadlines()

    def start(self, session: ControlSession, now: float) -> None:
        """
        Look at a session when its timer may be due. Lines that are received until then can only make that
        later.
        """
        due = session.get_timer()
        if due is not None:
            self._deadlines.set(session.connection, min(due, now + self._silence))

    def stop(self, session: ControlSession) -> None:
        """The connection of a session is gone."""
        self._deadlines.discard(session.connection)

    def get_timer(self) -> float | None:
        """When `handle_timer` is to be called; None if there is no session."""
        return self._deadlines.next()

    def handle_timer(self, now: float) -> None:
        """Look at the sessions that may be due. A failure at one of them is logged, and affects no other."""
        while (number := self._deadlines.pop(now)) is not None:
            control = self._controls[number]
            if control.session is not None:
                try:
                    control.session.handle_timer(now)
                    self.start(control.session, now)
                    control.flush()
                except Exception:
                    _log.failure("The timer of a session has failed.")


class ControlSessions:
    """
    The control connections of one service: it gives each a session, and delivers what the registry says.

    It is the `ControlServerOwner` of its connections.

    :param clock: runs timers.
    :param monotonic: monotonic seconds.
    :param directory: the way to the other processes of the service; None if there are none.
    :param report: called with the events `registered` and `gone`.
    :ivar reflector_port: the port that peers are told; 0 until the service listens.
    :ivar lists_pending: whether a list has changed while the members could not be read, so that `end_refused`
        has to be called again when they can be.
    """

    def __init__(
        self,
        registry: Registry,
        limits: RendezvousLimits,
        *,
        clock: IReactorTime,
        monotonic: Callable[[], float],
        access: AccessControl,
        relay: RelayService,
        second_reflector: SecondReflector,
        directory: DirectoryConnector | None,
        log: OperatorLog,
        totals: Totals,
        report: ServiceReport,
    ) -> None:
        self.clock = clock
        self.monotonic = monotonic
        self.unread_bytes = limits.unread_bytes
        self.reflector_port = 0
        self.lists_pending = False
        self._registry = registry
        self._limits = limits
        self._access = access
        self._relay = relay
        self._second = second_reflector
        self._directory = directory
        self._operator_log = log
        self._totals = totals
        self._report = report
        self._lines = SourceShares(limits.address_rate, limits.address_burst, 4 * limits.registrations)
        self._controls: dict[int, ControlServerProtocol] = {}
        self._timers = _SessionTimers(self._controls, limits.silence)
        self._last_connection = 0
        # The same objects for all sessions: each look-up of a method makes another one.
        self._functions: SessionFunctions = {
            "relays": relay.servers,
            "relays_for_members": relay.is_for_members,
            "admit": self._admit,
            "revoke": self._revoke,
            "limit_hit": self._limit_hit,
        }
        # To send may end a connection, which may leave more to deliver.
        self._driver = Driver(clock, monotonic, self._deliver_all, self._cores)

    def denied(self, peer: PeerID, address: str) -> Error | None:
        """The error for a peer that the operator refuses; None for other peers."""
        return self._access.denied(peer, address)

    def was_registered(self, peer: PeerID) -> bool:
        """Whether a peer was registered before."""
        return self._registry.was_registered(peer)

    def opened(self, protocol: ControlServerProtocol, peer: PeerID, address: str) -> ControlSession:
        """A peer has proved its key on a new connection. Return the session for it."""
        self._last_connection += 1
        self._controls[self._last_connection] = protocol
        session = ControlSession(
            self._registry,
            self._last_connection,
            peer,
            address,
            reflector_port=self.reflector_port,
            probing=self._second,
            limits=self._limits,
            now=self.monotonic(),
            **self._functions,
        )
        self._timers.start(session, self.monotonic())
        return session

    def _admit(self, session: ControlSession, request: Register) -> PeerID | Error:
        # By its number: a session that refers to its protocol stays in memory after its end.
        binding = self._controls[session.connection].channel_binding
        return self._access.admit(session.peer, session.address, request, binding, self._guests)

    def _guests(self, member: PeerID) -> int:
        """For how many peers that are registered a member vouches."""
        sessions = (control.session for control in self._controls.values())
        return sum(each is not None and each.account == member != each.peer for each in sessions)

    def _revoke(self, session: ControlSession, request: Revoke) -> Error:
        error = self._access.revoke(session.peer, session.address, request)
        if error.code is ErrorCode.DENIED:
            self._relay.change_denied((session.peer,), ())
        return error

    def _limit_hit(self, session: ControlSession, limit: str, code: ErrorCode) -> None:
        if limit == "registrations":
            self._operator_log.registration_refused(session.address, session.peer, code.value)
        else:
            self._operator_log.limit_hit(session.address, limit, session.peer)

    def line_came(self, session: ControlSession) -> float:
        """A session got a line. Return the seconds for which it should read no other."""
        source = source_of(session.address)
        wait = self._lines.charge(source, session.connection, 1.0, self.monotonic())
        if wait > 0.0:
            self._operator_log.limit_hit(session.address, "lines", session.peer)
        return wait

    def registry_changed(self) -> None:
        """Do what the registry asks for."""
        self._driver.run()

    def _cores(self) -> Sequence[Timed]:
        if self._directory is None:
            return (self._registry, self._timers)
        return (self._registry, self._timers, self._directory.remote_calls)

    def _deliver_all(self, now: float) -> bool:
        touched: dict[int, ControlServerProtocol] = {}
        while (output := self._registry.next_output()) is not None:
            if isinstance(output, PeerRegistered):
                self._totals.registrations += 1
                self._operator_log.registered(output.peer, output.name)
                self._report("registered", peer=str(output.peer), name=output.name)
            elif isinstance(output, PeerUnregistered):
                self._operator_log.gone(output.peer, output.reason)
                self._report("gone", peer=str(output.peer), reason=output.reason)
            elif isinstance(output, LimitHit):
                self._operator_log.limit_hit(output.address, output.limit, output.peer)
            elif not isinstance(output, DeliverToProcess):
                self._pass_on(output, touched, now)
            if self._directory is not None:
                self._directory.note(output)
        for control in touched.values():
            control.flush()
        passed_on = self._directory is not None and self._directory.pass_on()
        return bool(touched) or passed_on

    def lost(self, session: ControlSession) -> None:
        """The connection of a session is gone."""
        self._controls.pop(session.connection, None)
        self._timers.stop(session)

    def _pass_on(
        self, output: Deliver | Disconnect, touched: dict[int, ControlServerProtocol], now: float
    ) -> None:
        control = self._controls.get(output.connection)
        if control is None or control.session is None:
            return
        touched[output.connection] = control
        if isinstance(output, Deliver):
            control.session.send(output.reply)
        else:
            control.session.close(output.error, now)

    def end_refused(self, *, list_changed: bool = True) -> int:
        """
        End the registrations, calls and allocations of peers that the deny list, the list of members or a
        revocation refuses now. If a list has changed and the members can't be read, only the deny list is
        applied, and `lists_pending` becomes true.

        :param list_changed: as in `Membership.refused`.
        :return: the number of peers whose connections were closed.
        :raise MemberStoreError: no list has changed, and the members can't be read. Nothing was done.
        """
        controls = self._controls_of(None)
        # Those that have left may have credentials for the relay.
        known = {session.account for _, session in controls}.union(self._relay.peers)
        gone: Mapping[PeerID, Error] = {}
        denied: Set[PeerID] | None = None
        try:
            changed = list_changed or self.lists_pending
            gone = self._access.no_longer_admitted(known, list_changed=changed)
            denied = gone.keys() | self._access.revoked
        except MemberStoreError:
            # The deny list applies nevertheless; nobody is disconnected for what can't be read now
            if not list_changed:
                raise
        self.lists_pending = denied is None
        self._relay.deny(self._access.deny, denied)
        ended = self._end_refused(controls, gone)
        if self._directory is not None:
            self._directory.remote_calls.end_denied(self.monotonic())
        self.registry_changed()
        return ended

    def end_changed(self, peers: Set[PeerID]) -> int:
        """
        As `end_refused`, for peers that were admitted or revoked, while the lists have not changed. Only
        these are looked up, however many others are registered or revoked.

        :raise MemberStoreError: the members can't be read. Nothing was done.
        """
        gone = self._access.no_longer_admitted(peers, list_changed=False)
        self._relay.change_denied(gone, peers - gone.keys() - self._access.deny.peers)
        ended = self._end_refused(self._controls_of(peers), gone)
        self.registry_changed()
        return ended

    def _controls_of(
        self, accounts: Set[PeerID] | None
    ) -> list[tuple[ControlServerProtocol, ControlSession]]:
        """The connections and sessions of these peers, and of those for whom they vouch; None: all."""
        return [
            (control, session)
            for control in self._controls.values()
            if (session := control.session) is not None
            and not session.closed
            and (accounts is None or session.account in accounts)
        ]

    def _end_refused(
        self,
        controls: Sequence[tuple[ControlServerProtocol, ControlSession]],
        gone: Mapping[PeerID, Error],
    ) -> int:
        ended, now = 0, self.monotonic()
        for control, session in controls:
            error = self.denied(session.peer, session.address) or gone.get(session.account)
            if error is None and session.account != session.peer:
                error = self.denied(session.account, session.address)
            if error is not None:
                session.close(error, now)
                control.flush()
                ended += 1
        return ended

    def end(self, kept: Set[PeerID]) -> None:
        """Tell all peers but those in `kept` that the service ends, and close their connections."""
        now = self.monotonic()
        for control in list(self._controls.values()):
            session = control.session
            if session is not None and not session.closed and session.peer not in kept:
                session.close(Error(ErrorCode.SHUTDOWN, SHUTDOWN_TEXT), now)
                control.flush()
        self.registry_changed()

    def stop(self) -> None:
        """Deliver nothing more."""
        self._driver.stop()


async def finish_introductions(
    registry: Registry,
    end_sessions: Callable[[Set[PeerID]], None],
    *,
    clock: IReactorTime,
    monotonic: Callable[[], float],
    time: float,
) -> None:
    """
    Refuse new registrations and calls, end the sessions of peers without an introduction at once, and the
    others when their introductions are finished.

    :param end_sessions: tells all peers but these that the service ends, and closes their connections.
    :param time: seconds that this may take at most.
    """
    registry.stop()
    end = monotonic() + time
    while True:
        now = monotonic()
        unfinished = registry.unfinished(now) if now < end else set()
        end_sessions(unfinished)
        if not unfinished:
            return
        await deferLater(clock, min(_STEP, end - now), lambda: None)
