"""
The link of a call: how it is made when the peers have been introduced, and the parts that exist once it is
proved: ICE restarts, attempts at a direct path, reports of the path, and the exchange of prekeys.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from punch.link.core import LinkCore
from punch.link.frames import OptionalFrameType, decode_slowed
from punch.link.link import Link
from punch.link.proof import LinkCertificate
from punch.link.status import LinkStatus
from punch.net.driver import Timed
from punch.node.calls.call_context import CallContext
from punch.node.calls.path_reports import PathReports
from punch.node.calls.prekeys import PrekeyExchange
from punch.node.calls.signaling import Introduction, Signaling
from punch.node.events import Event
from punch.node.paths.ice_restart import IceRestarts, LinkTerms
from punch.node.paths.ice_transport import IceTransport
from punch.node.punching.coordinator import Punching
from punch.node.punching.tcp import TCPPunching
from punch.wire.peers.nat_profile import NatProfile


def introduced_link(
    signaling: Signaling,
    introduction: Introduction,
    certificate: LinkCertificate | None,
    transport: IceTransport,
    context: CallContext,
    *,
    guest: bool,
    status: Callable[[], LinkStatus | None],
) -> tuple[Link, LinkTerms]:
    """
    Make the link, which `transport` carries from now on, and the terms by which it may be restarted.

    :param certificate: the link certificate of this side; None on the caller's side.
    :param guest: whether the call was accepted for a service only.
    :param status: returns what `Link.status` is.
    """
    core = LinkCore(
        role=signaling.role,
        identity=context.identity,
        remote=signaling.peer,
        offer_digest=introduction.offer_digest,
        answer_digest=introduction.answer_digest,
        certificate=certificate,
        certificate_sha256=introduction.certificate_sha256,
        random=context.random,
        clock=context.monotonic,
        now=context.monotonic(),
    )
    link = Link(
        core,
        clock=context.clock,
        monotonic=context.monotonic,
        send=transport.send,
        room=transport.room,
        wait_for_room=transport.wait_for_room,
        services=context.services,
        guest=guest,
        status=status,
    )
    transport.carry(link)
    digest = introduction.certificate_sha256 if certificate is None else certificate.sha256
    assert digest is not None
    return link, LinkTerms(introduction.offer_digest, digest)


class ProvedLink:
    """
    The parts of a call whose link is proved.

    :param name: the name that the other side signed.
    :param nats: what the other side has said about its NATs.
    :param changed: called when a part has something to send.
    :param tell: takes the events about the path.
    :ivar restarts: finds new paths for the link. It begins nothing until there has been a path: a link that
        is proved and never gets a path fails as a call does.
    :ivar punching: finds a direct path while there is a relayed one.
    :ivar tcp_punching: the same over TCP.
    :ivar reports: what applications are told about the path.
    """

    def __init__(
        self,
        name: str | None,
        link: Link,
        transport: IceTransport,
        context: CallContext,
        *,
        terms: LinkTerms,
        nats: Sequence[NatProfile],
        changed: Callable[[], None],
        tell: Callable[[Event], None],
    ) -> None:
        peer = link.remote
        self.restarts = IceRestarts(
            peer, terms, link, transport, context, changed=changed, path_lost=self._path_lost
        )
        self.punching = Punching(peer, link, transport, context, nats, changed)
        self.tcp_punching = TCPPunching(
            peer, link, transport, context, lambda: self.punching.time_for_udp, changed
        )
        self.reports = PathReports(
            name, link, transport, context, nats=nats, punching=self.punching, tell=tell
        )
        self._prekeys = PrekeyExchange(
            link, context.prekeys, context.clock, lambda: context.calls.knows(peer)
        )

    @property
    def timed(self) -> list[Timed]:
        """The parts whose timers are to be called."""
        return [self.restarts, self.reports.debounced, self.tcp_punching]

    def path_found(self, now: float) -> None:
        """There is a path, or another one than before."""
        self.restarts.path_found(now)
        self.punching.path_changed(now)
        self.tcp_punching.path_changed(now)

    def receive_frame(self, frame_type: int, payload: bytes, now: float) -> None:
        """
        Take a control frame of the other side.

        :raise RestartError, PunchingError, PrekeyError, FrameError: it is wrong.
        """
        self.restarts.receive_frame(frame_type, payload, now)
        self.punching.receive_frame(frame_type, payload, now)
        self.tcp_punching.receive_frame(frame_type, payload, now)
        if frame_type == OptionalFrameType.PREKEY:
            self._prekeys.receive(payload)
        elif frame_type == OptionalFrameType.SLOWED:
            self.reports.slowed_there(decode_slowed(payload), now)

    def close(self) -> None:
        """The link is over."""
        self._prekeys.close()
        self.restarts.close()
        self.punching.close()
        self.tcp_punching.close()

    def _path_lost(self) -> None:
        self.reports.path_lost()
