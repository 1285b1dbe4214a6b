"""A peer that proves its key on a link and then sends packets with any frames."""

from __future__ import annotations

import ssl
from collections.abc import Callable, Iterable, Iterator
from itertools import count
from random import Random

from qh3.quic.configuration import QuicConfiguration
from qh3.quic.connection import QuicConnection as Library

from punch.link.proof import LinkCertificate, SecretsLog
from punch.link.quic.interface import ALPN, LOGICAL_ADDRESS, QuicConnection
from punch.link.quic.packet import CONNECTION_ID_LENGTH, HeaderProtection, PacketKey, suites_for
from punch.link.quic.qh3 import Qh3Connection
from punch.test.link.link_pair import CoreEnd, Pipe, Rogue, RogueCallee, RogueCaller

ROOM = 1150
"""Bytes of frames in a packet."""
BATCH = 16
"""Packets that arrive at once."""


class KeptSecrets(SecretsLog):
    """A key log that also keeps the secrets."""

    def __init__(self) -> None:
        super().__init__()
        self.kept: dict[str, bytes] = {}

    def write(self, text: str) -> int:
        label, _, secret = text.split()
        self.kept[label] = bytes.fromhex(secret)
        return super().write(text)


class PacketWriter:
    """Writes 1-RTT packets with the sender's traffic secret, far behind those of its library."""

    def __init__(self, secret: bytes, connection_id: bytes) -> None:
        suite = suites_for(secret)[0]
        self._key = PacketKey(suite, secret)
        self._header = HeaderProtection(suite, secret)
        self._connection_id = connection_id
        self._phase = 0
        self._numbers = count(1000)

    def update_key(self) -> None:
        self._key = self._key.following()
        self._phase ^= 1

    def packet(self, frames: bytes) -> bytes:
        number = next(self._numbers)
        encoded = number.to_bytes(4, "big")
        first = 0x43 | self._phase << 2
        header = bytes([first]) + self._connection_id + encoded
        protected = self._key.seal(number, header, frames + bytes(max(0, 4 - len(frames))))
        mask = self._header.mask(protected[:16])
        number_bytes = bytes(a ^ b for a, b in zip(encoded, mask[1:5], strict=True))
        return bytes([first ^ (mask[0] & 0x1F)]) + self._connection_id + number_bytes + protected


class Flooder:
    """
    The other side of `victim`, which acknowledges nothing once the link is proved.

    :param is_caller: its role.
    """

    def __init__(self, victim: CoreEnd, certificate: LinkCertificate, is_caller: bool) -> None:
        self.victim = victim
        self._secrets = KeptSecrets()
        rogue = self._caller() if is_caller else self._callee(certificate)
        pipe = Pipe(rogue, victim) if is_caller else Pipe(victim, rogue)
        if isinstance(rogue, RogueCaller):
            rogue.on_handshake_done = rogue.prove
        else:
            victim.core.start(0.0)
        assert pipe.run(2.0, lambda: victim.proved)
        pipe.run(0.2)
        self.now = pipe.now
        target = 1 if is_caller else 0
        short = next(data for to, data in pipe.sent if to == target and not data[0] & 0x80)
        label = "CLIENT_TRAFFIC_SECRET_0" if is_caller else "SERVER_TRAFFIC_SECRET_0"
        self.writer = PacketWriter(self._secrets.kept[label], short[1 : 1 + CONNECTION_ID_LENGTH])
        self.sent = 0

    def _configuration(self, is_client: bool) -> QuicConfiguration:
        return QuicConfiguration(
            alpn_protocols=[ALPN],
            is_client=is_client,
            max_datagram_frame_size=1200,
            max_datagram_size=1200,
            probe_datagram_size=False,
            secrets_log_file=self._secrets,  # type: ignore[arg-type]
        )

    def _caller(self) -> RogueCaller:
        configuration = self._configuration(True)
        configuration.verify_mode = ssl.CERT_NONE
        configuration.signature_algorithms = [0x0807]
        quic = Library(configuration=configuration)
        quic.connect(LOGICAL_ADDRESS, 0.0)
        return RogueCaller(Qh3Connection(quic))

    def _callee(self, certificate: LinkCertificate) -> Rogue:
        return RogueCallee(_Server(self._configuration(False)), certificate)

    def send(self, payloads: Iterable[bytes]) -> None:
        """Send packets that arrive at once; the victim's answers are ignored."""
        datagrams = [self.writer.packet(payload) for payload in payloads]
        self.sent += len(datagrams)
        self.now += 0.001
        self.victim.receive(datagrams, self.now)
        self.victim.send(self.now)
        due = self.victim.next_timer()
        if due is not None and due <= self.now:
            self.victim.timer(self.now)

    def flood(self, payloads: Iterator[bytes], most: int) -> bool:
        """Send up to `most` packets, and return whether the victim has ended the link."""
        end = self.sent + most
        while self.victim.closed is None and self.sent < end:
            self.send(next(payloads) for _ in range(BATCH))
        for _ in range(4):
            # If the library itself has closed the connection, it reports so after draining.
            self.now += 1.0
            self.victim.timer(self.now)
            self.victim.send(self.now)
        return self.victim.closed is not None


