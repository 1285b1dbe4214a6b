"""QUIC connections of qh3, a QUIC core in Rust; those of the other library are in `aioquic.py`."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from typing import Any, Final

from punch.identity import RandomBytes
from punch.link.proof import LinkCertificate
from punch.link.quic.interface import (
    LOGICAL_ADDRESS,
    MAX_RECEIVED,
    NO_FLIGHT,
    QuicConnection,
    as_quic_error,
    common_settings,
    library_errors,
)
from punch.link.quic.packet import PacketReader, read_frames
from punch.link.quic.receive_limits import LimitExceeded, ReceiveLimits, Sampler
from punch.net.send_window import Flight

_ED25519: Final = 0x0807
AT_ONCE: Final = 64
"""Packets given to the library before their events are counted."""
MANY_EVENTS: Final = 32
"""If a packet causes this many events, the frames of each of the next packets are read."""
SLOW: Final = 0.001
"""
If packets take this many seconds each, on average, the frames of each of the next packets are read. A packet
of a bulk transfer takes some microseconds; frames that the library compares with all earlier ones take ever
longer.
"""
_BLOCKED: Final = "packet builder capacity exhausted"
"""What qh3 says when the first thing that it wants to send is larger than what it may send."""


def stopped() -> float:
    """A clock for callers that don't measure how long the library takes."""
    return 0.0


class HybridKey:
    """
    A client's key for X25519MLKEM768, which records that it was used: qh3 does not tell which of the offered
    groups the server has chosen.
    """

    def __init__(self, key: Any) -> None:
        self._key = key
        self.used = False

    def exchange(self, public_key: bytes) -> bytes:
        """Return the shared key."""
        shared: bytes = self._key.exchange(public_key)
        self.used = True
        return shared


