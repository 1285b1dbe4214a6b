"""`punch forward`, `punch expose` and `punch pipe` between real processes."""

from __future__ import annotations

import asyncio
import http.server
import os
import re
import resource
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, suppress
from hashlib import sha256
from io import BufferedReader
from pathlib import Path
from random import Random
from urllib.request import urlopen

import pytest

from tests.apps.forward_peers import ForwardPeers
from tests.consoles import terminal
from tests.local_peers import LocalPeers
from tests.needs import need
from tests.processes import programs

EXAMPLES = Path(__file__).parents[2] / "docs" / "examples"
CONTENT = Random("page").randbytes(3_000_000)


class Page(http.server.BaseHTTPRequestHandler):
    """Some megabytes at any path."""

    def do_GET(self) -> None:
        self.send_response(200)
        self.send_header("Content-Length", str(len(CONTENT)))
        self.end_headers()
        self.wfile.write(CONTENT)

    def log_message(self, format: str, *arguments: object) -> None:
        """Nothing."""


@pytest.fixture
def web() -> Iterator[int]:
    """The port of a web server."""
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Page) as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.05,))
        thread.start()
        yield server.server_address[1]
        server.shutdown()
        thread.join()


class Digests:
    """
    A server that answers the end of each connection with the digest of what came. A `?` at the beginning is
    not part of that: it is answered at once, and a number follows, by which the connection is counted.

    :ivar received: how many bytes have come on each counted connection, by its number.
    :ivar at_first_end: a copy of it from when the first connection had ended.
    :ivar longest_pause: the longest time in seconds in which a connection brought nothing before its end.
    """

    def __init__(self, server: socket.socket) -> None:
        self.port = server.getsockname()[1]
        self.received: dict[int, int] = {}
        self.at_first_end: dict[int, int] | None = None
        self.longest_pause = 0.0
        self._server = server
        self._lock = threading.Lock()

    def serve(self) -> None:
        while True:
            try:
                connection, _ = self._server.accept()
            except OSError:
                return
            threading.Thread(target=self._answer, args=(connection,), daemon=True).start()

    def _answer(self, connection: socket.socket) -> None:
        with connection, connection.makefile("rb") as file:
            digest = sha256()
            if file.peek(1)[:1] == b"?":
                connection.sendall(file.read(1))
                self._count(file, digest.update)
            else:
                while data := file.read1():
                    digest.update(data)
            connection.sendall(digest.hexdigest().encode())

    def _count(self, file: BufferedReader, update: Callable[[bytes], object]) -> None:
        number, last = -1, 0.0
        while data := file.read1():
            update(data)
            now = time.monotonic()
            with self._lock:
                if number < 0:
                    number = int(data.partition(b" ")[0])
                else:
                    self.longest_pause = max(self.longest_pause, now - last)
                last = now
                self.received[number] = self.received.get(number, 0) + len(data)
        with self._lock:
            if self.at_first_end is None:
                self.at_first_end = dict(self.received)


@pytest.fixture
def digests() -> Iterator[Digests]:
    with socket.create_server(("127.0.0.1", 0), backlog=1024) as server:
        found = Digests(server)
        threading.Thread(target=found.serve, daemon=True).start()
        yield found
        server.shutdown(socket.SHUT_RDWR)


@pytest.fixture(scope="module")
def service(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LocalPeers]:
    with programs(tmp_path_factory.mktemp("service")) as running:
        found = LocalPeers(running)
        with programs(tmp_path_factory.mktemp("first")) as first:
            ForwardPeers(found, first).know()
        yield found


@pytest.fixture
def peers(service: LocalPeers, tmp_path: Path) -> Iterator[ForwardPeers]:
    with programs(tmp_path) as running:
        yield ForwardPeers(service, running)


def port_of(event: dict[str, str]) -> int:
    return int(event["address"].rpartition(":")[2])


