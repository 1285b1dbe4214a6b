"""
One QUIC connection of a link, until it is proved: from then on, its stream multiplexer receives and sends,
and only timers and the end still go through this module.

On the caller's side it is proved when the handshake has completed with the certificate that the callee's
answer named. On the callee's side it is proved when the caller's proof, the first 65 bytes of stream 0,
verifies. Data that arrives on other streams before, because datagrams were reordered, is kept here. An
unproved connection may send 64 KiB in all.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from hashlib import sha256
from hmac import compare_digest
from typing import Final

from punch.identity import Identity, PeerID
from punch.link.control_stream import (
    APPLICATION_CODES,
    CONTROL_STREAM,
    encode_close,
    explain,
    explain_failure,
)
from punch.link.events import CloseCode, LinkLimits, LinkRole
from punch.link.multiplexer import StreamMultiplexer
from punch.link.proof import (
    PROOF_LENGTH,
    ProofError,
    check_proof,
    check_proof_version,
    make_proof,
)
from punch.link.quic.interface import ALPN, QuicConnection, QuicError, QuicStreamLimit
from punch.link.quic.receive_limits import LimitExceeded
from punch.net.deadlines import earliest

MOST_HELD: Final = 1024
"""How many events are kept until a connection is proved."""


@dataclass(frozen=True)
class Terms:
    """The peers of a link, and the SHA-256 hashes of the sealed offer and answer."""

    role: LinkRole
    identity: Identity
    remote: PeerID
    offer_digest: bytes
    answer_digest: bytes
    certificate_sha256: bytes | None
    """The hash of the callee's certificate, on the caller's side only."""


@dataclass(frozen=True)
class Callbacks:
    """What a connection calls when its state changes."""

    proved: Callable[[Connection, float], StreamMultiplexer]
    """The connection was proved at that time. Returns its stream multiplexer."""
    ended: Callable[[Connection, CloseCode, str, bool], None]
    """The connection ended: code, reason, whether the other side ended it."""
    connection_id: Callable[[Connection, bytes, bool], None]
    """A connection ID came into use (True) or is no longer used (False)."""


class Connection:
    """
    A QUIC connection and its proof. What arrives before the proof is kept for the stream multiplexer.

    :ivar streams: its stream multiplexer, None until it is proved.
    :ivar heard: whether a datagram has arrived that was for this connection, according to its header.
    """

    def __init__(
        self, quic: QuicConnection, terms: Terms, limits: LinkLimits, callbacks: Callbacks, now: float
    ) -> None:
        self.quic = quic
        self.connection_ids: set[bytes] = set()
        self.streams: StreamMultiplexer | None = None
        self.heard = False
        self._limits = limits
        self._began = self._last_heard = now
        self._handshake_at = now
        self._terms = terms
        self._budget: int | None = limits.unproved_bytes
        self._callbacks = callbacks
        self._now = now
        self._handshake_done = False
        self._proof = bytearray()
        self._over = False
        self._last: list[bytes] = []
        # Events that came before the proof, as calls of the multiplexer's methods, in order
        self._held: list[Callable[[StreamMultiplexer], None]] = []

    @property
    def over(self) -> bool:
        """Whether it has ended."""
        return self._over or (self.streams is not None and self.streams.over)

    @property
    def deadline(self) -> float:
        """
        When an unproved connection is closed. A silent caller has 5 s. A caller that continues to send, or
        whose handshake took long, has more time. A callee waits longer if round trips are long, because the
        caller knows about the link half a round trip earlier.
        """
        began, limits = self._began, self._limits
        if self._terms.role is LinkRole.CALLER:
            return began + limits.prove_seconds
        if self._handshake_done:
            end = self._handshake_at + 4 * (self._handshake_at - began)
        else:
            end = self._last_heard + 2 * (self._last_heard - began)
            end = max(end, self._last_heard + limits.unproved_seconds)
        return min(max(end, began + limits.unproved_seconds), began + limits.slowest_seconds)

    def receive(self, datagrams: Sequence[bytes], now: float) -> None:
        """Process datagrams, unless `streams` does."""
        self._at(now)
        self._last_heard, self.heard = now, True
        if self._budget is not None and not self.over:
            self._budget -= sum(map(len, datagrams))
            if self._budget < 0:
                self.close(CloseCode.REFUSED, "Too much was sent before the link proof.")
                return
        try:
            self.quic.receive(datagrams, now)
        except (QuicError, LimitExceeded) as error:
            self._failed(error)
        try:
            self.quic.deliver(self)
        except (QuicError, LimitExceeded) as error:
            self._failed(error)

    def _failed(self, error: QuicError | LimitExceeded) -> None:
        self.close(*explain_failure(error))

    def get_timer(self) -> float | None:
        """When to call `handle_timer`, in monotonic seconds; None: not needed."""
        timer = self.quic.get_timer()
        if self.over:
            return timer
        return earliest((timer, self.deadline if self.streams is None else self.streams.get_timer()))

    def handle_timer(self, now: float) -> None:
        """
        Run the library's timer if it is due, and check the deadlines of the proof and of streams' names.
        """
        self._at(now)
        timer = self.quic.get_timer()
        if timer is not None and now >= timer:
            try:
                self.quic.handle_timer(now)
                self.quic.deliver(self)
            except (QuicError, LimitExceeded) as error:
                self._failed(error)
        if self.over:
            return
        if self.streams is not None:
            self.streams.handle_timer(now)
        elif now >= self.deadline:
            self.close(CloseCode.TIMEOUT, "The link was not proved in time.")

    def datagrams_to_send(self, now: float) -> list[bytes]:
        """
        Return the datagrams to send now. Between the proof and the end, `streams` is asked for them instead.
        """
        self._at(now)
        out, self._last = self._last, []
        try:
            out += self.quic.datagrams_to_send(now)
        except (QuicError, LimitExceeded) as error:
            self._failed(error)
        if self.over and self.quic.get_timer() is None:
            self.quic.discard()
        return out

    def close(self, code: CloseCode, reason: str) -> None:
        """Close the connection from our side, if it is open."""
        if not self.over:
            self.close_quic(code, reason)
            self._callbacks.ended(self, code, reason, False)

    def close_quic(self, code: CloseCode, reason: str) -> None:
        """
        Close the QUIC connection without calling `Callbacks.ended`.

        The libraries report a CONNECTION_CLOSE only when the connection has drained, so the code and reason
        are sent on the control stream before.
        """
        self._over = True
        if self.streams is not None:
            self._last += self.streams.close(code, reason)
        elif self._proof:
            with suppress(QuicError, LimitExceeded):
                self.quic.send(CONTROL_STREAM, encode_close(code, reason), False)
                self._last += self.quic.datagrams_to_send(self._now)
        self._forget()
        self.quic.close(APPLICATION_CODES + code, reason)

    def _forget(self) -> None:
        self._over = True
        if self.streams is not None:
            # QUIC reports its end here, not to them, on a timer or in the datagrams that prove the link
            self.streams.over = True
        self._held.clear()
        self.quic.erase_secrets()

    def _at(self, now: float) -> None:
        self._now = now
        if self.streams is not None:
            self.streams.now = now

    # Events of the QUIC library (QuicSink)

    def on_handshake(self, alpn: str | None, resumed: bool) -> None:
        if self.over:
            return
        self._handshake_done = True
        self._handshake_at = self._now
        if resumed:
            # A resumed connection has no peer certificate, and may carry early data, which can be replayed
            self.close(CloseCode.PROOF, "A link is never resumed.")
        elif alpn != ALPN:
            self.close(CloseCode.PROTOCOL, "The other side does not speak the protocol of a link.")
        elif self._terms.role is LinkRole.CALLER:
            self._prove_ourselves()

    def _prove_ourselves(self) -> None:
        terms, certificate = self._terms, self.quic.peer_certificate()
        digest = b"" if certificate is None else sha256(certificate).digest()
        if not compare_digest(digest, terms.certificate_sha256 or b"\0" * 32):
            self.close(CloseCode.PROOF, "The other side has not the certificate that its answer named.")
            return
        try:
            binding = self.quic.binding()
        except ProofError as error:
            self.close(CloseCode.PROOF, str(error))
            return
        proof = make_proof(terms.identity, terms.remote, terms.offer_digest, terms.answer_digest, binding)
        try:
            stream_id = self.quic.open_stream()
        except QuicStreamLimit:
            self.close(CloseCode.PROTOCOL, "The other side allows no streams.")
            return
        self.quic.send(stream_id, proof, False)
        self._begin()

    def _take_proof(self, data: bytes, fin: bool) -> None:
        self._proof += data
        try:
            if self._proof:
                check_proof_version(self._proof[0])
            if len(self._proof) < PROOF_LENGTH:
                if fin:
                    raise ProofError("The link proof is cut short.")
                return
            terms = self._terms
            check_proof(
                bytes(self._proof[:PROOF_LENGTH]),
                caller=terms.remote,
                callee=terms.identity.peer_id,
                offer_digest=terms.offer_digest,
                answer_digest=terms.answer_digest,
                binding=self.quic.binding(),
            )
        except ProofError as error:
            self.close(CloseCode.PROOF, str(error))
            return
        rest = bytes(self._proof[PROOF_LENGTH:])
        self._proof.clear()
        streams = self._begin()
        if rest or fin:
            streams.on_stream_data(CONTROL_STREAM, rest, fin)

    def _begin(self) -> StreamMultiplexer:
        self._budget = None
        self.quic.erase_secrets()
        streams = self.streams = self._callbacks.proved(self, self._now)
        held, self._held = self._held, []
        for call in held:
            call(streams)
        return streams

    def on_stream_data(self, stream_id: int, data: bytes, fin: bool) -> None:
        if self.over:
            return
        if self.streams is not None:
            self.streams.on_stream_data(stream_id, data, fin)
        elif not self._handshake_done:
            self.close(CloseCode.PROTOCOL, "The other side sent data before the handshake was done.")
        elif self._terms.role is LinkRole.CALLEE and stream_id == CONTROL_STREAM:
            self._take_proof(data, fin)
        else:
            self._hold(partial(StreamMultiplexer.on_stream_data, stream_id=stream_id, data=data, fin=fin))

    def on_stream_reset(self, stream_id: int, code: int) -> None:
        if self.over:
            return
        if self.streams is not None:
            self.streams.on_stream_reset(stream_id, code)
        elif stream_id == CONTROL_STREAM:
            self.close(CloseCode.PROOF, "The link proof was broken off.")
        else:
            self._hold(partial(StreamMultiplexer.on_stream_reset, stream_id=stream_id, code=code))

    def _hold(self, call: Callable[[StreamMultiplexer], None]) -> None:
        """
        Keep an event until the proof. The number of events is bounded as well as their bytes, because small
        ones have overhead.
        """
        if len(self._held) >= MOST_HELD:
            self.close(CloseCode.REFUSED, "Too much was sent before the link proof.")
        else:
            self._held.append(call)

    def on_datagram(self, data: bytes) -> None:
        if self.over:
            return
        if self.streams is not None:
            self.streams.on_datagram(data)
        elif len(self._held) < MOST_HELD // 4:
            # Datagrams are unreliable, so one too many is dropped and is not an error
            self._held.append(partial(StreamMultiplexer.on_datagram, data=data))

    def on_ping_answered(self) -> None:
        if self.streams is not None:
            self.streams.on_ping_answered()

    def on_connection_id(self, connection_id: bytes, added: bool) -> None:
        self._callbacks.connection_id(self, connection_id, added)

    def on_terminated(self, code: int, application: bool, reason: str) -> None:
        if self.over:
            return
        self._forget()
        self._callbacks.ended(self, *explain(code, application, reason))
