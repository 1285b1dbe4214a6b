"""
What `punch forward` and `punch expose` have in common: listening at ports of this machine (`listen`),
exposing them (`exposed_at`), telling about connections, and both ends of `--reverse`, which `punch forward`
asks for and `punch expose` grants.
"""

from __future__ import annotations

import os
import secrets
import socket
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from typing import Any, cast

from twisted.internet.endpoints import HostnameEndpoint, UNIXClientEndpoint
from twisted.internet.error import CannotListenError, ConnectionLost
from twisted.internet.interfaces import IStreamClientEndpoint
from twisted.internet.protocol import DatagramProtocol, Factory
from twisted.internet.task import deferLater

from punch.apps.forward.addresses import ForwardAddress, Protocol
from punch.apps.forward.connections import CONNECT_TIME, Exposed, Forwarder
from punch.apps.forward.datagrams import DatagramForwarder, ExposedDatagrams
from punch.apps.forward.messages import MAX_DATAGRAM, ForwardFailure, failure_of
from punch.apps.forward.reverse import (
    TOKEN_SIZE,
    ListenFailed,
    ListeningPort,
    PortRequest,
    ReversePort,
    reverse_service,
)
from punch.cli.commands.node_command import CommandFailed, ExitStatus, NodeCommand, status_of
from punch.identity import PeerID
from punch.local.access import Allow, NodeAccess
from punch.local.protocol import CommandError
from punch.net.driver import Timer
from punch.net.token_bucket import TokenBucket
from punch.ui.text.forwards import (
    exposed_failure_text,
    open_failure_text,
    reversed_failure_text,
    unlistened_text,
)

PAUSE = 5.0
"""Seconds during which the same sentence is not shown again."""
CHANGES = 10
"""How many changes of a state are shown at once. After that, one is shown per `PAUSE`."""
_MOST = 100
"""How many sentences are remembered."""

BACKLOG = 1024
"""How many connections may wait to be accepted."""
_IN_USE = "another process listens there"

FIRST_RETRY, LAST_RETRY = 1.0, 30.0
"""Seconds after which a port that was lost is asked for again, and the longest such time."""


class Notices:
    """Reports connections that failed."""

    def __init__(self, command: NodeCommand) -> None:
        self._command = command
        self._told: dict[str, float] = {}

    def tell(self, sentence: str, **fields: Any) -> None:
        """Report a failure, unless the same sentence was shown less than `PAUSE` seconds ago."""
        now = self._command.reactor.seconds()
        if now - self._told.get(sentence, now - PAUSE) < PAUSE:
            return
        self._told.pop(sentence, None)
        self._told[sentence] = now
        if len(self._told) > _MOST:
            del self._told[next(iter(self._told))]
        self._command.tell(sentence, event="connection-failed", text=sentence, **fields)


class StateNotices:
    """Reports a state that a peer can change as often as it likes: not every change, but always the last."""

    def __init__(self, command: NodeCommand) -> None:
        self._command = command
        self._bucket = TokenBucket(1 / PAUSE, CHANGES, command.reactor.seconds())
        self._timer = Timer(command.reactor)
        self._latest = self._told = ("", dict[str, Any]())

    def tell(self, sentence: str, **fields: Any) -> None:
        """Report the state at once or, if it has changed too often, report later what it is then."""
        self._latest = (sentence, fields)
        if self._timer.running:
            return
        missing = 1 - self._bucket.available(self._command.reactor.seconds())
        if missing > 0:
            self._timer.start(missing * PAUSE, self._tell)
        else:
            self._tell()

    def _tell(self) -> None:
        if self._latest != self._told:
            self._bucket.spend(1)
            self._told = self._latest
            sentence, fields = self._told
            self._command.tell(sentence, **fields)


def exposed_at(
    reactor: Any, address: ForwardAddress, failed: Callable[[PeerID, ForwardFailure, Exception], object]
) -> Factory:
    """Return what answers the streams of a service with a port or socket of this machine."""
    if address.protocol is Protocol.UDP:
        return ExposedDatagrams(reactor, address, failed)
    if address.protocol is Protocol.UNIX:
        path: Any = cast(Any, UNIXClientEndpoint)(reactor, address.path, CONNECT_TIME)
        return Exposed(cast(IStreamClientEndpoint, path), failed)
    return Exposed(HostnameEndpoint(reactor, address.host, address.port, CONNECT_TIME), failed)