def test_a_page(peers: ForwardPeers, web: int) -> None:
    """A page of bob's web server, and what is said when the server is gone, or never was exposed."""
    exposed = peers.start("expose", f"127.0.0.1:{web}", "--to", "alice", name="bob")
    assert exposed.wait("exposed", 60.0)["service"] == f"tcp/127.0.0.1:{web}"
    forwards = peers.start("forward", "0", f"bob:127.0.0.1:{web}", name="alice")
    port = port_of(forwards.wait("listening", 60.0))
    with urlopen(f"http://127.0.0.1:{port}/", timeout=60) as page:
        assert page.read() == CONTENT
    nothing = peers.start("forward", "0", "bob:localhost:1", name="alice")
    address = ("127.0.0.1", port_of(nothing.wait("listening", 60.0)))
    with socket.create_connection(address, 60) as client, pytest.raises(ConnectionResetError):
        client.recv(1)
    failed = nothing.wait("connection-failed", 60.0)
    assert failed["reason"] == "no-service"
    assert "bob exposes no localhost:1 now" in failed["text"]


def test_half_close_and_many(peers: ForwardPeers, digests: Digests) -> None:
    """By a name, through a pipe and a port: some MB with their digest, and 300 connections at once."""
    peers.chat("bob")
    exposed = peers.start("expose", str(digests.port), "--to", "alice", "--as", "digest", name="bob")
    exposed.wait("exposed", 60.0)
    done = peers.run("pipe", "bob", "digest", name="alice", text=CONTENT)
    assert (done.returncode, done.stdout.decode()) == (0, sha256(CONTENT).hexdigest()), done.stderr
    forwards = peers.start("forward", str(peers.directory / "socket"), "bob:digest", name="alice")
    path = forwards.wait("listening", 60.0)["address"]
    with ExitStack() as stack:
        clients = []
        for number in range(300):
            client = stack.enter_context(socket.socket(socket.AF_UNIX))
            client.settimeout(60)
            client.connect(path)
            client.sendall(b"%d" % number)
            clients.append(client)
        for client in clients:
            client.shutdown(socket.SHUT_WR)
        for number, client in enumerate(clients):
            with client.makefile("rb") as file:
                assert file.read().decode() == sha256(b"%d" % number).hexdigest(), forwards.said()
    exposed.kill()
    done = peers.run("pipe", "bob", "digest", name="alice")
    assert done.returncode == 4
    assert b"no service" in done.stderr


def test_a_thousand_at_once(peers: ForwardPeers, digests: Digests) -> None:
    """
    A link carries 1,000 connections at once. Each sends 10 kB, or as much as PUNCH_STREAM_BYTES says; of
    much, each has got its share when the first one has ended.
    """
    count, size = 1000, int(os.environ.get("PUNCH_STREAM_BYTES", "10000"))
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if hard != resource.RLIM_INFINITY and hard < 4 * count:
        pytest.skip(f"a process may open {hard} files at most")
    resource.setrlimit(resource.RLIMIT_NOFILE, (max(soft, 4 * count), hard))
    content = Random("stream").randbytes(size)
    answered: list[int] = []

    async def connect(number: int, path: str, ready: asyncio.Event) -> None:
        reader, writer = await asyncio.open_unix_connection(path)
        writer.write(b"?")
        assert await reader.readexactly(1) == b"?"
        answered.append(number)
        if len(answered) == count:
            ready.set()
        await ready.wait()  # for ever, if not all can be open at once
        writer.write(b"%d " % number + content)
        writer.write_eof()
        digest = (await reader.read()).decode()
        assert digest == sha256(b"%d " % number + content).hexdigest(), number
        writer.close()

    async def connect_all(path: str) -> None:
        ready = asyncio.Event()
        await asyncio.gather(*(connect(number, path, ready) for number in range(count)))

    try:
        exposed = peers.start("expose", str(digests.port), "--to", "alice", "--as", "digest", name="bob")
        exposed.wait("exposed", 60.0)
        forwards = peers.start("forward", str(peers.directory / "socket"), "bob:digest", name="alice")
        begin = time.monotonic()
        asyncio.run(asyncio.wait_for(connect_all(forwards.wait("listening", 60.0)["address"]), 600.0))
        print(f"{time.monotonic() - begin:.1f} s, longest pause {digests.longest_pause:.2f} s")
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    assert digests.at_first_end is not None
    if size >= 1_000_000:
        assert len(digests.at_first_end) == count
        assert min(digests.at_first_end.values()) > size / 4


