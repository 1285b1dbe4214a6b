"""The peer as a process: every kind of stdin and stdout, every signal, every sentence."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from .consoles import environment, peer, run, terminal
from .processes import PUNCH, TWISTD, Event, JSONProcess, Programs, programs


class Place:
    """A rendezvous of one user, and who wants to talk."""

    def __init__(self, running: Programs) -> None:
        self.running = running
        self.directory = running.directory
        self.rendezvous = running.rendezvous(
            *("--control", "tcp:0:interface=127.0.0.1"),
            *("--reflector-port", "127.0.0.1:0"),
            *("--host", "127.0.0.1"),
        )
        self.address = self.rendezvous.wait("listening")["address"]

    def bob(self, *options: str) -> tuple[JSONProcess, str]:
        """A waiting peer that a script drives, and its ID."""
        bob = self.running.peer("bob", *(options or ("--accept", "anyone")))
        identity = bob.wait("ready")["id"]
        bob.wait("registered")
        return bob, identity

    def id_of(self, name: str) -> str:
        done = run(
            [PUNCH, "id", "--name", name, "--state-dir", str(self.directory / "state")], self.directory
        )
        return done.stdout.decode().strip()

    def call(
        self, who: str, text: bytes | None, *options: str, redirect: str | None = None
    ) -> subprocess.CompletedProcess[bytes]:
        """Alice calls, with that on her stdin, and ends."""
        arguments = peer(self.directory, "alice", "--peer", who, *options)
        return run(arguments, self.directory, text, redirect=redirect)


@pytest.fixture
def place(tmp_path: Path) -> Iterator[Place]:
    with programs(tmp_path) as running:
        yield Place(running)


def one_sentence(done: subprocess.CompletedProcess[bytes], *parts: str) -> None:
    """It failed, and said why in one line on stderr, without a traceback."""
    text = done.stderr.decode()
    assert done.returncode == 1, (done.returncode, done.stdout, text)
    assert len(text.strip().splitlines()) == 1, text
    assert "Traceback" not in text + done.stdout.decode()
    assert text.strip().endswith("."), text
    for part in parts:
        assert part in text, text


# -- through pipes --


def test_echo_hi(place: Place) -> None:
    bob, identity = place.bob()
    done = place.call(identity, b"hi\n")
    assert done.returncode == 0, done
    assert bob.wait("message")["text"] == "hi"
    assert bob.wait("disconnected")["reason"] == "bye"
    shown = done.stdout.decode()
    stages = [
        "Your ID: ",
        "Registered at ",
        "Introduced to bob",
        "Checking ",
        "Connected to bob",
        "✓ delivered: hi",
    ]
    positions = [shown.index(stage) for stage in stages]
    assert positions == sorted(positions)
    assert re.search(
        rf"host path \S+:\d+ → \S+:\d+ over UDP, round trip .* ms, encrypted to {identity}", shown
    )
    assert done.stderr == b""
    assert "\x1b" not in shown


def test_what_comes_in_any_form(place: Place) -> None:
    bob, identity = place.bob()
    file = place.directory / "lines"
    file.write_bytes(b"from a file\nand no newline at the end")
    cases = [
        (f"< {file}", ["from a file", "and no newline at the end"]),
        ("< /dev/null", []),
        ("<&-", []),
        ("< <(sleep 1; echo late)", ["late"]),
        ("< <(printf 'a\\nb\\n'; sleep 3; echo c)", ["a", "b", "c"]),
    ]
    for redirect, texts in cases:
        done = place.call(identity, None, redirect=redirect)
        assert done.returncode == 0, (redirect, done)
        assert done.stderr == b"", (redirect, done)
        for text in texts:
            assert bob.wait("message")["text"] == text
        bob.wait("disconnected")


def test_much_of_it(place: Place) -> None:
    """More than any buffer holds, in order, each line once; a line longer than a message in parts."""
    bob, identity = place.bob()
    lines = [f"{number} {'x' * 700}" for number in range(2000)]
    file = place.directory / "much"
    file.write_text("\n".join([*lines, "y" * 100_000]) + "\n")
    done = place.call(identity, None, redirect=f"< {file}")
    assert done.returncode == 0, done.stderr
    got = [event["text"] for event in iter_messages(bob, len(lines) + 7)]
    assert got[: len(lines)] == lines
    assert "".join(got[len(lines) :]) == "y" * 100_000
    assert done.stdout.count("✓ delivered".encode()) == len(got)


def iter_messages(process: JSONProcess, count: int) -> Iterator[Event]:
    for _ in range(count):
        yield process.wait("message")


def test_output_without_a_reader(place: Place) -> None:
    _bob, identity = place.bob()
    for redirect in ("| head -1", ">&-", "> /dev/null", "> /dev/full"):
        begin = time.monotonic()
        done = place.call(identity, None, redirect=f"{redirect} < <(echo hi; sleep 4)")
        assert "Traceback" not in (done.stdout + done.stderr).decode(), done
        assert time.monotonic() - begin < 20
        assert b"Error" not in done.stderr, done


def test_a_waiting_peer_is_a_service(place: Place) -> None:
    """Without anything on stdin it waits, takes no time, and lets in whom it may."""
    for number, redirect in enumerate(("< /dev/null", "<&-", "< /etc/hostname")):
        name = f"service{number}"
        service = subprocess.Popen(
            [
                "bash",
                "-c",
                f'exec "$@" {redirect}',
                "bash",
                *peer(place.directory, name, "--accept", "anyone"),
            ],
            cwd=place.directory,
            env=environment(),
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
        )
        try:
            assert service.stdout is not None
            line = b""
            while b"Registered" not in line:
                line = service.stdout.readline()
                assert line, service.stderr
            time.sleep(0.5)
            before = cpu_seconds(service.pid)
            time.sleep(1.0)
            assert cpu_seconds(service.pid) - before < 0.3
            done = place.call(place.id_of(name), b"hello\n")
            assert done.returncode == 0, done
            service.send_signal(signal.SIGTERM)
            out, err = service.communicate(timeout=10)
            assert b"alice: hello" in out
            assert err == b""
            assert service.returncode == -signal.SIGTERM
        finally:
            service.kill()
            service.wait()


def cpu_seconds(pid: int) -> float:
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def test_delivered_means_shown(place: Place) -> None:
    """As long as nobody reads what the other side prints, there is no mark."""
    reader, writer = os.pipe()
    name = "slow"
    slow = subprocess.Popen(
        peer(place.directory, name, "--json", "--accept", "anyone"),
        cwd=place.directory,
        env=environment(),
        stdin=subprocess.PIPE,
        stdout=writer,
        stderr=subprocess.DEVNULL,
    )
    os.close(writer)
    try:
        time.sleep(1.5)
        alice = place.running.peer("alice", "--peer", place.id_of(name))
        alice.wait("connected")
        for number in range(12):
            alice.command("send", text="z" * 16_000, id=number)
        time.sleep(1.5)
        marked = sum(event["event"] == "delivered" for event in drain(alice))
        assert marked < 8
        with os.fdopen(reader, "rb") as output:
            for line in output:
                if b'"id":12' in line:
                    break
            alice.wait("delivered", where=lambda event: event["id"] == 11)
    finally:
        slow.kill()
        slow.wait()


def drain(process: JSONProcess) -> list[Event]:
    """All that it has said until now."""
    with pytest.raises(AssertionError):
        process.wait("nothing", timeout=0.1)
    process._seen = 0
    return process.events


def test_both_call_at_once(place: Place) -> None:
    """One link; and what each has to say arrives, although both leave as soon as it has."""
    for _ in range(3):
        both = {name: place.running.peer(name) for name in ("alice", "bob")}
        ids = {name: process.wait("ready")["id"] for name, process in both.items()}
        for process in both.values():
            process.wait("registered")
        both["alice"].command("call", peer=ids["bob"])
        both["bob"].command("call", peer=ids["alice"])
        for process in both.values():
            process.wait("connected")
        for process in both.values():
            process.process.send_signal(signal.SIGSTOP)
        for name, process in both.items():
            process.command("send", text=f"from {name}")
            assert process.process.stdin is not None
            process.process.stdin.close()
        for process in both.values():
            process.process.send_signal(signal.SIGCONT)
        for process, other in ((both["alice"], "bob"), (both["bob"], "alice")):
            process.wait("disconnected")
            assert process.exit() == 0
            assert process.stderr == ""
            happened = [event["event"] for event in process.events]
            assert [happened.count(event) for event in ("connected", "message", "delivered")] == [1, 1, 1]
            assert {"failed", "error"}.isdisjoint(happened)
            assert any(event.get("text") == f"from {other}" for event in process.events)


# -- in a terminal --


def test_two_terminals(place: Place) -> None:
    with terminal(peer(place.directory, "bob"), place.directory) as bob:
        identity = bob.wait(r"Your ID: (\w{56})")[1]
        bob.wait("Waiting for a call")
        with terminal(peer(place.directory, "alice", "--peer", identity), place.directory) as alice:
            bob.wait(r"Let alice \(\w{56}\) connect\? \[y/n\]")
            bob.type("y\n")
            alice.wait("Connected to bob")
            bob.wait("Connected to alice")
            alice.type("hello bob\r")
            bob.wait("^alice: hello bob$")
            alice.wait("you: hello bob  ✓ delivered")
            bob.type("half a li")
            bob.wait("> half a li$")
            alice.type("a message in between\n")
            bob.wait("^alice: a message in between\n> half a li$")
            bob.type("ne\n")
            alice.wait("^bob: half a line$")
            alice.type("/help\n/quit\n")
            assert alice.exit() == 0
        bob.wait("hung up")
        bob.type("\x04")
        assert bob.exit() == 0


def test_a_stranger_is_refused(place: Place) -> None:
    with terminal(peer(place.directory, "bob"), place.directory) as bob:
        identity = bob.wait(r"Your ID: (\w{56})")[1]
        bob.wait("Waiting for a call")
        alice = subprocess.Popen(
            peer(place.directory, "alice", "--peer", identity),
            cwd=place.directory,
            env=environment(),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
        )
        bob.wait(r"\[y/n\]")
        bob.type("n\n")
        _out, err = alice.communicate(timeout=20)
        assert alice.returncode == 1
        assert b"refused" in err
        bob.type("/quit\n")
        assert bob.exit() == 0


def test_the_terminal_is_given_back(place: Place) -> None:
    for end in ("\x03", "\x04", "/quit\n", "TERM"):
        with terminal(peer(place.directory, "bob"), place.directory) as bob:
            bob.wait("Your ID")
            bob.wait("Waiting for a call")
            before = bob.modes()
            if end == "TERM":
                os.kill(bob.pid, signal.SIGTERM)
            else:
                bob.type(end)
            status = bob.exit()
            assert status == {"\x03": -signal.SIGINT, "TERM": -signal.SIGTERM}.get(end, 0)
            assert before != bob.modes()


def test_colour_is_for_terminals_that_want_it(place: Place) -> None:
    cases: list[tuple[dict[str, str], bool]] = [
        ({}, True),
        ({"NO_COLOR": "1"}, False),
        ({"TERM": "dumb"}, False),
    ]
    for extra, coloured in cases:
        with terminal(peer(place.directory, "bob"), place.directory, extra=extra) as bob:
            bob.wait("Waiting for a call")
            assert ("\x1b[2m" in bob.output) is coloured
            bob.type("/quit\n")
            assert bob.exit() == 0


# -- signals --


@pytest.mark.parametrize("name", ["SIGINT", "SIGTERM", "SIGHUP"])
def test_signals_at_every_stage(place: Place, name: str) -> None:
    number = getattr(signal, name)
    bob, identity = place.bob("--accept", "ask")

    def ends_well(process: JSONProcess) -> None:
        process.process.send_signal(number)
        assert process.exit(10) == -number
        assert process.stderr == ""

    for delay in (0.05, 0.2, 0.4):
        starting = place.running.peer("alice", "--peer", identity)
        time.sleep(delay)
        starting.process.send_signal(number)
        assert starting.exit(10) == -number
        # Until it has read its options, Python's and twistd's own manners hold.
        assert name == "SIGINT" or starting.stderr == ""
    ready = place.running.peer("alice")
    ready.wait("ready")
    ends_well(ready)
    registered = place.running.peer("alice")
    registered.wait("registered")
    ends_well(registered)
    ringing = place.running.peer("alice", "--peer", identity)
    bob.wait("call")
    ends_well(ringing)
    bob.wait("failed", where=lambda event: event["reason"] == "cancelled")
    for stage in ("introduced", "checking", "connected"):
        going = place.running.peer("alice", "--peer", identity)
        bob.command("accept", peer=bob.wait("call", where=lambda event: not event["known"])["peer"]) if (
            stage == "introduced"
        ) else None
        going.wait(stage)
        ends_well(going)
        if stage == "connected":
            assert bob.wait("disconnected")["reason"] == "bye"


def test_nohup(place: Place) -> None:
    bob = run_under("nohup", place, "bob")
    try:
        time.sleep(1.5)
        bob.send_signal(signal.SIGHUP)
        time.sleep(0.5)
        assert bob.poll() is None
    finally:
        bob.kill()
        bob.wait()


def run_under(program: str, place: Place, name: str) -> subprocess.Popen[bytes]:
    return subprocess.Popen(
        [program, *peer(place.directory, name)],
        cwd=place.directory,
        env=environment(),
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )


# -- sentences --


def test_bad_ids(place: Place) -> None:
    bob, identity = place.bob()
    typo = identity[:10] + ("a" if identity[10] != "a" else "b") + identity[11:]
    one_sentence(place.call(typo, b"x\n"), "typo")
    one_sentence(place.call(identity[:-1], b"x\n"), "typo")
    one_sentence(place.call(place.id_of("alice"), b"x\n"), "own ID")
    one_sentence(place.call(place.id_of("nobody"), b"x\n"), "not registered")
    spaced = "-".join(identity[i : i + 8].upper() for i in range(0, 56, 8))
    assert place.call(spaced, b"typed by hand\n").returncode == 0
    assert bob.wait("message")["text"] == "typed by hand"


def test_bad_rendezvous(place: Place) -> None:
    _bob, identity = place.bob()
    wrong_pin = place.address.rpartition("/")[0] + "/" + "x" * 56
    for address, part in [
        ("http://example.org", "punch://"),
        (wrong_pin, "typo"),
        ("punch://127.0.0.1:99999", "port"),
        ("", "empty"),
    ]:
        one_sentence(place.call(identity, b"x\n", "--rendezvous", address), part)
    done = place.call(
        identity, b"x\n", "--rendezvous", "punch://127.0.0.1:1/" + place.address.rpartition("/")[2]
    )
    assert done.returncode == 1
    assert "127.0.0.1:1" in done.stderr.decode()
    one_sentence(done)


def test_another_key_than_the_pin_says(place: Place, tmp_path: Path) -> None:
    other = place.running.rendezvous(
        *("--control", "tcp:0:interface=127.0.0.1"), *("--reflector-port", "127.0.0.1:0"), state="other"
    )
    pin = other.wait("listening")["address"].rpartition("/")[2]
    begin = time.monotonic()
    done = place.call(
        place.id_of("nobody"), b"x\n", "--rendezvous", place.address.rpartition("/")[0] + "/" + pin
    )
    one_sentence(done, "key")
    assert time.monotonic() - begin < 8
    waiting = run(
        peer(place.directory, "waiting", "--rendezvous", place.address.rpartition("/")[0] + "/" + pin),
        tmp_path,
    )
    one_sentence(waiting, "key")


def test_no_rendezvous_at_all(tmp_path: Path) -> None:
    one_sentence(run(peer(tmp_path, "alice"), tmp_path), "--rendezvous", "punch-rendezvous")


def test_where_the_rendezvous_comes_from(place: Place) -> None:
    """From the command line, the environment, the last run, the same machine: the first that there is."""

    def registered_at(*options: str, **extra: str) -> str:
        with terminal(peer(place.directory, "carol", *options), place.directory, extra=extra) as carol:
            address = carol.wait(r"Registered at (\S+)")[1]
            carol.type("/quit\n")
            assert carol.exit() == 0
            return address

    other = place.running.rendezvous(
        *("--control", "tcp:0:interface=127.0.0.1"),
        *("--reflector-port", "127.0.0.1:0"),
        *("--host", "127.0.0.1"),
        state="other",
    ).wait("listening")["address"]
    assert registered_at() == place.address
    assert registered_at(PUNCH_RENDEZVOUS=other) == other
    assert registered_at() == other
    assert registered_at("--rendezvous", place.address, PUNCH_RENDEZVOUS=other) == place.address
    assert registered_at() == place.address


def test_one_identity_one_process(place: Place) -> None:
    bob, _identity = place.bob()
    again = run(peer(place.directory, "bob"), place.directory)
    one_sentence(again, "already runs", "--name")
    bob.command("quit")
    assert bob.exit() == 0
    again_json = run(peer(place.directory, "bob", "--json", "--peer", "zzz"), place.directory)
    assert b'"event": "failed"' in again_json.stdout or b'"event":"failed"' in again_json.stdout
    one_sentence(again_json)


def test_a_state_directory_that_cannot_be(tmp_path: Path) -> None:
    (tmp_path / "state").write_text("a file")
    one_sentence(run(peer(tmp_path, "alice", "--rendezvous", "punch://127.0.0.1:1"), tmp_path), "--state-dir")
    one_sentence(
        run([TWISTD, "-n", "punch-peer", "--name", "a/b", "--rendezvous", "punch://127.0.0.1:1"], tmp_path),
        "--name",
    )


def test_nothing_but_the_chat_in_the_directory_and_on_stdout(place: Place) -> None:
    """No twistd.pid, no twistd.log, no log lines: those are in the state directory, or where wanted."""
    _bob, identity = place.bob()
    before = {path.name for path in place.directory.iterdir()}
    done = place.call(identity, b"x\n")
    assert b"[-]" not in done.stdout
    assert b"twistd" not in done.stdout
    assert {path.name for path in place.directory.iterdir()} == before
    assert "Main loop terminated" in (place.directory / "state/peers/alice/peer.log").read_text()
    wanted = run(
        [
            *(TWISTD, "-n", "--logfile", "-", "punch-peer", "--state-dir", str(place.directory / "state")),
            *("--name", "alice", "--peer", identity),
        ],
        place.directory,
        b"x\n",
    )
    assert b"Main loop terminated" in wanted.stdout


def test_stdin_of_the_shell_stays_as_it_was(place: Place) -> None:
    """Non-blocking mode belongs to the open file, which others have too."""
    _bob, identity = place.bob()
    reader, writer = os.pipe()
    os.write(writer, b"hi\n")
    os.close(writer)
    done = subprocess.run(
        peer(place.directory, "alice", "--peer", identity),
        cwd=place.directory,
        env=environment(),
        stdin=reader,
        capture_output=True,
        timeout=30,
        check=False,
    )
    assert done.returncode == 0
    assert os.get_blocking(reader)
    os.close(reader)


def test_json_through_a_pipe(place: Place) -> None:
    bob, identity = place.bob()
    commands = f'{{"command":"call","peer":"{identity}"}}\nnonsense\n'.encode()
    done = run(peer(place.directory, "alice", "--json"), place.directory, commands)
    assert done.returncode == 0, done
    assert done.stderr == b""
    assert b'"event":"error"' in done.stdout
    assert b'"event":"connected"' in done.stdout
    bob.wait("disconnected")


def test_console_script() -> None:
    for arguments in (["--help"], ["--version"], ["demo", "--help"], ["peer", "--help"], ["id", "--help"]):
        done = subprocess.run([PUNCH, *arguments], capture_output=True, text=True, check=False, timeout=20)
        assert done.returncode == 0, arguments
        assert "punch" in done.stdout.lower()
    wrong = subprocess.run([PUNCH, "dance"], capture_output=True, text=True, check=False, timeout=20)
    assert wrong.returncode != 0
    assert "dance" in wrong.stderr


def test_punch_peer_is_the_plugin(place: Place) -> None:
    bob, identity = place.bob()
    options = ["--state-dir", str(place.directory / "state"), "--name", "alice", "--peer", identity]
    done = run([PUNCH, "peer", *options], place.directory, b"short\n")
    assert done.returncode == 0, done
    assert bob.wait("message")["text"] == "short"
