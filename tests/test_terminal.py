"""The chat in real terminals, which tmux draws: read and typed as people do."""

from __future__ import annotations

import contextlib
import os
import re
import signal
import sqlite3
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from .consoles import environment, peer, terminal
from .needs import need_namespaces
from .netns import Host, Lab
from .processes import PUNCH, JSONProcess, Programs, programs
from .test_namespaces import SERVICE, two_homes
from .tmux import Screen, screen


class Place:
    """A rendezvous of one user on this machine."""

    def __init__(self, running: Programs) -> None:
        self.running = running
        self.directory = running.directory
        running.rendezvous(
            *("--control", "tcp:0:interface=127.0.0.1"),
            *("--reflector-port", "127.0.0.1:0"),
            *("--host", "127.0.0.1"),
        ).wait("listening")

    def peer(self, name: str, *options: str) -> list[str]:
        return peer(self.directory, name, *options)


@pytest.fixture
def place(tmp_path: Path) -> Iterator[Place]:
    with programs(tmp_path) as running:
        yield Place(running)


def identity(shown: Screen) -> str:
    """The ID that it prints at the start; it is registered by then."""
    shown.wait("^Registered at ")
    return shown.wait(r"Your ID: (\w{56})")[1]


def connect(caller: Screen, callee: Screen, who: str) -> None:
    """One calls, and the other one says yes."""
    caller.line(f"/call {identity(callee)}")
    callee.wait(rf"Let {who} \(\w{{56}}\) connect\? \[y/n\]")
    callee.line("y")
    caller.wait("^Connected to ")
    callee.wait("^Connected to ")


class Story:
    """Two people behind two kernel NATs, and a rendezvous between them."""

    def __init__(self, lab: Lab, running: Programs) -> None:
        self.running = running
        self.service, self.alice, self.bob, _ = two_homes(lab)
        self.rendezvous = self.serve()
        self.address: str = self.rendezvous.wait("listening")["address"]
        (self.router,) = [host for host in lab.hosts if host.name.endswith("nat-a")]

    def serve(self) -> JSONProcess:
        """Start the rendezvous, with the key that it had before."""
        return self.running.rendezvous("--host", SERVICE, state="state-service", prefix=self.service.prefix)

    def peer(self, name: str, host: Host, *options: str) -> list[str]:
        directory = self.running.directory / f"of-{name}"
        directory.mkdir(exist_ok=True)
        return [*host.prefix, *peer(directory, name, "--rendezvous", self.address, *options)]

    def block_direct_paths(self) -> None:
        """From now on Alice's router lets nothing through between the two homes; the relay is open."""
        self.router.nft(
            """
            table ip block {
                chain forward {
                    type filter hook forward priority -10;
                    ip daddr 198.51.100.12 drop
                    ip saddr 198.51.100.12 drop
                }
            }
            """
        )


@pytest.fixture
def story(tmp_path: Path) -> Iterator[Story]:
    need_namespaces()
    with Lab() as lab, programs(tmp_path) as running:
        yield Story(lab, running)