def test_nobody_listens(peers: ForwardPeers) -> None:
    """Both sides say so; the pipe has a status of its own."""
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        port = unused.getsockname()[1]
        exposed = peers.start("expose", f"127.0.0.1:{port}", "--to", "alice", name="bob")
        exposed.wait("exposed", 60.0)
        done = peers.run("pipe", "bob", f"127.0.0.1:{port}", name="alice")
        assert (done.returncode, done.stdout) == (4, b"")
        assert re.search(rb"Nobody listens at .* of bob", done.stderr)
        assert exposed.wait("connection-failed")["reason"] == "connection-refused"


def ask(client: socket.socket, question: bytes) -> bytes:
    """The answer of a server of UDP, which is asked again as long as there is none."""
    client.settimeout(1.0)
    for _ in range(60):
        client.send(question)
        with suppress(TimeoutError):
            return client.recv(65536)
    raise AssertionError(f"no answer to {question!r}")


def test_datagrams(peers: ForwardPeers) -> None:
    """A server of UDP answers, some long ones too; both sides say when it is gone, and it may come back."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as server:
        server.bind(("127.0.0.1", 0))
        address = "{}:{}".format(*server.getsockname())

        def answer(server: socket.socket) -> None:
            while (found := server.recvfrom(65536))[0] != b"end":
                server.sendto(found[0][::-1], found[1])
            server.close()

        thread = threading.Thread(target=answer, args=(server,), daemon=True)
        thread.start()
        exposed = peers.start("expose", "--udp", address, "--to", "alice", name="bob")
        assert exposed.wait("exposed", 60.0)["service"] == f"udp/{address}"
        forwards = peers.start("forward", "--udp", "0", f"bob:{address}", name="alice")
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as client:
            client.connect(("127.0.0.1", port_of(forwards.wait("listening", 60.0))))
            assert ask(client, b"question") == b"noitseuq"
            client.settimeout(20.0)
            for size in (0, 1400, 40_000):
                client.send(bytes(size))
                assert len(client.recv(65536)) == size
            client.send(b"end")
            thread.join(20.0)
            # One alone: the error of its socket is all that says so
            client.send(b"nobody listens")
            assert forwards.wait("connection-failed", 20.0)["reason"] == "connection-refused"
            assert exposed.wait("connection-failed", 20.0)["reason"] == "connection-refused"
            host, port = address.split(":")
            with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as again:
                again.bind((host, int(port)))
                threading.Thread(target=answer, args=(again,), daemon=True).start()
                assert ask(client, b"again") == b"niaga"
                client.send(b"end")


def test_datagrams_the_other_way(peers: ForwardPeers) -> None:
    """A port of UDP on bob's machine leads to alice's server, for several flows, as long as she has it."""
    with ExitStack() as stack:
        server, first, second, bobs = (
            stack.enter_context(socket.socket(socket.AF_INET, socket.SOCK_DGRAM)) for _ in range(4)
        )
        server.bind(("127.0.0.1", 0))
        server.settimeout(20.0)
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as unused:
            unused.bind(("127.0.0.1", 0))
            port = unused.getsockname()[1]
        granted = peers.start("expose", "--reverse", "--udp", str(port), "--to", "alice", name="bob")
        assert granted.wait("exposed", 60.0)["service"] == f"listen/udp/localhost:{port}"
        local = "{}:{}".format(*server.getsockname())
        words = ["--reverse", "--udp", local, f"bob:{port}"]
        forwards = peers.start("forward", *words, name="alice")
        forwards.wait("listening", 60.0)
        assert granted.wait("reverse-listening", 20.0)["peer"] == peers.ids["alice"]

        sources = set()
        for client, text in ((first, b"one"), (second, b"two"), (first, bytes(40_000))):
            client.settimeout(20.0)
            client.sendto(text, ("127.0.0.1", port))
            data, source = server.recvfrom(65536)
            assert data == text
            sources.add(source)
            server.sendto(text[::-1], source)
            assert client.recvfrom(65536) == (text[::-1], ("127.0.0.1", port))
        assert len(sources) == 2

        forwards.close()
        granted.wait("reverse-closed", 20.0)
        # The port is free again
        bobs.bind(("127.0.0.1", port))


def test_reverse(peers: ForwardPeers, web: int) -> None:
    """A port of bob's leads to alice's web server, as long as both commands run, and only if bob gives it."""
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        port = unused.getsockname()[1]
    peers.chat("bob")
    words = ["--reverse", f"localhost:{web}", f"bob:{port}"]
    refused = peers.run("forward", *words, name="alice")
    assert refused.returncode == 4, refused
    assert f"ask for punch expose --reverse {port} --to YOUR-ID".encode() in refused.stderr
    granted = peers.start("expose", "--reverse", str(port), "--to", "alice", name="bob")
    assert granted.wait("exposed", 60.0)["service"] == f"listen/tcp/localhost:{port}"
    with pytest.raises(ConnectionRefusedError):
        socket.create_connection(("127.0.0.1", port), 10)
    forwards = peers.start("forward", *words, name="alice")
    forwards.wait("listening", 60.0)
    with urlopen(f"http://127.0.0.1:{port}/", timeout=60) as page:
        assert page.read() == CONTENT
    forwards.close()
    granted.wait("reverse-closed", 20.0)
    with pytest.raises(ConnectionRefusedError):
        socket.create_connection(("127.0.0.1", port), 10)


def test_ssh(service: LocalPeers, peers: ForwardPeers) -> None:
    """OpenSSH's client reaches a server of Conch with the line of the page."""
    need("ssh")
    server = subprocess.Popen(
        [
            *(sys.executable, str(EXAMPLES / "ssh_server.py")),
            f"punch:service=ssh:allow=alice:state-dir={peers.state}:identity=bob:"
            f"rendezvous={service.address.replace(':', chr(92) + ':')}",
        ],
        stdout=subprocess.PIPE,
    )
    password = peers.directory / "password"
    password.write_text("#!/bin/sh\necho any\n")
    password.chmod(0o700)
    proxy = " ".join(peers.words("pipe", "bob", "ssh", name="alice"))
    options = ["StrictHostKeyChecking=no", "UserKnownHostsFile=/dev/null", f"ProxyCommand={proxy}"]
    try:
        assert server.stdout is not None
        assert server.stdout.readline()
        done = subprocess.run(
            ["ssh", "-F", "none", *(f"-o{option}" for option in options), "any@bob", "times"],
            env={**os.environ, "SSH_ASKPASS": str(password), "SSH_ASKPASS_REQUIRE": "force"},
            stdin=subprocess.DEVNULL,
            capture_output=True,
            timeout=60,
            check=False,
        )
        assert re.fullmatch(rb"[0-9.]+ s\n", done.stdout), done.stderr
    finally:
        server.terminate()
        server.communicate(timeout=30)


