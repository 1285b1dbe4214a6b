"""The programs in docs/examples, as real processes."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.apps.example_programs import EXAMPLES, Served, run_to_end
from tests.local_peers import LocalPeers
from tests.processes import PUNCH, TWISTD

DOCS = Path(__file__).parents[2] / "docs"
ECHO = EXAMPLES / "echo.py"


def test_the_page_has_the_program() -> None:
    page = (DOCS / "api.md").read_text(encoding="utf-8")
    for name in ("echo.py", "amp.py", "watch.py"):
        program = (EXAMPLES / name).read_text(encoding="utf-8")
        assert f"```python\n{program}```\n" in page, name
    assert sum(bool(line.strip()) for line in ECHO.read_text(encoding="utf-8").splitlines()) <= 40


def test_names_that_have_to_be_known() -> None:
    """A command line for more than one peer says where their names come from."""
    commands = 0
    for path in EXAMPLES.glob("*.py"):
        said = ast.get_docstring(ast.parse(path.read_text(encoding="utf-8"))) or ""
        for names in re.findall(r"allow=([\w,]+)", said):
            if "," in names:
                commands += 1
                *first, last = names.split(",")
                assert f"address book of alice has {', '.join(first)} and {last}" in said, path.name
    assert commands


def test_echo(local: LocalPeers) -> None:
    command = [sys.executable, str(ECHO), local.address]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as server:
        try:
            assert server.stdout is not None
            identity = server.stdout.readline().strip()
            for text in ("hello", "again"):
                done = subprocess.run(
                    [*command, identity, text], capture_output=True, text=True, timeout=60, check=False
                )
                assert (done.returncode, done.stdout, done.stderr) == (0, f"{text}\n", "")
        finally:
            server.terminate()


def test_watch(local: LocalPeers) -> None:
    """A link, which it holds, and the events of both sides."""
    command = [sys.executable, str(EXAMPLES / "watch.py"), local.address]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as waiting:
        try:
            assert waiting.stdout is not None
            identity = waiting.stdout.readline().strip()
            assert waiting.stdout.readline().startswith("registered at punch://")
            said = run_to_end([*command, identity, "0.5"]).splitlines()
            assert said[1].startswith("registered at punch://")
            # A check may come before the candidate that it belongs to
            direct = "(host|prflx)"
            assert re.match(f"{identity[:8]}: {direct}, ", said[2])
            assert re.search(f"^{direct}, round trip [0-9.]+ ms$", "\n".join(said), re.MULTILINE)
            assert re.match(f"{said[0][:8]}: {direct}, ", waiting.stdout.readline())
        finally:
            waiting.terminate()


@pytest.fixture
def keys(local: LocalPeers) -> str:
    return f":state-dir={local.directory / 'state'}:identity="


@pytest.fixture
def serve(keys: str) -> Iterator[Callable[..., Served]]:
    running: list[Served] = []

    def start(example: str, service: str, *arguments: str) -> Served:
        endpoint = f"punch:service={service}:allow=anyone{keys}alice"
        running.append(Served([sys.executable, str(EXAMPLES / example), *arguments, endpoint]))
        return running[-1]

    yield start
    for each in running:
        each.close()


def run_example(example: str, *arguments: str) -> str:
    return run_to_end([sys.executable, str(EXAMPLES / example), *arguments])


def test_programs_of_twisted_on_one_node(local: LocalPeers, keys: str, serve: Callable[..., Served]) -> None:
    """AMP, Perspective Broker, IRC and SSH, each a program of its own, on one identity and one link."""
    servers = [
        serve("amp.py", "sum", "serve"),
        serve("perspective.py", "notes", "serve"),
        serve("irc.py", "irc", "serve"),
        serve("ssh_server.py", "ssh"),
    ]
    (alice,) = {server.line() for server in servers}
    bob = local.running.peer("bob")
    bob.wait("registered")

    def at(service: str) -> str:
        return f"punch:{alice}:service={service}{keys}bob"

    assert run_example("amp.py", "ask", at("sum"), "13", "81") == "94\n"
    run_example("perspective.py", "add", at("notes"), "buy bread")
    assert run_example("perspective.py", "add", at("notes"), "water the flowers").splitlines() == [
        "buy bread",
        "water the flowers",
    ]
    assert run_example("irc.py", "say", at("irc"), "bob", "hello") == "bob on #punch: hello\n"
    assert re.fullmatch(r"[0-9.]+ s\n", run_example("ssh_client.py", at("ssh"), "times"))
    bob.command("status", request=1)
    assert [link["peer"] for link in bob.wait("result")["links"]] == [alice]


def test_a_service_for_those_with_a_grant(local: LocalPeers, keys: str) -> None:
    """They are asked who they are; others are refused."""
    served = Served(
        [sys.executable, str(EXAMPLES / "counter.py"), "serve", f"punch:service=counter{keys}alice"]
    )
    try:
        alice, bob = served.line(), local.id_of("bob")
        add = [sys.executable, str(EXAMPLES / "counter.py"), "add", f"punch:{alice}:service=counter{keys}bob"]
        state = ["--state-dir", str(local.directory / "state"), "--name", "alice"]
        run_to_end([PUNCH, "peers", *state, "add", bob, "bob"])
        refused = subprocess.run(add, capture_output=True, text=True, timeout=60, check=False)
        assert refused.returncode == 1
        assert "does not allow this peer to use the service 'counter'" in refused.stderr
        run_to_end([PUNCH, "peers", *state, "grant", "bob", "counter"])
        assert [run_to_end(add) for _ in range(2)] == ["1\n", "2\n"]
    finally:
        served.close()


def test_web(local: LocalPeers, keys: str, tmp_path: Path) -> None:
    """Twisted's web server, started by twistd without a line of code, and treq."""
    (tmp_path / "file.txt").write_bytes(b"contents\n" * 100_000)
    server = subprocess.Popen(
        [
            *(TWISTD, "-n", "--pidfile=", "web", "--path", str(tmp_path)),
            *("--listen", f"punch:service=web:allow=anyone{keys}alice"),
        ],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
    )
    try:
        alice = local.id_of("alice")
        url, options = f"http://{alice}/file.txt", f"{keys}bob"
        deadline = time.monotonic() + 60
        while (done := fetch(url, options)).returncode and time.monotonic() < deadline:
            assert b"registered" in done.stderr or b"has no service" in done.stderr, done.stderr
        assert done.stdout == b"contents\n" * 100_000
        assert fetch(f"http://{alice}/nothing", options).stderr == b"404 Not Found\n"
        assert b"neither a name in the address book nor a peer ID" in fetch("http://alise/", options).stderr
    finally:
        server.terminate()
        server.communicate(timeout=30)


def fetch(url: str, options: str) -> subprocess.CompletedProcess[bytes]:
    command = [sys.executable, str(EXAMPLES / "fetch.py"), url, options]
    return subprocess.run(command, capture_output=True, timeout=120, check=False)


@pytest.mark.parametrize("path", sorted(EXAMPLES.glob("*.py")), ids=lambda path: path.name)
def test_short(path: Path) -> None:
    """An example is read in one go."""
    assert len(path.read_text(encoding="utf-8").splitlines()) <= 60