def forwarder_for(
    local: ForwardAddress,
    node: NodeAccess,
    peer: PeerID,
    service: str,
    reactor: Any,
    failed: Callable[[Exception], object],
) -> Factory | DatagramProtocol:
    """Return what forwards the connections or datagrams to a port of this machine to a service of a peer."""
    kind = DatagramForwarder if local.protocol is Protocol.UDP else Forwarder
    return kind(node, peer, service, reactor, failed)


def option_for(address: ForwardAddress) -> str:
    """Return the option that commands need for an address, with a space behind it, or ""."""
    return "--udp " if address.protocol is Protocol.UDP else ""


def listen(reactor: Any, local: ForwardAddress, forwarder: Factory | DatagramProtocol) -> tuple[str, Any]:
    """
    Listen, and return where, and the port, an `IListeningPort`.

    :param forwarder: a `DatagramProtocol` for UDP.
    :raise CommandFailed: it is not possible.
    """
    host = local.single_host
    try:
        if local.protocol is Protocol.UDP:
            opened = reactor.listenUDP(local.port, forwarder, interface=host, maxPacketSize=MAX_DATAGRAM)
            return str(ForwardAddress(local.protocol, host, opened.getHost().port)), opened
        if local.protocol is Protocol.UNIX:
            if _is_in_use(local.path):
                raise CommandFailed(f"{local} can't be listened on: {_IN_USE}.", reason="listen")
            # A socket that a dead process has left is replaced
            opened = reactor.listenUNIX(local.path, forwarder, backlog=BACKLOG, mode=0o600, wantPID=True)
            return local.path, opened
        opened = reactor.listenTCP(local.port, forwarder, backlog=BACKLOG, interface=host)
    except (CannotListenError, OSError) as error:
        cause = error.socketError if isinstance(error, CannotListenError) else error
        if isinstance(cause, OSError):
            _remove_own_lock(local.path)
        # If another process has the lock beside a Unix socket, that is no error of the system
        text = (cause.strerror or cause) if isinstance(cause, OSError) else _IN_USE
        raise CommandFailed(f"{local} can't be listened on: {text}.", reason="listen") from None
    return str(ForwardAddress(local.protocol, host, opened.getHost().port)), opened


def _remove_own_lock(path: str) -> None:
    """
    Remove the lock beside a Unix socket that could not be opened, if this process made it.

    Twisted leaves it there, and the next attempt would take it for that of a running process.
    """
    with suppress(OSError):
        if os.readlink(f"{path}.lock") == str(os.getpid()):
            os.unlink(f"{path}.lock")


def _is_in_use(path: str) -> bool:
    """
    Whether a process listens at a Unix socket.

    Twisted can't tell whose socket it finds beside a lock that was left, and removes it.
    """
    with socket.socket(socket.AF_UNIX) as probe:
        probe.setblocking(False)
        try:
            probe.connect(path)
        except BlockingIOError:
            pass  # Too many wait to be accepted
        except OSError:
            return False
    return True


async def grant_port(
    command: NodeCommand, node: NodeAccess, local: ForwardAddress, service: str, peers: frozenset[PeerID]
) -> None:
    """Let peers ask for a port of this machine, until the command ends: connections to it go to them."""
    notices = Notices(command)
    states = StateNotices(command)

    def listening(answers: Factory | DatagramProtocol) -> ListeningPort:
        try:
            _, port = listen(command.reactor, local, answers)
        except CommandFailed as error:
            raise ListenFailed from error
        found: ListeningPort = port
        return found

    def not_forwarded(peer: PeerID, error: Exception) -> None:
        failure = failure_of(error)
        reason = failure.reason if failure else error.reason if isinstance(error, CommandError) else "lost"
        text = reversed_failure_text(failure, error, str(local), command.called(peer))
        notices.tell(text, peer=str(peer), reason=reason)

    def forwarder(peer: PeerID, back: str) -> Factory | DatagramProtocol:
        return forwarder_for(local, node, peer, back, command.reactor, partial(not_forwarded, peer))

    def changed(peer: PeerID | None) -> None:
        states.tell(
            f"{local} leads to {command.called(peer)} now." if peer else f"{local} is closed again.",
            event="reverse-listening" if peer else "reverse-closed",
            address=str(local),
            **({"peer": str(peer)} if peer else {}),
        )

    def not_listening(peer: PeerID, error: ListenFailed) -> None:
        notices.tell(f"{command.called(peer)}: {error.__cause__}", peer=str(peer), reason="not-listening")

    await node.serve(service, ReversePort(listening, forwarder, changed, not_listening), Allow(peers))