def test_what_goes_wrong(peers: ForwardPeers) -> None:
    """Each has a sentence and a status of its own."""
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        for command, words, status, sentence in (
            ("forward", [str(port), "bob:80"], 1, "Address already in use"),
            ("forward", ["8080", "carol:80"], 1, "neither a name"),
            ("forward", ["8080", "bob"], 1, "bob:localhost:80"),
            ("expose", ["localhost:22"], 2, "--to"),
            ("expose", ["localhost:22", "--to", "bob", "--as", "a\nb"], 1, "printable"),
        ):
            done = peers.run(command, *words, name="alice")
            assert done.returncode == status, (words, done)
            assert sentence in done.stderr.decode(), (words, done.stderr)


def test_the_node_is_killed_under_five_commands(peers: ForwardPeers) -> None:
    """Each says that the process whose node it used is gone, and ends with the status for that."""
    chat = peers.chat("alice")
    commands = [
        (peers.start(*words, name="alice"), event)
        for words, event in (
            (("forward", "0", "bob:80"), "listening"),
            (("forward", "--udp", "0", "bob:53"), "listening"),
            (("expose", "localhost:1", "--to", "bob"), "exposed"),
            (("expose", "--udp", "localhost:1", "--to", "bob"), "exposed"),
            (("receive", "--yes", "--output", str(peers.directory)), "ready"),
        )
    ]
    for command, event in commands:
        command.wait(event, 60.0)
    chat.kill()
    for command, _ in commands:
        assert command.wait("failed", 20.0)["reason"] == "node-lost"
        assert command.exit() == 9
        assert "Traceback" not in command.stderr