def test_the_story_of_two_people(story: Story, tmp_path: Path) -> None:
    """
    Name, call, accept, chat both ways, the path changes, the rendezvous restarts, the peer is away and comes
    back, hang up; and no line that is being typed is lost or broken.
    """
    size = (100, 30)
    with screen(story.peer("alice", story.alice), tmp_path, size) as alice:
        alice.wait("Waiting for a call")
        with screen(story.peer("bob", story.bob), tmp_path, size) as bob:
            bob.wait("Waiting for a call")
            # A name that is one's own for somebody, before anything else is known of him
            alice.line(f"/name {identity(bob)} robert")
            alice.wait("^robert +")
            alice.line("/call robert")
            bob.wait(r"\[y/n\]")
            assert bob.visible[-1].startswith("a question waits: y or n")
            bob.line("y")
            alice.wait("^Connected to robert directly, through the NATs")
            bob.wait("^Connected to alice directly, through the NATs")
            alice.line("hello bob, 日本 👩‍💻")
            bob.wait("^alice: hello bob, 日本 👩‍💻$")
            alice.wait("^you: hello bob, 日本 👩‍💻  ✓")
            bob.line("hello alice")
            alice.wait("^robert: hello alice$")
            alice.press("Space", "BSpace")
            bob.wait("^you: hello alice  ✓✓ read$")

            # The path changes under a line that is being typed
            bob.type("half a li")
            story.block_direct_paths()
            alice.line("are you still there?")
            bob.wait("^alice: are you still there\\?$", timeout=60)
            bob.wait("^The path to alice changed: through a relay")
            assert bob.visible[-2] == "alice> half a li"
            assert bob.visible[-1].startswith("alice through a relay")
            bob.type("ne")
            bob.press("Enter")
            alice.wait("^robert: half a line$")

            # The rendezvous, which is also the relay, restarts
            bob.type("still ty")
            story.rendezvous.kill(signal.SIGKILL)
            story.rendezvous.process.wait()
            story.rendezvous = story.serve()
            story.rendezvous.wait("listening")
            alice.line("and now?")
            bob.wait("^alice: and now\\?$", timeout=90)
            assert bob.visible[-2] == "alice> still ty"
            bob.type("ping")
            bob.press("Enter")
            alice.wait("^robert: still typing$", timeout=60)
            bob.line("/quit")
            assert bob.exit() == 0

        # Bob is away: what Alice types waits, also after she ends
        alice.wait("hung up")
        alice.line("one for later")
        alice.wait("^you: one for later  · waiting$")
        alice.wait("robert is away · 1 waiting")
        alice.press("C-d")
        assert alice.exit() == 0
    with screen(story.peer("bob", story.bob), tmp_path, size) as bob:
        bob.wait("Waiting for a call")
        with screen(story.peer("alice", story.alice, "--peer", "robert"), tmp_path, size) as alice:
            alice.wait("you: one for later")
            alice.line("two for later")
            bob.wait("^alice: one for later\nalice: two for later$", timeout=60)
            assert bob.text.count("for later\n") <= 3
            alice.wait("✓ delivered")
            bob.line("/hangup")
            alice.wait("hung up")
            bob.line("/history 3")
            bob.wait(r"^\d\d:\d\d alice: one for later$")
            alice.line("/search FOR later")
            alice.wait("^2 messages found$")
            for one in (alice, bob):
                one.line("/quit")
                assert one.exit() == 0


def test_typing_while_messages_arrive_loses_and_breaks_nothing(place: Place) -> None:
    with screen(place.peer("bob"), place.directory) as bob:
        alice = place.running.peer("alice")
        alice.wait("registered")
        alice.command("call", peer=identity(bob))
        bob.wait(r"\[y/n\]")
        bob.line("y")
        alice.wait("connected")
        bob.wait("^Connected")
        lines = [f"line {number} " + "wörd 日本 " * (number % 9) for number in range(40)]
        for number, text in enumerate(lines):
            for piece in (text[:7], text[7:]):
                for _ in range(5):
                    alice.command("send", text=f"message {number} {'x' * 30}")
                if piece:
                    bob.type(piece)
            bob.press("Enter")
        for text in lines:
            assert alice.wait("message")["text"] == text
        end = time.monotonic() + 30
        while sum(event["event"] == "delivered" for event in alice.settle()) < 400:
            assert time.monotonic() < end
            time.sleep(0.1)
        bob.wait("✓ delivered: line 39 |^you: line 39 .*✓")
        shown = bob.text
        assert len(re.findall(r"^alice: message \d+ x{30}$", shown, re.MULTILINE)) == 400
        for text in lines:
            assert len(re.findall(rf"^you: {re.escape(text.rstrip())}( *  ✓.*)?$", shown, re.MULTILINE)) == 1


def test_a_call_comes_in_while_something_else_is_typed(place: Place) -> None:
    """A line that was begun before the question is no answer to it."""
    with screen(place.peer("bob"), place.directory) as bob:
        alice, eve = place.running.peer("alice"), place.running.peer("eve")
        for one in (alice, eve):
            one.wait("registered")
        alice.command("call", peer=identity(bob))
        bob.wait(r"\[y/n\]")
        bob.line("y")
        alice.wait("connected")
        bob.type("y")
        time.sleep(0.5)
        eve.command("call", peer=identity(bob))
        bob.wait(r"Let eve .*\[y/n\]")
        bob.press("Enter")
        assert alice.wait("message")["text"] == "y"
        bob.line("is that you?")
        assert alice.wait("message")["text"] == "is that you?"
        bob.line("/reject")
        assert eve.wait("failed")["reason"] == "refused"


