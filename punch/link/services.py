"""The services that answer the streams of links, by name, and the codes with which streams are refused."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Final, NamedTuple

from twisted.internet.interfaces import IProtocolFactory
from twisted.internet.protocol import Factory, Protocol
from twisted.logger import Logger

from punch.identity import PeerID
from punch.link.events import RefusalCode, encode_name

if TYPE_CHECKING:
    from punch.link.transport import StreamTransport

Authorize = Callable[[PeerID], bool]
"""Whether a peer may open a service."""

LEASE: Final = "lease/1"
"""The service behind `Link.hold`: a stream that carries nothing and keeps the link open."""


class Lease:
    """Keeps a link open (`Link.hold`)."""

    def __init__(self, release: Callable[[Lease], None]) -> None:
        self._release = release

    def release(self) -> None:
        """End the lease. A second call has no effect."""
        self._release(self)


class _Service(NamedTuple):
    factory: IProtocolFactory
    authorize: Authorize
    takes_calls: bool = False


def anyone(peer: PeerID) -> bool:
    """Authorize every peer that there is a link with (but see `Services.answer` about guests)."""
    return True


class Services:
    """The services of one node. All of its links share this table."""

    _log = Logger()

    def __init__(self) -> None:
        # Streams whose service is not served yet, the oldest first, and whether their peers are guests
        self._waiting: dict[StreamTransport, bool] = {}
        leases = Factory.forProtocol(Protocol)
        leases.noisy = False
        self._services = {LEASE: _Service(leases, anyone)}

    def serve(
        self,
        name: str,
        factory: IProtocolFactory,
        authorize: Authorize = anyone,
        *,
        takes_calls: bool = False,
    ) -> Callable[[], None]:
        """
        Answer streams that are opened to a service.

        :param name: 1 to 255 bytes of UTF-8; by convention a name and a version, such as "echo/1".
        :param factory: builds a protocol for each stream; its `buildProtocol` is given a `LinkAddress`. None
            in place of a protocol refuses the stream as not allowed.
        :param authorize: asked for each stream whether its peer may open the service.
        :param takes_calls: whether peers that may open it may also call (`expects`).
        :return: call it to stop the service; streams that are open stay open.
        :raise ValueError: the name is empty, too long, or served already.
        """
        encode_name(name)
        if name in self._services:
            raise ValueError(f"the service {name!a} is served already: stop the other one first")
        factory.doStart()
        service = self._services[name] = _Service(factory, authorize, takes_calls)
        for stream, guest in [waiting for waiting in self._waiting.items() if waiting[0].name == name]:
            self.forget(stream)
            self.answer(stream, guest)

        def stop() -> None:
            if self._services.get(name) is service:
                del self._services[name]
                factory.doStop()

        return stop

    @property
    def names(self) -> list[str]:
        """The names of the services, without that of leases."""
        return [name for name in self._services if name != LEASE]

    def expects(self, peer: PeerID) -> bool:
        """Whether a service is there for a peer, if it calls. One that fails to say so is not."""
        return any(self._expects(each, peer) for each in list(self._services.values()) if each.takes_calls)

    def _expects(self, service: _Service, peer: PeerID) -> bool:
        try:
            return service.authorize(peer)
        except Exception:  # of any kind, as the function is the application's; it lets nobody in
            self._log.failure("A service failed to say who may open it.")
            return False

    def answer(self, stream: StreamTransport, guest: bool = False) -> bool:
        """
        Answer a stream that the other side opened: connect it to a protocol of its service, or refuse it.

        :param guest: whether nobody was asked about the peer's call, and it was accepted because a service
            takes calls. Guests may open such services only: others may be for everybody who has a link.
        :return: False if there is no such service; the stream is left as it is.
        """
        service = self._services.get(stream.name)
        if service is None:
            return False
        try:
            address = stream.getPeer()
            invited = service.takes_calls or not guest or stream.name == LEASE
            allowed = invited and service.authorize(address.peer)
            protocol = service.factory.buildProtocol(address) if allowed else None
        except Exception:  # of any kind, as both functions are the application's; the link goes on
            self._log.failure("The service {name!r} failed to answer a stream.", name=stream.name)
            stream.refuse(RefusalCode.FAILED)
            return True
        if protocol is None:
            stream.refuse(RefusalCode.NOT_ALLOWED)
        else:
            stream.accept(protocol)
        return True

    def wait(self, stream: StreamTransport, guest: bool = False) -> None:
        """Answer a stream as soon as its service is there; `guest` as in `answer`."""
        self._waiting[stream] = guest

    def forget(self, stream: StreamTransport) -> None:
        """A stream waits no longer."""
        self._waiting.pop(stream, None)
