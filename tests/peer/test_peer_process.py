"""The peer as a process: every kind of stdin and stdout."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import time
from collections.abc import Iterator
from typing import IO

import pytest

from tests.consoles import environment, peer, run, terminal
from tests.local_peers import LocalPeers
from tests.processes import PUNCH, TWISTD, Event, JSONProcess, ProcessFailed, comes_to_rest
from tests.terminal.tmux import screen

# -- through pipes --


def test_echo_hi(local: LocalPeers) -> None:
    bob, identity = local.bob()
    done = local.call(identity, b"hi\n")
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


def test_what_comes_in_any_form(local: LocalPeers) -> None:
    bob, identity = local.bob()
    file = local.directory / "lines"
    file.write_bytes(b"from a file\nand no newline at the end")
    cases = [
        (f"< {file}", ["from a file", "and no newline at the end"]),
        ("< /dev/null", []),
        ("<&-", []),
        ("< <(sleep 1; echo late)", ["late"]),
        ("< <(printf 'a\\nb\\n'; sleep 3; echo c)", ["a", "b", "c"]),
    ]
    for redirect, texts in cases:
        done = local.call(identity, None, redirect=redirect)
        assert done.returncode == 0, (redirect, done)
        assert done.stderr == b"", (redirect, done)
        for text in texts:
            assert bob.wait("message")["text"] == text
        bob.wait("disconnected")


def test_much_of_it(local: LocalPeers) -> None:
    """More than any buffer holds, in order, each line once; a line longer than a message in parts."""
    bob, identity = local.bob()
    lines = [f"{number} {'x' * 700}" for number in range(2000)]
    file = local.directory / "much"
    file.write_text("\n".join([*lines, "y" * 100_000]) + "\n")
    done = local.call(identity, None, redirect=f"< {file}")
    assert done.returncode == 0, done.stderr
    got = [event["text"] for event in iter_messages(bob, len(lines) + 7)]
    assert got[: len(lines)] == lines
    assert "".join(got[len(lines) :]) == "y" * 100_000
    assert done.stdout.count("✓ delivered".encode()) == len(got)


def iter_messages(process: JSONProcess, count: int) -> Iterator[Event]:
    for _ in range(count):
        yield process.wait("message")


def test_output_without_a_reader(local: LocalPeers) -> None:
    _bob, identity = local.bob()
    for redirect in ("| head -1", ">&-", "> /dev/null", "> /dev/full"):
        begin = time.monotonic()
        done = local.call(identity, None, redirect=f"{redirect} < <(echo hi; sleep 4)")
        assert "Traceback" not in (done.stdout + done.stderr).decode(), done
        assert time.monotonic() - begin < 20
        assert b"Error" not in done.stderr, done


def test_a_waiting_peer_is_a_service(local: LocalPeers) -> None:
    """Without anything on stdin it waits, takes no time, and lets in whom it may."""
    for number, redirect in enumerate(("< /dev/null", "<&-", "< /etc/hostname")):
        name = f"service{number}"
        service = subprocess.Popen(
            [
                "bash",
                "-c",
                f'exec "$@" {redirect}',
                "bash",
                *peer(local.directory, name, "--accept", "anyone"),
            ],
            cwd=local.directory,
            env=environment(),
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
        )
        try:
            assert service.stdout is not None
            wait_for_line(service.stdout, b"Registered")
            assert comes_to_rest(service.pid, 0.3)
            done = local.call(local.id_of(name), b"hello\n")
            assert done.returncode == 0, done
            service.send_signal(signal.SIGTERM)
            out, err = service.communicate(timeout=10)
            assert b"alice: hello" in out
            assert err == b""
            assert service.returncode == -signal.SIGTERM
        finally:
            service.kill()
            service.wait()


def wait_for_line(output: IO[bytes], part: bytes) -> None:
    """Read up to a line with this in it."""
    for line in iter(output.readline, b""):
        if part in line:
            return
    raise AssertionError(f"ended without {part!r}")


def test_delivered_means_shown(local: LocalPeers) -> None:
    """A message is not marked as delivered while nobody reads the output of the other side."""
    reader, writer = os.pipe()
    name = "slow"
    slow = subprocess.Popen(
        peer(local.directory, name, "--json", "--accept", "anyone"),
        cwd=local.directory,
        env=environment(),
        stdin=subprocess.PIPE,
        stdout=writer,
        stderr=subprocess.DEVNULL,
    )
    os.close(writer)
    try:
        output = os.fdopen(reader, "rb")
        wait_for_line(output, b'"registered"')
        alice = local.running.peer("alice", "--peer", local.id_of(name))
        assert alice.wait("connected")["post_quantum"] is True
        for number in range(12):
            alice.command("send", text="z" * 16_000, id=number)
        time.sleep(1.5)
        marked = sum(event["event"] == "delivered" for event in drain(alice))
        assert marked < 8
        with output:
            wait_for_line(output, b'"id":12')
            alice.wait("delivered", where=lambda event: event["id"] == 11)
    finally:
        slow.kill()
        slow.wait()


def drain(process: JSONProcess) -> list[Event]:
    """All that it has said until now."""
    with pytest.raises(AssertionError):
        process.wait("nothing", timeout=0.1)
    process.rewind()
    return process.events


def test_both_call_at_once(local: LocalPeers) -> None:
    """
    One link; and what each has to say arrives, although both leave as soon as it has.

    On a busy machine, one may not have read what it has to say when the other one has left. Then it says that
    it was not delivered, and it arrives the next time.
    """
    late: set[str] = set()
    statuses: list[int | None] = []
    for _ in range(3):
        both = {name: local.running.peer(name) for name in ("alice", "bob")}
        ids = {name: process.wait("ready")["id"] for name, process in both.items()}
        for process in both.values():
            process.wait("registered")
        both["alice"].command("call", peer=ids["bob"])
        both["bob"].command("call", peer=ids["alice"])
        for process in both.values():
            process.wait("connected")
        for process in both.values():
            process.process.send_signal(signal.SIGSTOP)
        for (name, process), other in zip(both.items(), ("bob", "alice"), strict=True):
            process.command("send", peer=ids[other], text=f"from {name}")
            assert process.process.stdin is not None
            process.process.stdin.close()
        for process in both.values():
            process.process.send_signal(signal.SIGCONT)
        waited, late = late, set()
        for name, process in both.items():
            process.wait("disconnected")
            status = process.exit()
            statuses.append(status)
            with pytest.raises(ProcessFailed):
                process.wait("nothing")
            happened = [event["event"] for event in process.events]
            assert happened.count("connected") == 1
            assert "error" not in happened
            assert happened.count("delivered") == (status == 0) + (name in waited)
            if status == 0:
                assert "failed" not in happened
                assert process.stderr == ""
            else:
                assert status == 1
                late.add(name)
        for name, other in (("alice", "bob"), ("bob", "alice")):
            texts = [event["text"] for event in both[name].events if event["event"] == "message"]
            assert texts == [f"from {other}"] * ((other not in late) + (other in waited))
    assert 0 in statuses


# -- in a terminal --


def test_two_terminals(local: LocalPeers) -> None:
    with screen(peer(local.directory, "bob"), local.directory) as bob:
        identity = bob.wait(r"Your ID: (\w{56})")[1]
        bob.wait("Waiting for a call")
        with screen(peer(local.directory, "alice", "--peer", identity), local.directory) as alice:
            bob.wait(r"Let alice \(\w{56}\) connect\? \[y/n\]")
            bob.line("y")
            alice.wait("Connected to bob")
            bob.wait("Connected to alice")
            alice.line("hello bob")
            bob.wait("^[0-9:]{5} alice: hello bob$")
            alice.wait("you: hello bob  ✓ delivered")
            bob.type("half a li")
            bob.wait("> half a li$")
            alice.line("a message in between")
            bob.wait("^[0-9:]{5} alice: a message in between\nalice> half a li$")
            bob.line("ne")
            alice.wait("^[0-9:]{5} bob: half a line$")
            alice.line("/help")
            alice.line("/quit")
            assert alice.exit() == 0
        bob.wait("hung up")
        bob.press("C-d")
        assert bob.exit() == 0


def test_without_the_line_editor_there_are_plain_lines_and_a_hint(local: LocalPeers) -> None:
    without = local.directory / "without"
    without.mkdir()
    (without / "sitecustomize.py").write_text("import sys\nsys.modules['prompt_toolkit'] = None\n")
    arguments = peer(local.directory, "bob")
    with terminal(arguments, local.directory, extra={"PYTHONPATH": str(without)}) as bob:
        bob.wait(r"\AFor line editing, .*: (?:\S+ -m )?pip install 'txpunch\[terminal\]'\nYour ID: ")
        bob.wait("Waiting for a call")
        bob.type("/status\n")
        bob.wait(r"(?s)Registered at .*Registered at ")
        bob.type("\x04")
        assert bob.exit() == 0


def test_a_terminal_that_can_do_nothing_has_plain_lines(local: LocalPeers) -> None:
    """The terminal's own line mode, and every command."""
    with terminal(peer(local.directory, "bob"), local.directory, extra={"TERM": "dumb"}) as bob:
        bob.wait("Waiting for a call")
        assert "\x1b" not in bob.output
        modes = bob.modes()
        bob.type("/status\n")
        bob.wait(r"(?s)^Registered at .*^Registered at ")
        assert bob.modes() == modes
        bob.type("/quit\n")
        assert bob.exit() == 0


