"""The rendezvous as a real process on this machine: `twistd -n punch-rendezvous`."""

from __future__ import annotations

import contextlib
import json
import os
import resource
import signal
import socket
import ssl
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat

from punch.identity import Identity
from punch.test.rendezvous.control_client import key_of, key_of_another_kind
from punch.wire.control import Accept, Message, Ping, Register
from punch.wire.control_lines import encode
from punch.wire.rendezvous_address import RendezvousAddress, pin_of
from punch.wire.stun import MessageClass, Method, parse
from punch.wire.stun import StunMessage as STUNMessage
from punch.wire.stun import encode as encode_stun
from punch.wire.stun_attributes import Attribute
from tests.consoles import terminal
from tests.needs import has_ipv6, missing
from tests.processes import TWISTD, JSONProcess, Programs, comes_to_rest

FREE = ("--control", "tcp:0:interface=127.0.0.1", "--reflector-port", "0")


class ControlConnection:
    """A control connection over a real socket."""

    def __init__(
        self,
        address: RendezvousAddress,
        key: tuple[Any, Any] | None,
        directory: Path,
        source: str = "",
        header: bytes = b"",
    ) -> None:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
        context.set_alpn_protocols(["punch/1"])
        if key is not None:
            path = directory / f"client-{time.monotonic_ns()}.pem"
            path.write_bytes(
                key[0].private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
                + key[1].public_bytes(Encoding.PEM)
            )
            context.load_cert_chain(path)
            path.unlink()
        plain = socket.create_connection(
            (address.host, address.port), 10, source_address=(source, 0) if source else None
        )
        plain.sendall(header)
        self.context = context
        self.socket = context.wrap_socket(plain)
        self.file = self.socket.makefile("rwb")

    def send(self, *messages: Message) -> None:
        for message in messages:
            self.file.write(encode(message) + b"\n")
        self.file.flush()

    def read(self) -> dict[str, Any]:
        line = self.file.readline()
        assert line, "the service closed the connection"
        value: dict[str, Any] = json.loads(line)
        return value

    def close(self) -> None:
        self.file.close()
        self.socket.close()


def register(
    address: RendezvousAddress, directory: Path, seconds: float, source: str = ""
) -> ControlConnection:
    """A client that is registered within so many seconds; like a peer, it tries again when it is put off."""
    deadline = time.monotonic() + seconds
    while True:
        try:
            client = ControlConnection(address, key_of(Identity.generate()), directory, source)
            client.send(Register("x", Accept.ASK))
            assert client.read()["type"] == "welcome"
            assert time.monotonic() < deadline
            return client
        except (OSError, AssertionError):
            if time.monotonic() > deadline:
                raise
            time.sleep(0.1)


def listening(service: JSONProcess) -> RendezvousAddress:
    """Where it listens, once it does."""
    return RendezvousAddress.parse(service.wait("listening")["address"])