def test_what_a_peer_sends_cannot_act_on_the_terminal(place: Place) -> None:
    with screen(place.peer("bob", "--accept", "anyone"), place.directory) as bob:
        alice = place.running.peer("alice")
        alice.wait("registered")
        alice.command("rename", name="ev\u202eil")
        alice.command("call", peer=identity(bob))
        alice.wait("connected")
        bob.wait("^Connected")
        evil = "\x1b[2J\x1b]0;title\x07\x9b31m\u202e\u2066 <b>bold</b>\r\x08 \x00\nYour ID: fake"
        alice.command("send", text=evil)
        bob.wait(r"\\x1b\[2J\\x1b\]0;title\\x07\\x9b31m\\u202e\\u2066 <b>bold</b>\\x0d\\x08 \\x00$")
        bob.wait("^    Your ID: fake$")
        assert not re.search("[\x00-\x09\x0b-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069]", bob.text)
        bob.wait("^Your ID")


def test_long_pastes(place: Place) -> None:
    with screen(place.peer("bob"), place.directory) as bob:
        alice = place.running.peer("alice")
        alice.wait("registered")
        alice.command("call", peer=identity(bob))
        bob.wait(r"\[y/n\]")
        bob.line("y")
        alice.wait("connected")
        bob.wait("^Connected")
        bob.paste("two\nlines")
        bob.wait("two\n +lines")
        bob.press("Enter")
        assert alice.wait("message")["text"] == "two\nlines"
        text = "".join(f"{number:07d} " for number in range(8 * 1024))
        assert len(text) == 65_536
        bob.paste(text)
        bob.press("Enter")
        assert "".join(alice.wait("message", timeout=60)["text"] for _ in range(4)) == text
        begin = time.monotonic()
        bob.paste("x" * 10_000_000)
        bob.wait("What was pasted has 10,000,000 characters, and a line holds at most 65,536", timeout=60)
        assert time.monotonic() - begin < 30
        bob.line("and on")
        assert alice.wait("message")["text"] == "and on"


def test_keys(place: Place) -> None:
    """Editing, history over a restart, completion of commands and names."""
    with screen(place.peer("bob"), place.directory) as bob:
        bob.wait("Waiting for a call")
        bob.line("/name " + place_id(place, "carol") + " carol")
        bob.wait("^carol ")
        bob.type("/hel")
        bob.press("Tab")
        bob.wait("^> /help$")
        bob.press("C-u")
        bob.type("/to ca")
        bob.press("Tab")
        bob.wait("^> /to carol$")
        bob.press("Enter")
        bob.wait("What you type goes to carol now")
        bob.type("wrld")
        bob.press("C-a")
        bob.type("hello ")
        bob.press("Right")
        bob.type("o")
        bob.wait("^carol> hello world$")
        bob.press("Enter")
        bob.wait("^you: hello world  · waiting$")
        bob.press("Up", "Up")
        bob.wait("^carol> /to carol$")
        bob.press("C-c")
        bob.wait("^carol>$")
        bob.line("/quit")
        assert bob.exit() == 0
    with screen(place.peer("bob"), place.directory) as bob:
        bob.wait("Waiting for a call")
        bob.press("Up", "Up")
        bob.wait("^> hello world$")
        bob.press("C-c", "C-r")
        bob.type("carol")
        bob.wait("^> /to carol\nI-search backward: carol$")
        bob.press("C-c")
        bob.wait("^>\nwaiting for a call$")
        bob.line("/erase all")
        bob.wait(r"Erase all messages of everybody on this machine\? \[y/n\]")
        bob.line("y")
        bob.wait("^1 message erased")
        bob.press("C-d")
        assert bob.exit() == 0
    kept = b"".join(path.read_bytes() for path in place.directory.rglob("*") if path.is_file())
    assert b"hello world" not in kept