class Qh3Connection(QuicConnection):
    """
    A connection of qh3.

    :param library: qh3's connection.
    :param random: chooses which packets are read.
    :param clock: returns seconds, to measure how long the library takes.
    """

    def __init__(
        self, library: Any, random: RandomBytes = os.urandom, clock: Callable[[], float] = stopped
    ) -> None:
        from qh3.quic import events
        from qh3.quic.connection import QuicConnectionError

        super().__init__(library, events, (QuicConnectionError, ValueError), ReceiveLimits())
        self._clock = clock
        self._sampler = Sampler(random)
        self._reader: PacketReader | None = None

    def receive(self, datagrams: Sequence[bytes], now: float) -> None:
        if self.discarded:
            return
        usable = [data for data in datagrams if 0 < len(data) <= MAX_RECEIVED]
        reader = self._reader
        try:
            if reader is None:
                self.library.receive_many_datagrams(usable, LOGICAL_ADDRESS, now)
                return
            for at in range(0, len(usable), AT_ONCE):
                self._take_some(reader, usable[at : at + AT_ONCE], now)
        except LimitExceeded:
            raise
        except BaseException as error:
            raise as_quic_error(error) from error

    def _take_some(self, reader: PacketReader, datagrams: list[bytes], now: float) -> None:
        start = 0
        for index, weight in self._sampler.choose(len(datagrams), now):
            if start < index:
                self._feed(datagrams[start:index], now)
            start = index + 1
            payload = reader.read(datagrams[index])
            if self._feed([datagrams[index]], now):
                if payload is None:
                    self.limits.unreadable(now)
                else:
                    self.limits.frames(read_frames(payload), now, weight)
        if start < len(datagrams):
            self._feed(datagrams[start:], now)

    def _feed(self, datagrams: list[bytes], now: float) -> int:
        """
        Do what the library's own `receive_many_datagrams` does after the handshake. That method does not tell
        how many packets were authentic and new, or how many events they caused.
        """
        began, count = self._clock(), len(datagrams)
        report = self.library._core.receive_many_datagrams(datagrams, LOGICAL_ADDRESS, now)
        packets: int = report[2]
        self.library._drain_core()
        if report[5] > MANY_EVENTS * count or self._clock() - began > SLOW * count:
            self._sampler.read_each_next()
        self.limits.packets(packets, now)
        self.limits.events(report[5], now)
        return packets

    def datagrams_to_send(self, now: float) -> list[bytes]:
        # The library's own method parses each packet again for a log that nobody reads, which takes a third
        # of a sender's time; this is the rest of that method.
        core = self.library._core
        datagrams: list[bytes] = []
        if core is None:
            return datagrams
        poll = core.poll_transmit
        try:
            while (transmit := poll(now)) is not None:
                datagrams.append(transmit[0])
        except BaseException as error:
            if not isinstance(error, RuntimeError) or str(error) != _BLOCKED:
                raise as_quic_error(error) from error
            # Before its client's address is validated, a server may send three times what it received (RFC
            # 9000, section 8.1). Of a datagram, qh3 counts the packet alone: a client that pads its Initial
            # behind the packet, as aioquic does, leaves no room for the rest of the server's flight. There
            # is room when the next datagram comes, and the library keeps all that it has to send.
        self.packets_sent += len(datagrams)
        return datagrams

    def send(self, stream_id: int, data: bytes | bytearray | memoryview, fin: bool) -> None:
        self.limits.sent(len(data))
        try:
            self.library.send_stream_data(stream_id, data, fin)
        except BaseException as error:
            self._refused_or_failed(error)

    def unsent(self, stream_id: int) -> int:
        try:
            size: int = self.library.get_send_buffer_size(stream_id)
        except BaseException as error:
            self._refused_or_failed(error)
            return 0
        return size

    def flight(self) -> Flight:
        # Private, because the library has no public way to read these, nor the smoothed round-trip time below
        core = self.library._core
        if core is None:
            return NO_FLIGHT
        try:
            unsent = core.get_send_buffer_size(None)
            return Flight(core.bytes_in_flight, core.congestion_window, unsent, core.latest_rtt)
        except BaseException as error:
            self._refused_or_failed(error)
            return NO_FLIGHT

    def _certificate(self) -> bytes | None:
        certificate = self.library.get_peercert()
        return None if certificate is None else bytes(certificate.public_bytes())

    def _is_post_quantum(self) -> bool:
        # A server makes the key of the group that it has chosen, and no other.
        key = self.library.tls._x25519_kyber_768_private_key
        return key.used if isinstance(key, HybridKey) else key is not None

    def _smoothed_rtt(self) -> float | None:
        # Not public in qh3 2.x, whose version is pinned below 3: the estimate of its recovery, which leaves
        # out the other side's delay before acknowledging, as a measurement from outside could not.
        core = self.library._core
        rtt: float | None = None if core is None else core.smoothed_rtt
        return rtt

    def _loss_count(self) -> int:
        core = self.library._core
        return 0 if core is None else int(core.loss_total + core.pto_total)

    def _count_frames(self, secret: bytes) -> None:
        self._reader = PacketReader(secret)


class Qh3Backend:
    """
    qh3 (`QuicBackend`).

    :param random, clock: see `Qh3Connection`.
    """

    name = "qh3"

    def __init__(self, random: RandomBytes = os.urandom, clock: Callable[[], float] = stopped) -> None:
        self._random = random
        self._clock = clock

    def client(self, now: float) -> QuicConnection:
        with library_errors():
            from punch.link.quic.qh3_library import Library

            library = Library(configuration=self.configuration(True))
            library.connect(LOGICAL_ADDRESS, now)
            tls: Any = library.tls
            tls._x25519_kyber_768_private_key = HybridKey(tls._x25519_kyber_768_private_key)
            return Qh3Connection(library, self._random, self._clock)

    def server(
        self, certificate: LinkCertificate, original_destination_connection_id: bytes
    ) -> QuicConnection:
        with library_errors():
            from punch.link.quic.qh3_library import Library

            configuration = self.configuration(False)
            configuration.load_cert_chain(certificate.certificate_pem(), certificate.private_key_pem())
            # Without ticket handler and fetcher, the library can neither issue tickets nor accept one.
            library = Library(
                configuration=configuration,
                original_destination_connection_id=original_destination_connection_id,
            )
            return Qh3Connection(library, self._random, self._clock)

    def configuration(self, is_client: bool) -> Any:
        """Return qh3's configuration of a connection."""
        from qh3.quic.configuration import QuicConfiguration

        configuration = QuicConfiguration(**common_settings(is_client), probe_datagram_size=False)
        if is_client:
            configuration.signature_algorithms = [_ED25519]
        return configuration
