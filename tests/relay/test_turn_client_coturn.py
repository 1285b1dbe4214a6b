"""The TURN client against a stock coturn: over UDP, TCP and TLS, and when it dies while it relays."""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from punch.wire.turn import RelayServer, TurnTransport, TurnURI
from tests.ports import free_port
from tests.processes import JSONProcess, Programs, close_all, programs
from tests.relay.coturn import SECRET, Coturn, credentials

HOST = "127.0.0.1"


def local_coturn(directory: Path) -> Coturn:
    """One for loopback, not started."""
    return Coturn(directory, HOST, free_port(), free_port())


@pytest.fixture
def coturn(tmp_path: Path) -> Iterator[Coturn]:
    """One that lives as long as the test, or less."""
    server = local_coturn(tmp_path)
    server.start()
    try:
        yield server
    finally:
        server.kill()


@dataclass
class Pools:
    """The two pools of `tests.relay.relay_pools`."""

    process: JSONProcess

    def wait(self, event: str, count: int = 1, timeout: float = 20.0) -> list[dict[str, Any]]:
        """So many events of a kind, as they come."""
        return [self.process.wait(event, timeout=timeout) for _ in range(count)]

    def command(self, line: str) -> None:
        """One line on its stdin."""
        assert self.process.process.stdin is not None
        self.process.process.stdin.write(line.encode() + b"\n")
        self.process.process.stdin.flush()

    def trouble(self) -> str:
        """Why there is no allocation, as soon as that is known."""
        deadline = time.monotonic() + 10.0
        while time.monotonic() < deadline:
            self.command("why")
            if failure := self.wait("why")[0]["failure"]:
                assert all(event["event"] != "found" for event in self.process.events)
                return str(failure)
            time.sleep(0.1)
        return ""

    def echoed(self, count: int = 50) -> int:
        """How many of these datagrams made both ways."""
        self.command(f"send {count}")
        return int(self.wait("echoed")[0]["count"])

    def talk(self) -> None:
        """Datagrams make both ways; until both sides have let the other in, the server drops what comes."""
        assert any(self.echoed(1) for _ in range(5))
        assert self.echoed() >= 49


@pytest.fixture
def pools(tmp_path: Path) -> Iterator[Any]:
    """Starts them."""
    started: list[JSONProcess] = []

    def start(*servers: RelayServer, root: Path | None = None) -> Pools:
        text = json.dumps([server.to_json() for server in servers])
        options = [] if root is None else ["--root", str(root)]
        process = JSONProcess(
            [sys.executable, "-m", "tests.relay.relay_pools", text, *options],
            cwd=tmp_path,
            env=_environment(),
        )
        started.append(process)
        return Pools(process)

    yield start
    close_all(started)


def _environment() -> dict[str, str]:
    return {"PYTHONPATH": str(Path(__file__).parents[2])}


@pytest.mark.parametrize("transport", list(TurnTransport))
def test_relays(coturn: Coturn, pools: Any, transport: TurnTransport) -> None:
    """An allocation each, data both ways, and both given back."""
    both = pools(coturn.server(transport))
    found = both.wait("found", 2)
    assert {event["source"] for event in found} == {str(coturn.server(transport).url)}
    both.talk()
    both.command("leave")
    both.wait("left")


def test_a_certificate_by_name(coturn: Coturn, pools: Any) -> None:
    """Without a pin, an authority has to vouch for the name."""
    server = coturn.server(TurnTransport.TLS, pin=None)
    pools(server, root=coturn.certificate).wait("found", 2)


def test_a_wrong_pin(coturn: Coturn, pools: Any) -> None:
    """Nothing is asked of a server with another key; without any word for it, neither."""
    for server in (
        coturn.server(TurnTransport.TLS, pin=bytes(32)),
        coturn.server(TurnTransport.TLS, pin=None),
    ):
        assert pools(server).trouble() == "unreachable"


def test_tcp_where_udp_gets_no_answer(coturn: Coturn, pools: Any) -> None:
    """The other carriers begin 0.2 s later, and the answer is there well within a second."""
    dead = coturn.server(TurnTransport.UDP, url=TurnURI(HOST, free_port(), TurnTransport.UDP))
    both = pools(dead, coturn.server(TurnTransport.TCP), coturn.server(TurnTransport.TLS))
    found = both.wait("found", 2)
    assert "transport=tcp" in found[0]["source"]
    both.talk()