class ReverseForward:
    """
    Asks for a port of a peer: connections to it go to a port of this machine.

    :param service: the service by which the port is asked for (`listen_service`).
    :param what: what the user calls it.
    """

    def __init__(
        self,
        command: NodeCommand,
        node: NodeAccess,
        local: ForwardAddress,
        peer: PeerID,
        service: str,
        what: str,
    ) -> None:
        self._command = command
        self._node = node
        self._local = local
        self._peer = peer
        self._service = service
        self._what = what
        self._who = command.called(peer)
        self._notices = Notices(command)
        self._states = StateNotices(command)

    async def run(self) -> None:
        """
        Keep the port until the command ends: if it is lost, ask for it again, unless another command of this
        identity has asked for it, too. Otherwise each would take it away from the other for ever.

        :raise CommandFailed: the peer does not give it, or another command has it now.
        """
        token = secrets.token_hex(TOKEN_SIZE // 2)
        exposed = exposed_at(self._command.reactor, self._local, self._not_connected)
        await self._node.serve(reverse_service(token), exposed, Allow(frozenset([self._peer])))
        had, delay = False, FIRST_RETRY
        while True:
            request = PortRequest(token)
            try:
                await request.ask(self._node, self._peer, self._service)
            except (CommandError, ConnectionLost) as error:
                failed = self._failure(error)
                if not had or failure_of(error) is ForwardFailure.RESET:
                    raise failed from None
                self._notices.tell(f"{failed} It is tried again.", reason=failed.reason)
            else:
                had, delay = True, FIRST_RETRY
                self._tell_listening()
                lost = await request.lost
                if failure_of(lost) is ForwardFailure.RESET:
                    raise self._failure(lost)
                self._states.tell(
                    f"{self._what} of {self._who} is closed: the link was lost, or it was closed there. "
                    "It is asked for again.",
                    event="reverse-closed",
                    address=str(self._local),
                    peer=str(self._peer),
                )
            await deferLater(self._command.reactor, delay, lambda: None)
            delay = min(2 * delay, LAST_RETRY)

    def _tell_listening(self) -> None:
        udp = self._local.protocol is Protocol.UDP
        self._states.tell(
            f"{'Datagrams' if udp else 'Connections'} to {self._what} of {self._who} go to {self._local}.",
            event="listening",
            address=str(self._local),
            peer=str(self._peer),
            service=self._service,
        )

    def _not_connected(self, peer: PeerID, failure: ForwardFailure, error: Exception) -> None:
        text = exposed_failure_text(failure, self._who, str(self._local), error)
        self._notices.tell(text, peer=str(peer), reason=failure.reason)

    def _failure(self, error: Exception) -> CommandFailed:
        if isinstance(error, CommandError):
            granted = f"--reverse {option_for(self._local)}{self._what}"
            text = open_failure_text(error.reason, str(error), self._who, granted)
            return CommandFailed(text, status_of(error.reason), error.reason)
        failure = failure_of(error)
        if failure is None:
            return CommandFailed(
                f"The connection to {self._who} was lost, or given up there.", ExitStatus.NO_PATH, "lost"
            )
        if failure is ForwardFailure.RESET:
            # The peer gives its port to whoever of an identity asks last
            text = f"{self._what} of {self._who} leads to another punch forward --reverse now."
            return CommandFailed(text, ExitStatus.REFUSED, failure.reason)
        status = ExitStatus.REFUSED if failure is ForwardFailure.BUSY else ExitStatus.FAILED
        return CommandFailed(unlistened_text(failure, self._who, self._what), status, failure.reason)