@pytest.mark.parametrize("rest", ["", " and a half"])
def test_a_paste_in_a_terminal_without_a_line_editor(local: LocalPeers, rest: str) -> None:
    """Several lines that come at once go as one message, and not before somebody says so."""
    bob, identity = local.bob()
    options = peer(local.directory, "alice", "--peer", identity)
    with terminal(options, local.directory, extra={"TERM": "dumb"}) as alice:
        alice.wait("Connected to bob")
        alice.type("typed\n")
        alice.wait("delivered: typed")
        modes = alice.modes()
        alice.type(f"first\nsecond line\n{rest}")
        alice.wait(rf"{3 if rest else 2} lines came at once, .* to bob as one message\? \[y/n\]")
        assert alice.modes() == modes
        alice.type("y\n")
        alice.wait("delivered: first")
        alice.type("again\nand again\nand again\nand again\n")
        alice.wait("4 lines came at once")
        alice.type("n\n")
        alice.wait("4 lines not sent")
        alice.type("last\n")
        alice.wait("delivered: last")
        alice.type("pasted\nand over\n\x04")
        assert alice.exit() == 1
        assert "and over" in alice.text.rpartition("last")[2]
    heard = [bob.wait("message")["text"] for _ in range(3)]
    assert heard == ["typed", "first\nsecond line" + ("\n" + rest if rest else ""), "last"]