def test_udp_first(coturn: Coturn, pools: Any) -> None:
    """If UDP works, no other transport is used."""
    both = pools(*(coturn.server(transport) for transport in TurnTransport))
    found = both.wait("found", 2)
    assert {event["source"] for event in found} == {str(coturn.server(TurnTransport.UDP).url)}


def test_wrong_password(coturn: Coturn, pools: Any) -> None:
    """The pools say why there is none."""
    assert pools(coturn.server(TurnTransport.UDP, password="wrong")).trouble() == "credentials"


def test_expired_credentials(coturn: Coturn, pools: Any) -> None:
    """coturn reads the time in the user name."""
    username, password = credentials(-60.0)
    both = pools(coturn.server(TurnTransport.UDP, username=username, password=password))
    assert both.trouble() == "credentials"


@pytest.mark.parametrize("transport", [TurnTransport.TCP, TurnTransport.TLS])
def test_dies_while_it_relays_over_a_stream(tmp_path: Path, pools: Any, transport: TurnTransport) -> None:
    """The connection tells at once, and another server takes over by itself."""
    directories = [tmp_path / name for name in ("first", "second")]
    for directory in directories:
        directory.mkdir()
    first, second = map(local_coturn, directories)
    try:
        first.start()
        second.start()
        both = pools(first.server(transport))
        both.wait("found", 2)
        both.talk()
        start = time.monotonic()
        first.kill()
        both.wait("lost", 2, timeout=5.0)
        assert time.monotonic() - start < 2.0
        both = pools(first.server(transport), second.server(transport))
        found = both.wait("found", 2)
        assert {event["source"] for event in found} == {str(second.server(transport).url)}
    finally:
        first.kill()
        second.kill()


def test_dies_while_it_relays_over_udp(coturn: Coturn, pools: Any) -> None:
    """Nothing tells: the next request that nobody answers does, here one for a permission."""
    both = pools(coturn.server(TurnTransport.UDP))
    both.wait("found", 2)
    both.talk()
    coturn.kill()
    assert both.echoed() == 0
    both.command("probe")
    both.wait("lost", 2, timeout=10.0)


def programs_with(running: Programs, *servers: TurnURI) -> tuple[JSONProcess, JSONProcess]:
    """Two peers that use nothing but these relays, and have a link."""
    secret = running.directory / "secret"
    secret.write_text(SECRET + "\n")
    turn = [word for url in servers for word in ("--turn", str(url))]
    rendezvous = running.rendezvous(
        *("--control", "tcp:0:interface=127.0.0.1", "--reflector-port", "127.0.0.1:0", "--host", HOST),
        *("--relay", "off", "--turn-secret-file", str(secret), *turn),
    )
    address = rendezvous.wait("listening")["address"]
    bob = running.peer("bob", "--rendezvous", address, "--accept", "anyone", "--relay", "only")
    identity = bob.wait("ready")["id"]
    bob.wait("registered")
    alice = running.peer("alice", "--rendezvous", address, "--relay", "only", "--peer", identity)
    for peer in (alice, bob):
        assert peer.wait("connected")["path"] == "relay"
    return alice, bob


@pytest.mark.parametrize("transport", list(TurnTransport))
def test_a_link_of_the_programs(
    coturn: Coturn, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, transport: TurnTransport
) -> None:
    """The rendezvous hands coturn out, the peers meet there, and talk."""
    # What OpenSSL takes for the machine's authorities
    monkeypatch.setenv("SSL_CERT_FILE", str(coturn.certificate))
    with programs(tmp_path) as running:
        alice, bob = programs_with(running, coturn.server(transport).url)
        _talk(alice, bob)


def test_a_link_whose_relays_die(tmp_path: Path) -> None:
    """Both peers' relays are killed; within five seconds the same link goes on through the other server."""
    directories = [tmp_path / name for name in ("first", "second")]
    for directory in directories:
        directory.mkdir()
    first, second = map(local_coturn, directories)
    try:
        first.start()
        with programs(tmp_path) as running:
            urls = [server.server(TurnTransport.TCP).url for server in (first, second)]
            alice, bob = programs_with(running, *urls)
            _talk(alice, bob)
            second.start()
            first.kill()
            start = time.monotonic()
            _talk(alice, bob)
            assert time.monotonic() - start < 5.0
            assert all(event["event"] != "disconnected" for event in (*alice.settle(), *bob.settle()))
    finally:
        first.kill()
        second.kill()


def _talk(alice: JSONProcess, bob: JSONProcess) -> None:
    """A message each way."""
    for here, there in ((alice, bob), (bob, alice)):
        text = f"at {time.monotonic()}"
        here.command("send", text=text)
        assert there.wait("message")["text"] == text