def test_a_rendezvous_that_is_away(peers: ForwardPeers, service: LocalPeers) -> None:
    """Who exposes something is told that it can't be reached, and that it ends with Ctrl-C."""
    address = re.sub(r":\d+/", ":1/", service.address)
    words = ["localhost:22", "--to", "alice", "--rendezvous", address]
    exposing = peers.start("expose", *words, name="bob")
    assert exposing.wait("unregistered", 60.0)["rendezvous"] == address
    exposing.close()
    with terminal(peers.words("expose", *words, name="bob"), peers.directory) as screen:
        screen.wait("can reach localhost:22 now", 60.0)
        screen.type("\x03")
        screen.wait("Stopped: nothing is exposed any more.", 60.0)


def digest(path: Path) -> str:
    return sha256(path.read_bytes()).hexdigest()


def test_both_directions(peers: ForwardPeers) -> None:
    """Some megabytes each way, as files; each direction ends by itself, and all of both arrives."""
    sources = {}
    for name, size in (("alice", 6_000_000), ("bob", 10)):
        sources[name] = peers.directory / name
        sources[name].write_bytes(Random(name).randbytes(size))
    received = {name: peers.directory / f"at-{name}" for name in sources}
    with (
        peers.pipe("alice", "bob", input=sources["alice"], output=received["alice"]) as alice,
        peers.pipe("bob", "alice", input=sources["bob"], output=received["bob"]) as bob,
    ):
        assert (alice.wait(60), bob.wait(60)) == (0, 0), (peers.said("alice"), peers.said("bob"))
    assert digest(received["bob"]) == digest(sources["alice"])
    assert digest(received["alice"]) == digest(sources["bob"])


def test_an_end_and_an_answer(peers: ForwardPeers) -> None:
    """Who has ended its input still gets output; the other one sees the end of the output at once."""
    peers.chat("alice")
    with peers.pipe("bob", "alice") as bob, peers.pipe("alice", "bob") as alice:
        assert alice.stdin
        assert bob.stdin
        assert alice.stdout
        assert bob.stdout
        alice.stdin.write(b"question")
        alice.stdin.close()
        assert bob.stdout.read() == b"question"
        bob.stdin.write(b"answer")
        bob.stdin.close()
        assert alice.stdout.read() == b"answer"
        assert (alice.wait(30), bob.wait(30)) == (0, 0), (peers.said("alice"), peers.said("bob"))


def test_how_the_other_side_ends(peers: ForwardPeers) -> None:
    """An output that nobody reads, and a process that is killed, are no end of the input."""
    with peers.pipe("bob", "alice") as bob, peers.pipe("alice", "bob") as alice:
        assert alice.stdin
        assert bob.stdout
        alice.stdin.write(b"a line\n")
        alice.stdin.flush()
        assert bob.stdout.readline() == b"a line\n"
        bob.stdout.close()
        assert (bob.wait(30), alice.wait(30)) == (1, 1)
    assert "Nobody reads the output" in peers.said("bob")
    assert "ended with status 1" in peers.said("alice")
    with peers.pipe("bob", "alice") as bob, peers.pipe("alice", "bob") as alice:
        assert alice.stdin
        assert bob.stdout
        alice.stdin.write(b"a line\n")
        alice.stdin.flush()
        assert bob.stdout.readline() == b"a line\n"
        alice.send_signal(signal.SIGTERM)
        assert (alice.wait(30), bob.wait(30)) == (-signal.SIGTERM, 6)
        assert bob.stdout.read() == b""
    assert "was lost" in peers.said("bob")


def test_what_goes_wrong_with_pipes(peers: ForwardPeers) -> None:
    """Each has a sentence and a status of its own, and nothing on stdout."""
    for words, status, sentence in (
        (["carol"], 1, "neither a name in the address book nor a peer ID"),
        (["bob", "ssh"], 4, "is not registered"),
        (["bob", "localhost:70000"], 1, "from 1 to 65535"),
        (["--json", "bob", "ssh", "more"], 2, "unexpected argument"),
    ):
        done = peers.run("pipe", *words, name="alice")
        assert (done.returncode, done.stdout) == (status, b""), done
        assert sentence in done.stderr.decode(), words
    peers.chat("bob")
    done = peers.run("pipe", "bob", "ssh", name="alice")
    assert (done.returncode, done.stdout) == (4, b"")
    assert b"no service 'ssh'" in done.stderr