def test_a_stranger_is_refused(local: LocalPeers) -> None:
    with terminal(peer(local.directory, "bob"), local.directory) as bob:
        identity = bob.wait(r"Your ID: (\w{56})")[1]
        bob.wait("Waiting for a call")
        alice = subprocess.Popen(
            peer(local.directory, "alice", "--peer", identity),
            cwd=local.directory,
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


def test_the_terminal_is_given_back(local: LocalPeers) -> None:
    for end in ("\x03", "\x04", "/quit\n", "TERM"):
        with terminal(peer(local.directory, "bob"), local.directory) as bob:
            before = bob.modes()
            bob.wait("Waiting for a call")
            bob.wait_for_editor()
            assert bob.modes() != before
            if end == "TERM":
                os.kill(bob.pid, signal.SIGTERM)
            else:
                bob.type(end)
            status = bob.exit()
            assert status == {"\x03": -signal.SIGINT, "TERM": -signal.SIGTERM}.get(end, 0)
            assert bob.modes() == before


def test_colour_is_for_terminals_that_want_it(local: LocalPeers) -> None:
    cases: list[tuple[dict[str, str], bool]] = [
        ({}, True),
        ({"NO_COLOR": "1"}, False),
        ({"TERM": "dumb"}, False),
        ({"TERM": ""}, False),
    ]
    for extra, coloured in cases:
        with terminal(peer(local.directory, "bob"), local.directory, extra=extra) as bob:
            bob.wait("Waiting for a call")
            assert ("\x1b[2m" in bob.output) is coloured
            if "TERM" in extra:
                # Neither colours nor anything else, and no advice that would not help.
                assert "\x1b" not in bob.output
                assert "line editing" not in bob.output
            bob.type("/quit\n")
            assert bob.exit() == 0


def test_nohup(local: LocalPeers) -> None:
    bob = run_under("nohup", local, "bob")
    try:
        assert bob.stdout is not None
        wait_for_line(bob.stdout, b"Registered")
        bob.send_signal(signal.SIGHUP)
        time.sleep(0.5)
        assert bob.poll() is None
    finally:
        bob.kill()
        bob.wait()


def run_under(program: str, local: LocalPeers, name: str) -> subprocess.Popen[bytes]:
    return subprocess.Popen(
        [program, *peer(local.directory, name)],
        cwd=local.directory,
        env=environment(),
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
    )


# -- what else a process is --


def test_nothing_but_the_chat_in_the_directory_and_on_stdout(local: LocalPeers) -> None:
    """No twistd.pid, no twistd.log, no log lines: those are in the state directory, or where wanted."""
    _bob, identity = local.bob()
    before = {path.name for path in local.directory.iterdir()}
    done = local.call(identity, b"x\n")
    assert b"[-]" not in done.stdout
    assert b"twistd" not in done.stdout
    assert {path.name for path in local.directory.iterdir()} == before
    assert "Main loop terminated" in (local.directory / "state/peers/alice/peer.log").read_text()
    wanted = run(
        [
            *(TWISTD, "-n", "--logfile", "-", "punch-peer", "--state-dir", str(local.directory / "state")),
            *("--name", "alice", "--peer", identity),
        ],
        local.directory,
        b"x\n",
    )
    assert b"Main loop terminated" in wanted.stdout


def test_stdin_of_the_shell_stays_as_it_was(local: LocalPeers) -> None:
    """Non-blocking mode belongs to the open file, which others have too."""
    _bob, identity = local.bob()
    reader, writer = os.pipe()
    os.write(writer, b"hi\n")
    os.close(writer)
    done = subprocess.run(
        peer(local.directory, "alice", "--peer", identity),
        cwd=local.directory,
        env=environment(),
        stdin=reader,
        capture_output=True,
        timeout=30,
        check=False,
    )
    assert done.returncode == 0
    assert os.get_blocking(reader)
    os.close(reader)


def test_json_through_a_pipe(local: LocalPeers) -> None:
    bob, identity = local.bob()
    commands = f'{{"command":"call","peer":"{identity}"}}\nnonsense\n'.encode()
    done = run(peer(local.directory, "alice", "--json"), local.directory, commands)
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


def test_punch_peer_is_the_plugin(local: LocalPeers) -> None:
    bob, identity = local.bob()
    options = ["--state-dir", str(local.directory / "state"), "--name", "alice", "--peer", identity]
    done = run([PUNCH, "peer", *options], local.directory, b"short\n")
    assert done.returncode == 0, done
    assert bob.wait("message")["text"] == "short"
