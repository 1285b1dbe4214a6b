"""
Ports of one side whose connections go to the other side: `punch forward --reverse` asks for one,
`punch expose --reverse` grants it.
"""

from __future__ import annotations

import secrets
from functools import partial

from twisted.internet.error import ConnectionLost
from twisted.internet.protocol import DatagramProtocol, Factory
from twisted.internet.task import deferLater

from punch.apps.forward.addresses import ForwardAddress, Protocol
from punch.apps.forward.failures import ForwardFailure, failure_of
from punch.apps.forward.reverse import (
    TOKEN_SIZE,
    ListenFailed,
    ListeningPort,
    PortRequest,
    ReversePort,
    reverse_service,
)
from punch.cli.exit_status import ExitStatus, status_of
from punch.cli.node_command import CommandFailed, NodeCommand
from punch.cli.notices import Notices, StateNotices
from punch.cli.ports import exposed_at, forwarder_for, listen, option_for
from punch.identity import PeerID
from punch.local.access import Allow, NodeAccess
from punch.local.protocol import CommandError
from punch.ui.text.forwards import (
    exposed_failure_text,
    open_failure_text,
    reversed_failure_text,
    unlistened_text,
)

FIRST_RETRY, LAST_RETRY = 1.0, 30.0
"""Seconds after which a port that was lost is asked for again, and the longest such time."""


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
            raise ListenFailed(str(error)) from None
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
        notices.tell(f"{command.called(peer)}: {error}", peer=str(peer), reason="not-listening")

    await node.serve(service, ReversePort(listening, forwarder, changed, not_listening), Allow(peers))


class ReverseForward:
    """
    Asks for a port of a peer: connections to it go to a port of this machine.

    :param service: by which the port is asked for (`listen_service`).
    :param what: how the user calls it.
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
        identity has asked for it, too. Else each would take it away from the other for ever.

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
