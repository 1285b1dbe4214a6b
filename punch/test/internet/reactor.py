"""The reactor of one host: what production code is given instead of Twisted's."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

from twisted.internet import error
from twisted.internet.defer import Deferred, DeferredList, fail, maybeDeferred, succeed
from twisted.internet.interfaces import (
    IConnector,
    IHalfCloseableDescriptor,
    IHostnameResolver,
    IListeningPort,
    IReactorCore,
    IReactorFromThreads,
    IReactorPluggableNameResolver,
    IReactorTCP,
    IReactorUDP,
)
from twisted.internet.protocol import AbstractDatagramProtocol, ClientFactory, Factory
from twisted.python.failure import Failure
from zope.interface import implementer

from punch.test.internet.clock import Clock
from punch.test.internet.packet import is_ipv6
from punch.test.internet.resolver import Resolver
from punch.test.internet.transports import SimulatedConnector, SimulatedPort
from punch.test.internet.udp import SimulatedUDPPort

if TYPE_CHECKING:
    from punch.test.internet.host import Host
    from punch.test.internet.tcp import TCPSocket

_PHASES = ("before", "during", "after")
Trigger = tuple[str, str, Callable[..., Any], tuple[Any, ...], dict[str, Any]]


@implementer(
    IReactorCore,
    IReactorFromThreads,
    IReactorPluggableNameResolver,
    IReactorTCP,
    IReactorUDP,
)
class HostReactor(Clock):
    """
    A reactor whose time, sockets and names are simulated. It runs from the start, as `Internet` lets time
    pass.

    TCP transports are Twisted's own on simulated sockets; for them there are `addReader` and the like, but it
    does not provide `IReactorFDSet`: nothing here has a file descriptor. Exceptions that Twisted's reactors
    would log go through to whoever lets time pass.
    """

    def __init__(self, host: Host) -> None:
        super().__init__(host.net.scheduler)
        self.host = host
        self.nameResolver: IHostnameResolver = Resolver(host.net)
        self.running = True
        self._triggers: list[Trigger] = []
        self._readers: dict[Any, None] = {}
        self._writers: dict[Any, None] = {}
        self._polling: set[Any] = set()
        self._open: dict[Any, None] = {}

    # -- IReactorCore, as far as a process that runs already can need it --

    def callWhenRunning(self, callable: Callable[..., Any], *args: object, **kwargs: object) -> None:
        callable(*args, **kwargs)

    def addSystemEventTrigger(
        self, phase: str, eventType: str, callable: Callable[..., Any], *args: object, **kwargs: object
    ) -> Trigger:
        if phase not in _PHASES:
            raise KeyError("invalid phase")
        trigger = (phase, eventType, callable, args, kwargs)
        self._triggers.append(trigger)
        return trigger

    def removeSystemEventTrigger(self, triggerID: Trigger) -> None:
        self._triggers.remove(triggerID)

    def fireSystemEvent(self, eventType: str) -> None:
        Deferred.fromCoroutine(self._fire(eventType))

    async def _fire(self, event: str) -> None:
        """Run an event's triggers, phase by phase; in the end, raise the first error."""
        triggers = [trigger for trigger in self._triggers if trigger[1] == event]
        self._triggers = [trigger for trigger in self._triggers if trigger[1] != event]
        failures: list[Failure] = []
        for phase in _PHASES:
            running = [
                maybeDeferred(call, *args, **kw) for each, _, call, args, kw in triggers if each == phase
            ]
            for succeeded, result in await DeferredList(running, consumeErrors=True):
                if not succeeded:
                    failures.append(result)
        if failures:
            failures[0].raiseException()

    def stop(self) -> None:
        if not self.running:
            raise error.ReactorNotRunning("Can't stop reactor that isn't running.")
        self.callLater(0, self.shut_down)

    def shut_down(self) -> Deferred[None]:
        """What happens between `stop` and the end of the process; fires with the first error of a trigger."""

        def ended(result: Any) -> Any:
            self.host.kill()
            return result

        return Deferred.fromCoroutine(self._fire("shutdown")).addBoth(ended)

    def end(self) -> None:
        """Be a reactor where nothing has run yet: timers, sockets and triggers are gone, untold."""
        self.cancel_all()
        self._triggers.clear()
        self._readers.clear()
        self._writers.clear()
        self._polling.clear()
        self._open.clear()

    def run(self) -> None:
        raise RuntimeError("a simulated reactor runs when its Internet lets time pass")

    def iterate(self, delay: float = 0) -> None:
        raise RuntimeError("a simulated reactor runs when its Internet lets time pass")

    def crash(self) -> None:
        self.running = False

    # -- names --

    def installNameResolver(self, resolver: IHostnameResolver) -> IHostnameResolver:
        previous, self.nameResolver = self.nameResolver, resolver
        return previous

    def resolve(self, name: str, timeout: Sequence[int] = ()) -> Deferred[str]:
        for host in Resolver(self.host.net).look_up(name):
            if not is_ipv6(host):
                return succeed(host)
        return fail(error.DNSLookupError(f"no results for hostname lookup: {name}"))

    # -- threads: there is one --

    def callFromThread(self, callable: Callable[..., Any], *args: object, **kwargs: object) -> None:
        self.callLater(0, callable, *args, **kwargs)

    # -- sockets --

    def listenUDP(
        self, port: int, protocol: AbstractDatagramProtocol, interface: str = "", maxPacketSize: int = 8192
    ) -> IListeningPort:
        listening = SimulatedUDPPort(self.host, port, protocol, interface, maxPacketSize)
        listening.startListening()
        return listening

    def listenTCP(
        self, port: Any, factory: Factory, backlog: int = 50, interface: str = ""
    ) -> IListeningPort:
        listening = SimulatedPort(port, factory, backlog, interface, self)
        listening.startListening()
        self.opened(listening)
        return listening

    def connectTCP(
        self,
        host: str,
        port: int,
        factory: ClientFactory[Any],
        timeout: float = 30,
        bindAddress: Any = None,
    ) -> IConnector:
        connector = SimulatedConnector(host, port, factory, timeout, bindAddress, self)
        connector.connect()
        return connector

    def opened(self, port: Any) -> None:
        """Remember a listening port, for `open_ports`."""
        self._open[port] = None

    def closed(self, port: Any) -> None:
        """Undo `opened`."""
        self._open.pop(port, None)

    @property
    def open_ports(self) -> list[Any]:
        """The listening ports that are not closed, in the order of opening."""
        return list(self._open)

    # -- readiness of simulated sockets, for Twisted's transports --

    def addReader(self, reader: Any) -> None:
        self._readers[reader] = None
        self._watch(reader)

    def addWriter(self, writer: Any) -> None:
        self._writers[writer] = None
        self._watch(writer)

    def removeReader(self, reader: Any) -> None:
        self._readers.pop(reader, None)

    def removeWriter(self, writer: Any) -> None:
        self._writers.pop(writer, None)

    def _watch(self, selectable: Any) -> None:
        sock: TCPSocket = selectable.socket
        sock.on_ready = lambda: self._ready(selectable)
        if self._wants(selectable, sock):
            self._ready(selectable)

    def _wants(self, selectable: Any, sock: TCPSocket) -> bool:
        return (selectable in self._readers and sock.is_readable) or (
            selectable in self._writers and sock.is_writable
        )

    def _ready(self, selectable: Any) -> None:
        if selectable not in self._polling and (selectable in self._readers or selectable in self._writers):
            self._polling.add(selectable)
            self.scheduler.at(max(self.scheduler.now, self.paused_until), self._poll, selectable)

    def _poll(self, selectable: Any) -> None:
        """Read and write once, as one turn of a reactor does."""
        self._polling.discard(selectable)
        sock: TCPSocket | None = getattr(selectable, "socket", None)
        if sock is not None and selectable in self._readers and sock.is_readable:
            self._attempt(selectable, "doRead")
        if sock is not None and selectable in self._writers and sock.is_writable:
            self._attempt(selectable, "doWrite")
        sock = getattr(selectable, "socket", None)
        if sock is not None and self._wants(selectable, sock):
            self._ready(selectable)

    def _attempt(self, selectable: Any, method: str) -> None:
        try:
            why = getattr(selectable, method)()
        except BaseException:
            # Twisted logs it and drops the connection; here the test that lets time pass gets it as well.
            self._disconnect(selectable, Failure())
            raise
        if why is None:
            return
        if method == "doRead" and isinstance(why, error.ConnectionDone):
            self.removeReader(selectable)
            if IHalfCloseableDescriptor.providedBy(selectable):
                selectable.readConnectionLost(Failure(why))
                return
        self._disconnect(selectable, Failure(why))

    def _disconnect(self, selectable: Any, reason: Failure) -> None:
        self.removeReader(selectable)
        self.removeWriter(selectable)
        selectable.connectionLost(reason)