def ask_reflector(host: str, port: int) -> tuple[Any, str]:
    """The reflexive address, and the address that the answer came from."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    with socket.socket(family, socket.SOCK_DGRAM) as asker:
        asker.settimeout(5)
        request = STUNMessage(Method.BINDING, MessageClass.REQUEST, os.urandom(12))
        asker.sendto(encode_stun(request, fingerprint=False), (host, port))
        data, origin = asker.recvfrom(2048)
        mapped = parse(data).get(Attribute.XOR_MAPPED_ADDRESS)
        assert mapped is not None
        assert mapped.port == asker.getsockname()[1]
        return mapped, str(origin[0])


def test_registered_and_gone(running: Programs, tmp_path: Path) -> None:
    service = running.rendezvous(*FREE)
    address = listening(service)
    assert address.host == "127.0.0.1"
    alice = Identity.generate()
    client = ControlConnection(address, key_of(alice), tmp_path)
    client.send(Register("Alice", Accept.ASK), Ping())
    welcome = client.read()
    assert (welcome["type"], welcome["id"], welcome["address"]) == (
        "welcome",
        str(alice.peer_id),
        "127.0.0.1",
    )
    assert client.read() == {"type": "pong"}
    registered = service.wait("registered")
    assert (registered["peer"], registered["name"]) == (str(alice.peer_id), "Alice")
    assert registered["time"] >= 0
    client.close()
    assert service.wait("gone")["peer"] == str(alice.peer_id)
    mapped, _ = ask_reflector("127.0.0.1", welcome["reflector"])
    assert mapped.host == "127.0.0.1"


def test_no_flags_listens_on_both_families(running: Programs, tmp_path: Path) -> None:
    for port, kind in ((7001, socket.SOCK_STREAM), (3478, socket.SOCK_DGRAM)):
        with socket.socket(socket.AF_INET, kind) as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                probe.bind(("0.0.0.0", port))
            except OSError:
                missing(f"port {port} is in use on this machine")
    service = running.rendezvous()
    address = listening(service)
    assert address.port == 7001
    for host in ["127.0.0.1", *(["::1"] if has_ipv6() else [])]:
        client = ControlConnection(RendezvousAddress(host, 7001), key_of(Identity.generate()), tmp_path)
        client.send(Register("x", Accept.ASK))
        welcome = client.read()
        assert (welcome["address"], welcome["reflector"]) == (host, 3478)
        mapped, origin = ask_reflector(host, 3478)
        assert (mapped.host, origin) == (host, host)
        client.close()
    # From the address that was asked, on a host with several.
    assert ask_reflector("127.0.0.77", 3478)[1] == "127.0.0.77"
    left = (tmp_path / "state" / "rendezvous" / "address").read_text().strip()
    assert RendezvousAddress.parse(left) == RendezvousAddress("127.0.0.1", 7001, address.pin)
    if not has_ipv6():
        missing("this machine has no IPv6 loopback address: only IPv4 was tried")


def test_behind_a_balancer(running: Programs, tmp_path: Path) -> None:
    """Peers are counted at the addresses that the PROXY header names, and both families are listened on."""
    service = running.rendezvous(
        *("--control", "haproxy:tcp:0", "--reflector-port", "0", "--host", "127.0.0.1"),
        *("--connections-per-address", "1"),
    )
    port = listening(service).port
    clients = []
    for number, host in enumerate(["127.0.0.1", *(["::1"] if has_ipv6() else [])]):
        for source in (f"203.0.{number}.1", f"203.0.{number}.2"):
            header = b"PROXY TCP4 %b 127.0.0.1 4000 7001\r\n" % source.encode()
            key = key_of(Identity.generate())
            client = ControlConnection(RendezvousAddress(host, port), key, tmp_path, header=header)
            clients.append(client)
            client.send(Register("x", Accept.ASK))
            line = client.read()
            assert (line["type"], line["address"]) == ("welcome", source)
    late = ControlConnection(
        RendezvousAddress("127.0.0.1", port), key_of(Identity.generate()), tmp_path, header=header
    )
    line = late.read()
    assert line["code"] == "too-many"
    assert "--connections-per-address" in line["text"]
    for client in (*clients, late):
        client.close()


def test_a_header_that_waits_to_be_accepted(running: Programs) -> None:
    """A busy process finds the PROXY header when it accepts: that is no connection that begins wrongly."""
    service = running.rendezvous(
        *("--control", "haproxy:tcp:0", "--reflector-port", "0", "--host", "127.0.0.1")
    )
    port = listening(service).port
    service.kill(signal.SIGSTOP)
    try:
        early = socket.create_connection(("127.0.0.1", port))
        early.sendall(b"PROXY TCP4 203.0.113.1 127.0.0.1 4000 7001\r\n")
    finally:
        service.kill(signal.SIGCONT)
    with early:
        early.settimeout(1.0)
        with pytest.raises(TimeoutError):
            # Closed, this would be b"", or an error of another kind
            early.recv(1)


def test_key_is_kept(running: Programs, tmp_path: Path) -> None:
    first = running.rendezvous(*FREE)
    pin = listening(first).pin
    first.kill(signal.SIGTERM)
    first.exit()
    assert listening(running.rendezvous(*FREE)).pin == pin
    key = tmp_path / "state" / "rendezvous" / "identity.key"
    assert key.stat().st_mode & 0o077 == 0
    identity = Identity.from_pem(key.read_bytes())
    assert pin_of(identity.private_key.public_key()) == pin


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
@pytest.mark.parametrize("stage", ["listening", "half-open", "registered"])
def test_signals_end_it_cleanly(running: Programs, tmp_path: Path, number: int, stage: str) -> None:
    service = running.rendezvous(*FREE)
    address = listening(service)
    with contextlib.ExitStack() as stack:
        client = None
        if stage == "half-open":
            stack.enter_context(socket.create_connection((address.host, address.port)))
        elif stage == "registered":
            client = ControlConnection(address, key_of(Identity.generate()), tmp_path)
            stack.callback(client.close)
            client.send(Register("x", Accept.ASK))
            client.read()
            service.wait("registered")
        os.kill(service.process.pid, number)
        if client is not None:
            assert client.read()["code"] == "shutdown"
        assert service.exit(10) in (0, -number)
    if stage == "registered":
        assert service.wait("gone")["reason"] == "shutdown"
    assert "Traceback" not in service.stderr
    assert "Traceback" not in (tmp_path / "state" / "rendezvous" / "rendezvous.log").read_text()


def test_hangup_without_a_terminal(running: Programs, tmp_path: Path) -> None:
    """`systemctl reload` of a service that has no file to read again does not end it."""
    service = running.rendezvous(*FREE)
    client = ControlConnection(listening(service), key_of(Identity.generate()), tmp_path)
    client.send(Register("x", Accept.ASK))
    assert client.read()["type"] == "welcome"
    os.kill(service.process.pid, signal.SIGHUP)
    deadline = time.monotonic() + 20.0
    while "nothing to read again" not in service.stderr:
        assert service.process.poll() is None
        assert time.monotonic() < deadline
        time.sleep(0.05)
    client.send(Ping())
    assert client.read()["type"] == "pong"
    service.kill(signal.SIGTERM)
    assert service.exit() in (0, -signal.SIGTERM)


def test_hangup_of_its_terminal(tmp_path: Path) -> None:
    """A service in the foreground of a terminal ends with it."""
    with terminal([TWISTD, "-n", "punch-rendezvous", "--state-dir", str(tmp_path), *FREE], tmp_path) as shown:
        shown.wait("punch://")
        os.kill(shown.pid, signal.SIGHUP)
        assert shown.exit() in (0, -signal.SIGHUP)


@pytest.mark.parametrize("delay", [0.2, 0.4, 0.6, 0.8])
def test_terminated_while_starting(running: Programs, delay: float) -> None:
    service = running.rendezvous(*FREE)
    time.sleep(delay)
    os.kill(service.process.pid, signal.SIGTERM)
    assert service.exit(10) in (0, -signal.SIGTERM)
    assert "Traceback" not in service.stderr


def test_port_in_use(running: Programs) -> None:
    first = listening(running.rendezvous(*FREE))
    control = f"tcp:{first.port}:interface=127.0.0.1"
    second = running.rendezvous("--control", control, "--reflector-port", "0", state="other")
    failed = second.wait("failed")
    assert failed["reason"] == "port-in-use"
    assert str(first.port) in failed["text"]
    assert second.exit() == 1
    assert second.stderr.count("\n") == 1
    assert str(first.port) in second.stderr


def test_reflector_port_in_use(running: Programs) -> None:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as other:
        other.bind(("127.0.0.1", 0))
        port = other.getsockname()[1]
        service = running.rendezvous("--control", FREE[1], "--reflector-port", str(port))
        assert str(port) in service.wait("failed")["text"]
        assert service.exit() == 1


def run(tmp_path: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    """Run one that ends by itself."""
    return subprocess.run(
        [TWISTD, "-n", "punch-rendezvous", *arguments],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=30,
        check=False,
    )


@pytest.mark.parametrize(
    ("arguments", "word"),
    [
        (("--control", "ssl:7001"), "TLS itself"),
        (("--control", "nonsense:1"), "endpoint"),
        (("--control", "tcp:7001:interface=::1"), r"2001\:db8\:\:1"),
        (("--control", "unix:/nonexistent/socket", "--reflector-port", "0"), "address of --control"),
        (("--reflector-port", "many"), "UDP port"),
        (("--host", "no host"), "--host"),
        (("--certificate", "missing.pem", "--key", "missing.pem"), "missing.pem"),
        (("--state-dir", "/dev/null/state"), "--state-dir"),
    ],
)
def test_bad_options_end_in_a_sentence(tmp_path: Path, arguments: tuple[str, ...], word: str) -> None:
    result = run(tmp_path, "--state-dir", str(tmp_path / "state"), *arguments)
    assert result.returncode == 1
    assert word in result.stderr
    assert result.stderr.count("\n") == 1
    assert result.stdout == ""


def test_key_that_others_can_read(tmp_path: Path) -> None:
    key = tmp_path / "state" / "rendezvous" / "identity.key"
    key.parent.mkdir(parents=True)
    key.write_bytes(Identity.generate().to_pem())
    key.chmod(0o644)
    result = run(tmp_path, "--state-dir", str(tmp_path / "state"))
    assert result.returncode == 1
    assert "identity.key" in result.stderr
    assert "Traceback" not in result.stderr


def test_side_by_side_in_one_directory(running: Programs, tmp_path: Path) -> None:
    for state in ("one", "two"):
        listening(running.rendezvous(*FREE, state=state))
    assert not list(tmp_path.glob("twistd.*"))


def test_text_for_a_person(tmp_path: Path) -> None:
    with subprocess.Popen(
        [TWISTD, "-n", "punch-rendezvous", "--state-dir", str(tmp_path / "state"), *FREE],
        cwd=tmp_path,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        lines: list[str] = []
        while not (lines and lines[-1].strip().startswith("punch://")):
            lines.append(process.stdout.readline())
            assert lines[-1], lines
        RendezvousAddress.parse(lines[-1].strip())
        process.send_signal(signal.SIGINT)
        rest = process.stdout.read()
        assert process.wait(10) in (0, -signal.SIGINT)
        assert "twistd" not in "".join(lines) + rest
        assert process.stderr.read() == ""


@pytest.mark.parametrize("how", ["closed by the reader", "closed from the start", "never read"])
def test_stdout_that_nobody_reads(running: Programs, tmp_path: Path, how: str) -> None:
    state = tmp_path / "state"
    command = [TWISTD, "-n", "punch-rendezvous", "--json", "--state-dir", str(state), *FREE]
    if how == "closed from the start":
        command = ["sh", "-c", 'exec "$@" >&-', "sh", *command]
    process = subprocess.Popen(command, cwd=tmp_path, stdout=subprocess.PIPE, start_new_session=True)
    try:
        assert process.stdout is not None
        if how == "closed by the reader":
            process.stdout.readline()
            process.stdout.close()
        left = state / "rendezvous" / "address"
        end = time.monotonic() + 10
        while not left.exists() and time.monotonic() < end:
            time.sleep(0.05)
        address = RendezvousAddress.parse(left.read_text().strip())
        for _ in range(5):
            client = ControlConnection(address, key_of(Identity.generate()), tmp_path)
            client.send(Register("x" * 64, Accept.ASK))
            assert client.read()["type"] == "welcome"
            client.close()
        assert comes_to_rest(process.pid, 0.25)
        process.terminate()
        assert process.wait(10) in (0, -signal.SIGTERM)
    finally:
        process.kill()
        process.wait()
        if process.stdout is not None:
            process.stdout.close()


def memory(pid: int) -> int:
    """Resident bytes; 0 where /proc does not tell."""
    try:
        return int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * resource.getpagesize()
    except OSError:
        return 0


def test_clients_that_show_no_usable_certificate(running: Programs, tmp_path: Path) -> None:
    address = listening(running.rendezvous(*FREE))
    for key in (None, key_of_another_kind()):
        client = ControlConnection(address, key, tmp_path)
        error = client.read()
        assert (error["type"], error["code"]) == ("error", "bad-certificate")
        assert "Ed25519" in error["text"]
        assert client.file.read() == b""
        client.close()


def test_nothing_is_resumed(running: Programs, tmp_path: Path) -> None:
    """A resumed TLS session would say less about who is there."""
    address = listening(running.rendezvous(*FREE))
    first = ControlConnection(address, key_of(Identity.generate()), tmp_path)
    first.send(Register("x", Accept.ASK))
    first.read()
    plain = socket.create_connection((address.host, address.port), 10)
    with first.context.wrap_socket(plain, session=first.socket.session) as second:
        assert not second.session_reused
    first.close()


def test_ten_thousand_half_open_connections(running: Programs, tmp_path: Path) -> None:
    """From one address and from many; a peer elsewhere registers meanwhile, and memory stays."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if hard != resource.RLIM_INFINITY and hard < 11_000:
        missing(f"only {hard} open files are allowed")
    resource.setrlimit(resource.RLIMIT_NOFILE, (max(soft, 11_000), hard))
    service = running.rendezvous(
        "--control", "tcp:0:interface=0.0.0.0", "--reflector-port", "0", "--host", "127.0.0.1"
    )
    address = listening(service)
    before = memory(service.process.pid)
    flood: list[socket.socket] = []
    try:
        for number in range(10_000):
            connection = socket.socket()
            flood.append(connection)
            if sys.platform == "linux" and number >= 2_000:
                connection.bind((f"127.0.{1 + number % 200}.{1 + number // 200}", 0))
            connection.setblocking(False)
            with contextlib.suppress(BlockingIOError):
                connection.connect(("127.0.0.1", address.port))
            if number % 100 == 0:
                time.sleep(0.005)
            if number % 3 == 0:
                with contextlib.suppress(OSError):
                    connection.send(b"\x16\x03\x01")
            if number == 8_000:
                client = register(address, tmp_path, 5, source="127.0.255.1")
        assert memory(service.process.pid) - before < 100_000_000
        client.send(Ping())
        assert client.read() == {"type": "pong"}
        client.close()
    finally:
        for connection in flood:
            connection.close()
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    assert service.process.poll() is None


def test_running_out_of_descriptors(running: Programs, tmp_path: Path) -> None:
    """Its limit of open files is met: it goes on, and takes connections again."""
    state = str(tmp_path / "state")
    limited = 'ulimit -n 40 && exec "$@"'
    options = ["--connections", "1000", "--handshakes-per-address", "500", "--state-dir", state]
    service = running.start(
        ["sh", "-c", limited, "sh", TWISTD, "-n", "punch-rendezvous", "--json", *options, *FREE]
    )
    address = listening(service)
    flood = []
    try:
        for _ in range(100):
            with contextlib.suppress(OSError):
                flood.append(socket.create_connection((address.host, address.port), 2))
        assert comes_to_rest(service.process.pid, 0.4)
    finally:
        for connection in flood:
            connection.close()
    register(address, tmp_path, 10).close()