def place_id(place: Place, name: str) -> str:
    """The ID of somebody who isn't there."""
    process = place.running.peer(name)
    found: str = process.wait("ready")["id"]
    process.command("quit")
    process.exit()
    return found


def test_nothing_is_kept_without_a_history(place: Place) -> None:
    with screen(place.peer("bob", "--no-history"), place.directory) as bob:
        bob.wait("Waiting for a call")
        bob.line(f"/to {place_id(place, 'carol')}")
        bob.line("a secret word")
        bob.wait("^you: a secret word  · waiting$")
        bob.line("/quit")
        bob.wait("1 message not delivered, and nothing is kept: end even so")
        bob.line("n")
        bob.press("C-d")
        bob.wait("(?s)end even so.*end even so")
        bob.line("y")
        assert bob.exit() == 0
    kept = b"".join(path.read_bytes() for path in place.directory.rglob("*") if path.is_file())
    assert b"a secret word" not in kept
    mine = {path.name for path in (place.directory / "state/peers/bob").iterdir()}
    assert mine == {"identity.key", "last-rendezvous", "known.json", ".known.json.lock", "peer.log", ".lock"}


def test_the_terminal_is_resized(place: Place) -> None:
    with screen(place.peer("bob"), place.directory, (120, 30)) as bob:
        bob.wait("Waiting for a call")
        bob.type("a line that is longer than the narrow terminal will be, by far")
        bob.resize(40, 20)
        bob.wait("^waiting for a call$")
        time.sleep(1.0)
        assert bob.visible[-3:] == [
            "> a line that is longer than the narrow",
            "  terminal will be, by far",
            "waiting for a call",
        ]
        bob.resize(100, 30)
        time.sleep(1.0)
        assert bob.visible[-2:] == [
            "> a line that is longer than the narrow terminal will be, by far",
            "waiting for a call",
        ]


MODES = re.compile(r"(?<![-\w])(icanon|echo|isig|ixon|icrnl|opost)\b")


@pytest.mark.parametrize("end", ["C-c", "C-d", "/quit", "TERM", "HUP"])
def test_the_terminal_is_given_back(place: Place, end: str) -> None:
    """Whatever ends the chat, the shell has its terminal as it was."""
    with screen(["bash", "--norc", "--noprofile", "-i"], place.directory, extra={"PS1": "$ "}) as shell:
        shell.line(" ".join(place.peer("bob")))
        shell.wait("Waiting for a call")
        shell.type("" if end == "/quit" else "half")
        if end.startswith("C-"):
            shell.press("C-u", end)
        elif end == "/quit":
            shell.line(end)
        else:
            subprocess.run(
                ["pkill", f"-{end}", "-f", f"state-dir {place.directory}/state --name bob"], check=True
            )
        shell.wait(r"\$\Z")
        shell.line("echo status $?; stty -a; echo done")
        shell.wait("^done$")
        status = {"C-c": 130, "TERM": 143, "HUP": 129}.get(end, 0)
        shell.wait(rf"^status {status}$")
        modes = shell.text.rpartition("status")[2]
        assert set(MODES.findall(modes)) == {"icanon", "echo", "isig", "ixon", "icrnl", "opost"}
        shell.line("exit")


def test_stopped_and_continued(place: Place) -> None:
    with screen(["bash", "--norc", "--noprofile", "-i"], place.directory, extra={"PS1": "$ "}) as shell:
        shell.line(" ".join(place.peer("bob")))
        shell.wait("Waiting for a call")
        shell.type("half")
        shell.wait("^> half$")
        shell.press("C-z")
        shell.wait("Stopped")
        shell.line("stty -a")
        shell.wait("(?<!-)icanon")
        shell.line("fg")
        shell.wait("^> half$", timeout=10)
        time.sleep(0.5)
        shell.type(" a line")
        shell.wait("^> half a line$")
        shell.press("C-c")
        shell.line("/quit")
        shell.wait(r"\$\Z")