class _Server:
    """The library of a callee that floods."""

    name = "qh3"

    def __init__(self, configuration: QuicConfiguration) -> None:
        self._configuration = configuration

    def client(self, now: float) -> QuicConnection:
        raise NotImplementedError

    def server(
        self, certificate: LinkCertificate, original_destination_connection_id: bytes
    ) -> QuicConnection:
        if not self._configuration.certificate:
            self._configuration.load_cert_chain(certificate.certificate_pem(), certificate.private_key_pem())
        quic = Library(
            configuration=self._configuration,
            original_destination_connection_id=original_destination_connection_id,
        )
        return Qh3Connection(quic)


def integer(value: int) -> bytes:
    """A variable-length integer (RFC 9000, section 16)."""
    for prefix, length in ((0, 1), (1, 2), (2, 4), (3, 8)):
        if value < 1 << (8 * length - 2):
            return (value | prefix << (8 * length - 2)).to_bytes(length, "big")
    raise ValueError("an integer of QUIC has at most 62 bits")


def packed(frame: Callable[[int], bytes]) -> Iterator[bytes]:
    """Payloads full of `frame(0)`, `frame(1)`, …"""
    payload = b""
    for number in count():
        data = frame(number)
        if len(payload) + len(data) > ROOM:
            yield payload
            payload = b""
        payload += data


def new_connection_id(number: int) -> bytes:
    """NEW_CONNECTION_ID that retires all before."""
    sequence = integer(10 + number)
    return b"\x18" + sequence + sequence + b"\x08" + Random(number).randbytes(24)


FLOODS: dict[str, Callable[[int], bytes]] = {
    "PING": lambda number: b"\x01",
    "ACK": lambda number: b"\x02\x00\x00\x00\x00",
    "RESET_STREAM": lambda number: b"\x04\x04\x01\x02",
    "STOP_SENDING": lambda number: b"\x05\x04\x01",
    "CRYPTO": lambda number: b"\x06" + integer(2 * number + 2) + b"\x01x",
    "CRYPTO again": lambda number: b"\x06\x02\x42\x00" + bytes(512),
    "STREAM, empty": lambda number: b"\x0a\x04\x00",
    "STREAM, again": lambda number: b"\x0e\x04\x00\x01\x01",
    "STREAM, gaps": lambda number: b"\x0e\x04" + integer(2 * number + 4) + b"\x01x",
    "STREAM, runs": lambda number: b"\x0e\x04" + integer(3 + number + number // 64) + b"\x01x",
    "STREAM, pieces": lambda number: (
        b"\x0e" + integer(8 + 4 * (number % 50)) + integer(number // 50) + b"\x01\1"
    ),
    "MAX_DATA": lambda number: b"\x10" + integer((1 << 30) + number),
    "MAX_STREAM_DATA": lambda number: b"\x11\x04" + integer((1 << 30) + number),
    "MAX_STREAMS": lambda number: b"\x12" + integer(1000 + number),
    "DATA_BLOCKED": lambda number: b"\x14\x01",
    "STREAM_DATA_BLOCKED": lambda number: b"\x15\x04\x01",
    "STREAMS_BLOCKED": lambda number: b"\x16\x01",
    "NEW_CONNECTION_ID": new_connection_id,
    "RETIRE_CONNECTION_ID": lambda number: b"\x19" + integer(number + 1),
    "PATH_CHALLENGE": lambda number: b"\x1a" + number.to_bytes(8, "big"),
    "PATH_RESPONSE": lambda number: b"\x1b" + number.to_bytes(8, "big"),
    "DATAGRAM": lambda number: b"\x31\x01x",
    "DATAGRAM, empty": lambda number: b"\x31\x00",
}
"""Frames of RFC 9000 and RFC 9221 that a caller may send; stream 4 has the name "x"."""
CALLEE_FLOODS: dict[str, Callable[[int], bytes]] = {
    "NEW_TOKEN": lambda number: b"\x07\x10" + number.to_bytes(16, "big"),
    "HANDSHAKE_DONE": lambda number: b"\x1e",
}
"""Frames that only a callee may send."""


def big_pieces(number: int) -> bytes:
    """Pieces as large as packets, on four streams, with gaps: all that flow control allows has to be kept."""
    return (
        b"\x0e"
        + integer(8 + 4 * (number % 4))
        + integer(1 + number // 4 * 1121)
        + integer(1120)
        + bytes(1120)
    )


BULK: dict[str, Callable[[int], bytes]] = {
    "PADDING": lambda number: bytes(ROOM),
    "DATAGRAM, whole packets": lambda number: b"\x30" + bytes(ROOM - 1),
    "STREAM, large": big_pieces,
}
"""Frames as large as packets. A caller that transfers much sends such ones, so more of them are taken."""
