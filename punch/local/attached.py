"""The node of another process, and its streams, as a program that is attached to it uses them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from twisted.internet.defer import CancelledError, Deferred, gatherResults
from twisted.internet.error import ConnectError, ConnectionAborted, ConnectionDone, ConnectionLost
from twisted.internet.interfaces import (
    IProtocol,
    IProtocolFactory,
    IReactorTime,
    IStreamClientEndpoint,
)
from twisted.internet.protocol import Factory
from twisted.logger import Logger
from twisted.python.failure import Failure

from punch.identity import PeerID, PeerIDError
from punch.local.access import Allow, TransferReport
from punch.local.node_connections import (
    Admitted,
    CommandConnection,
    NodeConnection,
    NodeGone,
    StreamConnection,
)
from punch.local.protocol import JSON, CommandError


def _factory(protocol: NodeConnection) -> IProtocolFactory:
    factory = Factory.forProtocol(lambda: protocol)
    factory.noisy = False
    return factory


class AttachedNode:
    """
    The node of another process: `NodeAccess` over its socket.

    :ivar peer_id: the ID of the node.
    """

    _log = Logger()

    def __init__(
        self,
        endpoint: IStreamClientEndpoint,
        clock: IReactorTime,
        admitted: Admitted,
        control: CommandConnection,
        greeting: JSON,
    ) -> None:
        self.peer_id = PeerID.parse(str(greeting.get("id")))
        self.rendezvous = str(greeting.get("rendezvous"))
        self._endpoint = endpoint
        self._clock = clock
        self._admitted = admitted
        self._control = control
        self._lost: list[Deferred[None]] = []
        self._ending: set[StreamConnection] = set()
        """Streams that are over, and whose last bytes the node has not taken yet."""
        self._gone = False
        control.on_lost = self._control_lost

    @classmethod
    async def attach(
        cls,
        endpoint: IStreamClientEndpoint,
        clock: IReactorTime,
        admitted: Admitted = lambda transport: True,
    ) -> AttachedNode:
        """
        Attach to the node that listens at an endpoint.

        :param admitted: asked about each connection.
        :raise ConnectError: nobody listens there.
        :raise CommandError: it does not take this program, or belongs to somebody else.
        """
        control = CommandConnection(clock, admitted)
        await endpoint.connect(_factory(control))
        greeting = await control.greeted
        try:
            return cls(endpoint, clock, admitted, control, greeting)
        except PeerIDError:
            control.channel.abortConnection()
            raise CommandError("malformed", "What listens at the socket is no node of Punch.") from None

    def ask(self, command: str, **fields: Any) -> Deferred[JSON]:
        """Give a command, and return its result; fails with `CommandError`."""
        return self._control.ask({"command": command, **fields})

    def status(self) -> Deferred[JSON]:
        """Implement `NodeAccess.status`."""
        return self.ask("status")

    def when_delivered(self, peer: PeerID) -> Deferred[bool]:
        """Implement `NodeAccess.when_delivered`."""
        taken = gatherResults([each.when_taken() for each in self._ending if each.remote == peer])
        return taken.addCallback(all)

    def open(self, peer: PeerID, service: str, factory: IProtocolFactory) -> Deferred[IProtocol]:
        """Implement `NodeAccess.open`."""
        command = {"command": "open", "peer": str(peer), "service": service, "framed": True}
        return Deferred.fromCoroutine(self._connect(command, peer, service, factory))

    def serve(self, service: str, factory: IProtocolFactory, allow: Allow) -> Deferred[Callable[[], None]]:
        """Implement `NodeAccess.serve`: on a connection of its own, which ends with the service."""
        return Deferred.fromCoroutine(self._serve(service, factory, allow))

    def report_transfer(self, transfer: int, report: TransferReport | None) -> Deferred[None]:
        """Implement `NodeAccess.report_transfer`."""
        fields = {"over": True} if report is None else report.fields()
        return self.ask("report-transfer", transfer=transfer, **fields).addCallback(lambda _: None)

    def when_lost(self) -> Deferred[None]:
        """Implement `NodeAccess.when_lost`."""
        waiter: Deferred[None] = Deferred()
        if self._gone:
            waiter.callback(None)
        else:
            self._lost.append(waiter)
        return waiter

    def detach(self) -> None:
        """Close the connection; its services end."""
        self._control.channel.loseConnection()

    async def _serve(self, service: str, factory: IProtocolFactory, allow: Allow) -> Callable[[], None]:
        program = CommandConnection(self._clock, self._admitted)
        program.on_stream = lambda fields: self._stream_waits(fields, factory, program)
        await self._dial(program)
        fields: JSON = {"command": "serve", "service": service}
        if allow.anyone:
            fields["allow"] = "anyone"
        elif allow.peers:
            fields["allow"] = sorted(map(str, allow.peers))
        try:
            await program.ask(fields)
            factory.doStart()
        except Exception:  # of any kind, as the factory is the application's
            program.channel.loseConnection()
            raise
        # Without the service, whoever waits for the loss of the node is to serve again
        program.on_lost = self.detach

        def stop() -> None:
            program.on_lost = lambda: None
            factory.doStop()
            program.channel.loseConnection()

        return stop

    def _stream_waits(self, fields: JSON, factory: IProtocolFactory, program: CommandConnection) -> None:
        """A peer opens a stream to a service of ours."""
        try:
            peer, service, number = (
                PeerID.parse(fields["peer"]),
                str(fields["service"]),
                int(fields["stream"]),
            )
        except (KeyError, TypeError, ValueError):
            self._log.warn("The node tells of a stream that is none.")
            return
        command = {"command": "accept-stream", "stream": number, "framed": True}
        accepting = Deferred.fromCoroutine(self._connect(command, peer, service, factory))
        accepting.addErrback(self._not_accepted, program, number)

    def _not_accepted(self, failure: Failure, program: CommandConnection, number: int) -> None:
        if not isinstance(failure.value, (CommandError, ConnectionAborted, ConnectionDone, ConnectionLost)):
            self._log.failure("A stream could not be accepted.", failure)
        # The peer would wait for it else. An error says that the node does not wait any more.
        refusing = program.ask({"command": "refuse-stream", "stream": number})
        refusing.addErrback(lambda _: None)

    async def _connect(
        self, command: JSON, peer: PeerID, service: str, factory: IProtocolFactory
    ) -> IProtocol:
        """Make a connection that becomes a stream."""
        carrier = StreamConnection(
            self._clock, self._admitted, self.peer_id, peer, service, command, self._ending
        )
        await self._dial(carrier)
        return await carrier.begin(factory)

    async def _dial(self, protocol: NodeConnection) -> None:
        try:
            await self._endpoint.connect(_factory(protocol))
        except (ConnectError, OSError) as error:
            raise NodeGone from error
        try:
            await protocol.greeted
        except CancelledError:
            protocol.channel.abortConnection()
            raise

    def _control_lost(self) -> None:
        self._gone = True
        lost, self._lost = self._lost, []
        for waiter in lost:
            waiter.callback(None)