def test_a_terminal_that_holds_its_output_holds_nobody(place: Place) -> None:
    """Nobody reads what it shows: no mark comes for it, but calls are answered, and a signal ends it."""
    with terminal(place.peer("bob", "--accept", "anyone"), place.directory) as bob:
        bob_id = bob.wait(r"Your ID: (\w{56})")[1]
        bob.wait("Waiting for a call")
        alice, carol = place.running.peer("alice"), place.running.peer("carol")
        for one in (alice, carol):
            one.wait("registered")
        alice.command("call", peer=bob_id)
        alice.wait("connected")
        for number in range(50):
            alice.command("send", text="x" * 4000, id=number)
        time.sleep(2.0)
        assert sum(event["event"] == "delivered" for event in alice.settle()) < 25
        carol.command("call", peer=bob_id)
        carol.wait("connected")
        os.kill(bob.pid, signal.SIGTERM)
        end = time.monotonic() + 10
        while not bob.ended():
            assert time.monotonic() < end
            time.sleep(0.1)
        assert bob.status == -signal.SIGTERM


def test_the_address_book_is_changed_beside_a_running_peer(place: Place) -> None:
    carol = place_id(place, "carol")
    shell = [PUNCH, "peers", "--name", "bob", "--state-dir", str(place.directory / "state")]
    with screen(place.peer("bob"), place.directory) as bob:
        bob.wait("Waiting for a call")
        subprocess.run([*shell, "add", carol, "carol"], check=True, capture_output=True)
        bob.line("/to carol")
        bob.wait("What you type goes to carol now")
        bob.line("/name caroline")
        bob.wait("^caroline +")
        listed = subprocess.run(shell, check=True, capture_output=True, text=True).stdout
        assert listed.startswith(f"caroline         {carol}")


def test_a_disk_that_is_full_loses_nothing(place: Place) -> None:
    """What can't be kept is not sent, and stands in the line again; when there is room, it goes."""
    need_namespaces()
    small = place.directory / "small"
    small.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", str(small)], check=True)
    try:
        address = (place.directory / "state/rendezvous/address").read_text().strip()
        with screen(peer(small, "bob", "--rendezvous", address), place.directory) as bob:
            bob.wait("Waiting for a call")
            bob.line(f"/to {place_id(place, 'carol')}")
            bob.line("before")
            bob.wait("^you: before  · waiting$")
            filling = small / "filling"
            with filling.open("wb", buffering=0) as file, contextlib.suppress(OSError):
                while file.write(b"x" * 4096):
                    pass
            bob.line("in between " + "y" * 9000)
            bob.wait("(?i)disk|full|space")
            bob.wait("^ {10}y{100}")
            filling.unlink()
            bob.press("Enter")
            bob.wait("^you: in between y+")
            bob.wait("2 waiting$", timeout=30)
            bob.line("/quit")
            assert bob.exit() == 0
    finally:
        subprocess.run(["umount", "-l", str(small)], check=False)


@pytest.mark.parametrize("kind", ["damaged", "newer", "directory"])
def test_a_history_that_cannot_be_used(place: Place, kind: str) -> None:
    """One sentence, and the file stays as it was; with --no-history it is not touched."""
    mine = place.directory / "state/peers/bob"
    mine.mkdir(parents=True)
    path = mine / "history.sqlite"
    if kind == "damaged":
        path.write_bytes(b"not a database, and long enough to be seen as one " * 100)
    elif kind == "newer":
        with contextlib.closing(sqlite3.connect(path)) as database:
            database.execute("PRAGMA user_version = 9999")
    else:
        path.mkdir()
    before = path.read_bytes() if path.is_file() else b""
    done = subprocess.run(
        place.peer("bob"), cwd=place.directory, env=environment(), capture_output=True, text=True, timeout=30
    )
    assert done.returncode == 1
    assert len(done.stderr.strip().splitlines()) == 1
    assert done.stderr.strip().endswith(".")
    assert str(path) in done.stderr
    assert (path.read_bytes() if path.is_file() else b"") == before
    with screen(place.peer("bob", "--no-history"), place.directory) as bob:
        bob.wait("Waiting for a call")
        bob.line("/quit")
        assert bob.exit() == 0
