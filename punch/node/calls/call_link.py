"""
The link of a call: how it is made when the peers have been introduced (`introduced_link`), and the parts that
exist once it is proved (`ProvedLink`): ICE restarts, attempts at a direct path, the exchange of prekeys, and
what applications are told about the path (`PathReports`), which is also remembered for later calls.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace

from punch.ice.pairs import Pair
from punch.ice.punching.techniques import Technique
from punch.link.control_stream import OptionalFrameType, decode_slowed
from punch.link.core import LinkCore
from punch.link.events import LinkStatus, Path
from punch.link.link import Link
from punch.link.proof import LinkCertificate
from punch.net.driver import Timed, Timer
from punch.node.calls.call_context import CallContext
from punch.node.calls.prekeys import PrekeyExchange
from punch.node.calls.signaling import Introduction, Signaling
from punch.node.causes import RelayFailure
from punch.node.events import Connected, Event, PathChanged, PathLost, PathSlowed
from punch.node.paths.ice_restart import IceRestarts, LinkTerms
from punch.node.paths.ice_transport import IceTransport
from punch.node.paths.path import DebouncedPath
from punch.node.punching.coordinator import Punching
from punch.node.punching.tcp import TCPPunching
from punch.wire.peers.nat_profile import NatProfile
from punch.wire.stun_attributes import RelayLimit

RELAYED = 10.0
"""Seconds that a link must have lasted when it ends on a relay, for that to be remembered."""
LASTED = 3.0
"""Seconds after which the path of a link is remembered; that of a shorter link is at its end."""


class PathReports:
    """
    The reports about the path of a proved link. There are none before `connected`.

    :param name: the name that the other side signed.
    :param nats: what the other side has told about its NATs.
    :param punching: knows by which technique a path was found.
    :param tell: takes the events.
    :ivar status: the state of the link as it was last reported; None before `connected`.
    :ivar debounced: decides which changes of the path are reported; its timer is to be called.
    """

    def __init__(
        self,
        name: str | None,
        link: Link,
        transport: IceTransport,
        context: CallContext,
        *,
        nats: Sequence[NatProfile],
        punching: Punching,
        tell: Callable[[Event], None],
    ) -> None:
        self.status: LinkStatus | None = None
        self.debounced = DebouncedPath(self._tell_change)
        self._peer = link.remote
        self._name = name
        self._link = link
        self._transport = transport
        self._context = context
        self._nats = nats
        self._punching = punching
        self._tell = tell
        self._pair: Pair | None = None
        self._network: str | None = None
        self._connected_at = 0.0
        self._timer = Timer(context.clock)

    @property
    def current(self) -> LinkStatus | None:
        """The state of the link as it was last reported, with the limit that slows its path down now."""
        if self.status is None:
            return None
        return replace(self.status, slowed=self._transport.relays.limit(self._context.monotonic()))

    def connected(self, pair: Pair, network: str | None, post_quantum_offers: bool) -> None:
        """
        The link is proved, and its path is this pair.

        :param network: the network that this machine was in when the pair was selected, if that is known.
        """
        self._pair, self._network = pair, network
        path = self._path_of(pair)
        self.status = LinkStatus(
            path,
            self._context.wall(),
            post_quantum=self._link.post_quantum,
            post_quantum_offers=post_quantum_offers,
        )
        self._connected_at = self._context.monotonic()
        self.debounced.announced(path)
        self._timer.start(LASTED, self._remember)
        self._tell(Connected(self._peer, self._name or "", path, self._link))

    def pair_selected(self, pair: Pair, network: str | None, now: float) -> None:
        """The path is this pair now; `network` as in `connected`."""
        self._pair, self._network = pair, network
        if self.status is not None:
            self.debounced.changed(self._path_of(pair), now)

    def path_lost(self) -> None:
        """The link has had no path for a while."""
        self.debounced.lost()
        if self.status is not None:
            self.status = replace(self.status, disconnected=True)
        failure = self._context.network.relays.failure
        refused = failure if failure in (RelayFailure.QUOTA, RelayFailure.FULL) else None
        self._tell(PathLost(self._peer, self._name, refused))

    def slowed(self, limit: RelayLimit, begins: bool) -> None:
        """A relay of ours drops datagrams of the path. The other side is told by us, and not by the relay."""
        if self.status is None:
            return
        if begins:
            self._tell(PathSlowed(self._peer, limit, self._name))
        self._link.try_send_control(OptionalFrameType.SLOWED, bytes([limit]))

    def slowed_there(self, limit: RelayLimit | None, now: float) -> None:
        """
        A relay of the other side drops datagrams of the path. None: because of a limit that this version does
        not know.
        """
        if limit is None or self.status is None or self._pair is None:
            return
        # The path may have changed while the frame was on its way
        if self._pair.path == "relay" and self._transport.relays.peer_limited(limit, now):
            self._tell(PathSlowed(self._peer, limit, self._name, there=True))

    def close(self) -> None:
        """The link is over: nothing more is told."""
        if self.status is not None:
            self._remember(over=True)
        self._timer.cancel()

    def _path_of(self, pair: Pair) -> Path:
        rtt = pair.rtt or self._link.rtt or 0.0
        return Path(pair.path, pair.local.address, pair.remote_address, pair.local.protocol, rtt)

    def _tell_change(self) -> None:
        if self._pair is None or self.status is None:
            return
        path = self._path_of(self._pair)
        self.status = replace(self.status, path=path, disconnected=False)
        if not self._timer.running:
            # Not at once: the other side may change the path as often as it likes, and this is written
            self._timer.start(LASTED, self._remember)
        self._tell(PathChanged(self._peer, path))

    def _remember(self, *, over: bool = False) -> None:
        """
        Remember a direct path that works, or, when the link is `over`, a relayed one that has lasted.
        """
        pair, network, generations = self._pair, self._network, self._transport.generations
        if pair is None or network is None or not generations.working:
            return
        paths = self._context.paths
        if pair.path != "relay":
            over_tcp = pair.local_base.protocol == "tcp"
            technique = Technique.TCP if over_tcp else self._punching.technique_of(pair.local_base)
            paths.worked(self._peer, network, pair.remote_address.host, pair.path, technique)
        elif over and self._nats and self._context.monotonic() >= self._connected_at + RELAYED:
            paths.worked(self._peer, network, self._nats[0].host, pair.path, Technique.RELAY)


def introduced_link(
    signaling: Signaling,
    introduction: Introduction,
    certificate: LinkCertificate | None,
    transport: IceTransport,
    context: CallContext,
    *,
    guest: bool,
    status: Callable[[], LinkStatus | None],
    on_control: Callable[[int, bytes], object],
    on_connection_id: Callable[[bytes, bool], object],
) -> tuple[Link, LinkTerms]:
    """
    Make the link, which `transport` carries from now on, and the terms by which it may be restarted.

    :param certificate: the link certificate of this side; None on the caller's side.
    :param guest: whether the call was accepted for a service only.
    :param status: returns what `Link.status` is.
    :param on_control: as of `Link`, and so is `on_connection_id`.
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
    link = (context.make_link or Link)(
        core,
        clock=context.clock,
        monotonic=context.monotonic,
        send=transport.send,
        room=transport.room,
        wait_for_room=transport.wait_for_room,
        services=context.services,
        guest=guest,
        status=status,
        on_control=on_control,
        on_connection_id=on_connection_id,
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
    :ivar punching: looks for a direct path over UDP while the link is on a relay.
    :ivar tcp_punching: looks for one over TCP.
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

        :raise PayloadError, PrekeyError, FrameError: it is wrong.
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
