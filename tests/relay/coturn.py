"""A stock coturn, on this machine or in a network namespace."""

from __future__ import annotations

import hmac
import subprocess
import time
from base64 import b64encode
from collections.abc import Sequence
from datetime import datetime, timedelta, timezone
from ipaddress import ip_address
from pathlib import Path
from typing import Any

from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from cryptography.x509.oid import NameOID

from punch.wire.rendezvous_address import pin_of
from punch.wire.turn import RelayServer, TurnTransport, TurnURI
from tests.needs import need
from tests.ports import wait_until_open

SECRET = "north of the tests"
REALM = "example.org"


def credentials(expires: float = 3600.0) -> tuple[str, str]:
    """By the convention of coturn's use-auth-secret."""
    username = f"{int(time.time() + expires)}:tests"
    return username, b64encode(hmac.digest(SECRET.encode(), username.encode(), "sha1")).decode()


class Coturn:
    """
    A turnserver with a certificate of its own.

    :param host: the address that it listens on, and relays from.
    :param prefix: puts it somewhere (`ip netns exec …`).
    """

    def __init__(
        self, directory: Path, host: str, port: int, tls_port: int, *, prefix: Sequence[str] = ()
    ) -> None:
        need("turnserver")
        self.host, self.port, self.tls_port = host, port, tls_port
        self.certificate, self.pin = _certificate(directory, host)
        self._directory = directory
        self._prefix = prefix
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        """Run it, and wait until it listens."""
        directory = self._directory
        loopback = ["--allow-loopback-peers"] if ip_address(self.host).is_loopback else []
        self._process = subprocess.Popen(
            [
                *self._prefix,
                *("turnserver", "-n", "--log-file", "stdout", "--simple-log", "--no-cli"),
                *("--no-multicast-peers", *loopback),
                *("--listening-ip", self.host, "--relay-ip", self.host, "--realm", REALM),
                *("--listening-port", str(self.port), "--tls-listening-port", str(self.tls_port)),
                *("--use-auth-secret", "--static-auth-secret", SECRET, "--fingerprint"),
                *("--cert", str(directory / "certificate.pem"), "--pkey", str(directory / "key.pem")),
                *("--pidfile", str(directory / "pid"), "--userdb", str(directory / "users")),
            ],
            stdout=subprocess.DEVNULL,
            stderr=subprocess.STDOUT,
            cwd=directory,
        )
        wait_until_open(self._process, ("udp", self.port), ("tcp", self.port), ("tcp", self.tls_port))

    def server(self, transport: TurnTransport, **changes: Any) -> RelayServer:
        """What a rendezvous would hand out for it."""
        port = self.tls_port if transport is TurnTransport.TLS else self.port
        username, password = credentials()
        known: dict[str, Any] = {
            "url": TurnURI(self.host, port, transport),
            "username": username,
            "password": password,
            "realm": REALM,
            "nonce": "",
            "lifetime": 3600.0,
            "pin": self.pin if transport is TurnTransport.TLS else None,
        }
        return RelayServer(**(known | changes))

    def kill(self) -> None:
        """End it without a word (SIGKILL)."""
        if self._process is not None:
            self._process.kill()
            self._process.wait()


def _certificate(directory: Path, host: str) -> tuple[Path, bytes]:
    """Signed by itself, for its address; its key and the pin."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "coturn")])
    now = datetime.now(timezone.utc)
    certificate = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - timedelta(days=1))
        .not_valid_after(now + timedelta(days=1))
        .add_extension(x509.SubjectAlternativeName([x509.IPAddress(ip_address(host))]), critical=False)
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        .sign(key, SHA256())
    )
    path = directory / "certificate.pem"
    path.write_bytes(certificate.public_bytes(Encoding.PEM))
    pem = key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
    (directory / "key.pem").write_bytes(pem)
    return path, pin_of(key.public_key())
