"""The node of this process, as programs of the user share it: those in this process, and attached ones."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict
from typing import TYPE_CHECKING

from twisted.internet.defer import Deferred, fail, succeed
from twisted.internet.error import ConnectionDone, ConnectionLost
from twisted.internet.interfaces import IProtocol, IProtocolFactory, IReactorTime
from twisted.python.failure import Failure

from punch.contacts import AddressBook, UnknownPeer, find_peer
from punch.identity import PeerID
from punch.link.events import LinkError, LinkStatus, Path, ServiceRefused, StreamLimitError
from punch.local.access import DELIVERY_TIME, Allow, TransferReport, TransferReports
from punch.local.protocol import JSON, REFUSALS, CommandError
from punch.net.driver import Timer
from punch.node.events import CallFailed, Event, Registered, Unregistered
from punch.sentences import sentence_of
from punch.wire.rendezvous_address import RendezvousAddress

if TYPE_CHECKING:
    from punch.link.link import Link
    from punch.link.services import Authorize
    from punch.node.node import Node

ANSWER_TIME = 3.0
"""
Seconds after which a link is asked whether it still answers, if a stream that was opened on it is not
accepted.
"""


def path_fields(path: Path) -> JSON:
    """Return the fields of a path, in links and events (docs/json.md)."""
    return {
        "path": path.kind,
        "local": str(path.local),
        "remote": str(path.remote),
        "protocol": path.protocol,
        "rtt": path.rtt,
    }


def slowed_field(link: LinkStatus) -> str | None:
    """Return the limit of a relay that slows a link down now, in lists of links (docs/json.md)."""
    return None if link.slowed is None else link.slowed.name.lower()


Sentence = Callable[[CallFailed | Unregistered], str]


class OwnNode:
    """
    The node of this process: `NodeAccess` for programs in it, and what the commands of attached ones do.

    :param name: what the node calls itself now.
    :param sentence: says to the user why a call, or the registration, failed.
    :ivar reports: the transfers of programs that share the node, this process among them.
    """

    def __init__(
        self,
        node: Node,
        *,
        book: AddressBook,
        clock: IReactorTime,
        rendezvous: Sequence[RendezvousAddress],
        name: Callable[[], str],
        sentence: Sentence,
    ) -> None:
        self.peer_id = node.identity.peer_id
        self.rendezvous = ",".join(map(str, rendezvous))
        self.name = name
        self._node = node
        self._book = book
        self._clock = clock
        self._sentence = sentence
        self._allowed: dict[str, Allow] = {}
        self._defaults: dict[str, tuple[IProtocolFactory, Authorize]] = {}
        self._serving_default: dict[str, Callable[[], None]] = {}
        self._lost: list[Deferred[None]] = []
        self.reports = TransferReports()
        self._unregistered: Unregistered | None = None
        node.subscribe(self._note)

    def find(self, who: str) -> PeerID:
        """
        Return the peer that an ID or a name of the address book means.

        :raise CommandError: there is none.
        """
        try:
            return find_peer(self._book, who)
        except UnknownPeer as error:
            raise CommandError("bad-peer-id", sentence_of(error)) from None

    def connect(self, peer: PeerID) -> Deferred[Link]:
        """Return the link to a peer, which is called if there is none. It fails with `CommandError`."""
        return Deferred.fromCoroutine(self._connect(peer))

    def open(self, peer: PeerID, service: str, factory: IProtocolFactory) -> Deferred[IProtocol]:
        """Implement `NodeAccess.open`."""
        return Deferred.fromCoroutine(self._open(peer, service, factory))

    def serve(self, service: str, factory: IProtocolFactory, allow: Allow) -> Deferred[Callable[[], None]]:
        """Implement `NodeAccess.serve`."""
        if service in self._serving_default:
            self._serving_default.pop(service)()
        try:
            stop = self._node.serve(service, factory, allow.authorize, takes_calls=True)
        except ValueError as error:
            taken = service in self._node.status.services
            return fail(CommandError("service-taken" if taken else "bad-service", f"{error}."))
        self._allowed[service] = allow

        def end() -> None:
            if self._allowed.get(service) is allow:
                del self._allowed[service]
            stop()
            self._serve_default(service)

        return succeed(end)

    def serve_by_default(self, service: str, factory: IProtocolFactory, authorize: Authorize) -> None:
        """
        Answer streams to a service while no program serves it with `serve`, until the node stops.

        :raise ValueError: as `INode.serve`.
        """
        self._defaults[service] = factory, authorize
        self._serve_default(service)

    def _serve_default(self, service: str) -> None:
        if service in self._defaults and service not in self._node.status.services:
            self._serving_default[service] = self._node.serve(service, *self._defaults[service])

    def when_delivered(self, peer: PeerID) -> Deferred[bool]:
        """Implement `NodeAccess.when_delivered`."""
        link = self._node.link(peer)
        return succeed(False) if link is None else link.when_delivered(DELIVERY_TIME)

    def status(self) -> Deferred[JSON]:
        """Implement `NodeAccess.status`."""
        status = self._node.status
        return succeed(
            {
                "id": str(self.peer_id),
                "name": self.name(),
                "registered": status.rendezvous is not None,
                "rendezvous": status.rendezvous,
                "problem": self._problem(),
                "post_quantum": status.post_quantum,
                "links": [
                    {
                        "peer": str(link.peer),
                        "petname": self._book.name_of(link.peer),
                        "name": link.name,
                        **path_fields(link.status.path),
                        "dark": link.status.disconnected,
                        "slowed": slowed_field(link.status),
                        "streams": link.streams,
                        "post_quantum": link.post_quantum,
                        "post_quantum_offers": link.status.post_quantum_offers,
                        "punching": {
                            "technique": link.punching.technique.value,
                            "attempts": link.punching.attempts,
                            "packets": link.punching.packets,
                            "bytes": link.punching.bytes,
                        },
                        "techniques": {
                            technique.value: asdict(done) for technique, done in link.techniques.items()
                        },
                        "tcp_punching": {
                            "attempts": link.tcp_punching.attempts,
                            "packets": link.tcp_punching.packets,
                            "bytes": link.tcp_punching.bytes,
                        },
                    }
                    for link in status.links
                ],
                "port_mappings": [
                    {
                        "protocol": each.base.protocol,
                        "local": str(each.base),
                        "external": str(each.external),
                        "method": each.method.value,
                    }
                    for each in status.port_mappings
                ],
                "port_mapping_requests": {
                    method.value: asdict(asked) for method, asked in status.port_mapping_requests.items()
                },
                "nats": [each.to_json() for each in status.nats],
                "calling": [str(peer) for peer in status.calling],
                "services": [
                    {"service": service, "allow": self._allow_field(service)} for service in status.services
                ],
                "program_transfers": [
                    {**report.fields(), "petname": self._book.name_of(report.peer)}
                    for report in self.reports.all
                ],
            }
        )

    def report_transfer(self, transfer: int, report: TransferReport | None) -> Deferred[None]:
        """Implement `NodeAccess.report_transfer`."""
        try:
            self.reports.put(self, transfer, report)
        except CommandError as error:
            return fail(error)
        return succeed(None)

    def when_lost(self) -> Deferred[None]:
        """Implement `NodeAccess.when_lost`: fires with `stop`."""
        waiter: Deferred[None] = Deferred()
        self._lost.append(waiter)
        return waiter

    def stop(self) -> None:
        """The node stops: tell those who wait for it."""
        lost, self._lost = self._lost, []
        for waiter in lost:
            waiter.callback(None)

    def _note(self, event: Event) -> None:
        if isinstance(event, Unregistered):
            self._unregistered = event
        elif isinstance(event, Registered):
            self._unregistered = None

    def _problem(self) -> JSON | None:
        """Why the node is not registered, once that is known."""
        event = self._unregistered
        if event is None:
            return None
        return {
            "reason": event.reason,
            "text": self._sentence(event),
            "final": event.retry_in is None,
        }

    def _allow_field(self, service: str) -> str | list[str] | None:
        allow = self._allowed.get(service)
        if allow is None:
            return None
        if allow.anyone:
            return "anyone"
        return sorted(map(str, allow.peers)) or "granted"

    async def _connect(self, peer: PeerID) -> Link:
        try:
            return await self._node.connect(peer)
        except CallFailed as failed:
            raise self._call_error(failed) from None

    async def _open(self, peer: PeerID, service: str, factory: IProtocolFactory) -> IProtocol:
        try:
            link = self._node.link(peer)
            if link is None:
                link = await self._connect(peer)
                return await link.connect(service, factory)
            return await self._open_on(link, peer, service, factory)
        except ServiceRefused as refused:
            raise CommandError(REFUSALS[refused.code], str(refused)) from None
        except StreamLimitError as error:
            raise CommandError("too-many", str(error)) from None
        except ValueError as error:
            raise CommandError("bad-service", f"{error}.") from None
        except (LinkError, ConnectionDone, ConnectionLost) as error:
            raise CommandError("lost", f"The link was lost before the service answered: {error}") from None

    async def _open_on(self, link: Link, peer: PeerID, service: str, factory: IProtocolFactory) -> IProtocol:
        """Open a stream on a link that may be dead: then the peer is called again, or is away."""
        failures: list[CallFailed] = []
        opening = link.connect(service, factory)

        def ask() -> None:
            self._node.connect(peer).addErrback(give_up)

        def give_up(failure: Failure) -> None:
            failed = failure.value
            if isinstance(failed, CallFailed) and not opening.called:
                failures.append(failed)
                opening.cancel()

        timer = Timer(self._clock)
        timer.start(ANSWER_TIME, ask)
        try:
            return await opening
        except Exception:  # the reason is one of `_open`'s, unless the call of `ask` has failed
            if failures:
                raise self._call_error(failures[0]) from None
            raise
        finally:
            timer.cancel()

    def _call_error(self, failed: CallFailed) -> CommandError:
        return CommandError(failed.reason, self._sentence(failed))
