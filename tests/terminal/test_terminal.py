"""The chat in real terminals, which tmux draws: read from the screen and typed as keys."""

from __future__ import annotations

import re
import signal
import subprocess
import time
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from tests.consoles import peer, terminal
from tests.local_peers import LocalPeers
from tests.needs import need_namespaces
from tests.netns import Namespaces
from tests.network.homes import Homes
from tests.processes import PUNCH, JSONProcess, programs
from tests.terminal.tmux import Screen, screen


def identity(shown: Screen) -> str:
    """The ID that it prints at the start; it is registered by then."""
    shown.wait("^Registered at ")
    return shown.wait(r"Your ID: (\w{56})")[1]


class TerminalPair(Homes):
    """Two users with a terminal each."""

    def peer(self, name: str, *options: str) -> list[str]:
        """The command line of the peer of this name, run on its host."""
        host = {"alice": self.home_of_alice, "bob": self.home_of_bob}[name]
        directory = self.directory / f"of-{name}"
        directory.mkdir(exist_ok=True)
        return [*host.prefix, *peer(directory, name, "--rendezvous", self.address, *options)]


@pytest.fixture
def pair(tmp_path: Path) -> Iterator[TerminalPair]:
    need_namespaces()
    with Namespaces() as namespaces, programs(tmp_path) as running:
        yield TerminalPair(namespaces, running)


def test_a_chat_from_name_to_return(pair: TerminalPair, tmp_path: Path) -> None:
    """
    Name, call, accept, chat both ways, the path changes, the rendezvous restarts, the peer is away and comes
    back, hang up; and no line that is being typed is lost or broken.
    """
    size = (100, 30)
    with screen(pair.peer("alice"), tmp_path, size) as alice:
        alice.wait("Waiting for a call")
        with screen(pair.peer("bob"), tmp_path, size) as bob:
            bob.wait("Waiting for a call")
            # A name that is one's own for somebody, before anything else is known of him
            alice.line(f"/name {identity(bob)} robert")
            alice.wait("^robert +")
            alice.line("/call robert")
            bob.wait(r"\[y/n\]")
            bob.wait(r"^a question waits: y or n.*\Z")
            bob.line("y")
            alice.wait("^(Connected to robert|The path to robert changed:) directly, through the NATs")
            bob.wait("^(Connected to alice|The path to alice changed:) directly, through the NATs")
            alice.line("hello bob, 日本 👩‍💻")
            bob.wait("^[0-9:]{5} alice: hello bob, 日本 👩‍💻$")
            alice.wait("^[0-9:]{5} you: hello bob, 日本 👩‍💻  ✓")
            bob.line("hello alice")
            alice.wait("^[0-9:]{5} robert: hello alice$")
            alice.press("Space", "BSpace")
            bob.wait("^[0-9:]{5} you: hello alice  ✓✓ read$")

            # The path changes under a line that is being typed
            bob.type("half a li")
            pair.block_direct_paths()
            alice.line("are you still there?")
            bob.wait("^[0-9:]{5} alice: are you still there\\?$", timeout=60)
            bob.wait("^The path to alice changed: through a relay")
            bob.wait(r"^alice> half a li\nalice through a relay.*\Z")
            bob.type("ne")
            bob.press("Enter")
            alice.wait("^[0-9:]{5} robert: half a line$")

            # The rendezvous, which is also the relay, restarts
            bob.type("still ty")
            pair.rendezvous.kill(signal.SIGKILL)
            pair.rendezvous.process.wait()
            pair.rendezvous = pair.serve()
            pair.rendezvous.wait("listening")
            alice.line("and now?")
            bob.wait("^[0-9:]{5} alice: and now\\?$", timeout=90)
            bob.wait(r"^alice> still ty\n.+\Z")
            bob.type("ping")
            bob.press("Enter")
            alice.wait("^[0-9:]{5} robert: still typing$", timeout=60)
            bob.line("/quit")
            assert bob.exit() == 0

        # Bob is away: what Alice types waits, also after she ends
        alice.wait("hung up")
        alice.line("one for later")
        alice.wait("^[0-9:]{5} you: one for later  · waiting$")
        alice.wait("robert is away · 1 waiting")
        alice.press("C-d")
        assert alice.exit() == 0
    with screen(pair.peer("bob"), tmp_path, size) as bob:
        bob.wait("Waiting for a call")
        with screen(pair.peer("alice", "--peer", "robert"), tmp_path, size) as alice:
            alice.wait("you: one for later")
            alice.line("two for later")
            bob.wait("^[0-9:]{5} alice: one for later\n(.+\n)*[0-9:]{5} alice: two for later$", timeout=60)
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


def caller_of(bob: Screen, local: LocalPeers) -> JSONProcess:
    """Another peer, which has called the one in the terminal and was let in."""
    alice = local.running.peer("alice")
    alice.wait("registered")
    alice.command("call", peer=identity(bob))
    bob.wait(r"\[y/n\]")
    bob.line("y")
    alice.wait("connected")
    bob.wait("^Connected")
    return alice


def test_typing_while_messages_arrive_loses_and_breaks_nothing(local: LocalPeers) -> None:
    with screen(local.peer("bob"), local.directory) as bob:
        alice = caller_of(bob, local)
        lines = [f"line {number} " + "wörd 日本 " * (number % 9) for number in range(40)]
        for number, text in enumerate(lines):
            for piece in (text[:7], text[7:]):
                for _ in range(5):
                    alice.command("send", text=f"message {number} {'x' * 30}")
                if piece:
                    bob.type(piece)
            bob.press("Enter")
            # Nobody types the next line before this one has gone: several that come at once are a paste.
            bob.wait(rf"^[0-9:]{{5}} you: line {number}\b")
        for text in lines:
            assert alice.wait("message")["text"] == text
        end = time.monotonic() + 30
        while sum(event["event"] == "delivered" for event in alice.settle()) < 400:
            assert time.monotonic() < end
            time.sleep(0.1)
        bob.wait("✓ delivered: line 39 |^[0-9:]{5} you: line 39 .*✓")
        bob.wait_for_all(r"^[0-9:]{5} alice: message \d+ x{30}$", 400)
        for text in lines:
            bob.wait_for_all(rf"^[0-9:]{{5}} you: {re.escape(text.rstrip())}( *  ✓.*)?$", 1)


def test_a_call_comes_in_while_something_else_is_typed(local: LocalPeers) -> None:
    """A line that was begun before the question is no answer to it."""
    with screen(local.peer("bob"), local.directory) as bob:
        alice, eve = local.running.peer("alice"), local.running.peer("eve")
        for one in (alice, eve):
            one.wait("registered")
        alice.command("call", peer=identity(bob))
        bob.wait(r"\[y/n\]")
        bob.line("y")
        alice.wait("connected")
        bob.type("y")
        bob.wait("^alice> y$")
        eve.command("call", peer=identity(bob))
        bob.wait(r"Let eve .*\[y/n\]")
        bob.press("Enter")
        assert alice.wait("message")["text"] == "y"
        bob.line("is that you?")
        assert alice.wait("message")["text"] == "is that you?"
        bob.line("/reject")
        assert eve.wait("failed")["reason"] == "refused"


def test_what_a_peer_sends_cannot_act_on_the_terminal(local: LocalPeers) -> None:
    with screen(local.peer("bob", "--accept", "anyone"), local.directory) as bob:
        alice = local.running.peer("alice")
        alice.wait("registered")
        alice.command("rename", name="ev\u202eil")
        alice.command("call", peer=identity(bob))
        alice.wait("connected")
        bob.wait("^Connected")
        evil = "\x1b[2J\x1b]0;title\x07\x9b31m\u202e\u2066 <b>bold</b>\r\x08 \x00\nYour ID: fake"
        alice.command("send", text=evil)
        bob.wait(r"\\x1b\[2J\\x1b\]0;title\\x07\\x9b31m\\u202e\\u2066 <b>bold</b>\\x0d\\x08 \\x00$")
        bob.wait("^    Your ID: fake$")
        # An address of the web is in one piece and as it came, so that the terminal makes a link of it.
        url = "https://example.com/a_(b)/~user/" + "segment-/" * 30 + "?q=a%20b&c=d;e#f"
        alice.command("send", text=f"see {url} there")
        bob.wait(re.escape(f"evil: see {url} there") + "$")
        assert not re.search("[\x00-\x09\x0b-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069]", bob.text)
        bob.wait("^Your ID")


def test_long_pastes(local: LocalPeers) -> None:
    with screen(local.peer("bob"), local.directory) as bob:
        alice = caller_of(bob, local)
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


def test_marks_of_text_whose_width_is_disputed(local: LocalPeers) -> None:
    """The terminal wraps what the tables call one row: the mark must not go up into the wrapped line."""
    with screen(local.peer("bob"), local.directory, size=(40, 30)) as bob:
        alice = local.running.peer("alice")
        alice.wait("registered")
        alice.command("call", peer=identity(bob))
        bob.wait(r"\[y/n\]")
        bob.line("y")
        alice.wait("connected")
        for text in (
            "❤\ufe0f" * 17,
            "☎\ufe0f" * 16 + "x",
            "1\ufe0f\u20e3" * 12,
            "\U0001f3f4\u200d☠\ufe0f" * 7,
        ):
            bob.line(text)
            assert alice.wait("message")["text"] == text
            alice.command("read", peer=identity(bob))
        bob.line("last")
        alice.wait("message")
        bob.wait("you: last  ✓ delivered")
        rows = "\n".join(bob.visible)
        assert rows.count("you: ") == 5, rows
        assert "Connected" in bob.text


def test_a_paste_of_several_lines_without_marks(local: LocalPeers) -> None:
    """It stands in the line as one message, and is sent when somebody says so."""
    with screen(local.peer("bob"), local.directory) as bob:
        bob.wait("Waiting for a call")
        bob.line(f"/to {local.stranger('carol')}")
        bob.wait("What you type goes to")
        bob.paste("first line\nsecond line\nthird\n", marked=False)
        bob.wait("Several lines came at once")
        bob.wait("> first line$")
        bob.wait("^ +third$")
        assert "you:" not in bob.text
        time.sleep(0.5)
        bob.press("Enter")
        bob.wait("you: first line\n    second line\n    third")


def test_a_bell_while_nobody_looks(local: LocalPeers) -> None:
    """A terminal that reports its focus is asked to, and rings when it has lost it."""
    with terminal(local.peer("bob", "--accept", "anyone"), local.directory) as bob:
        bob.wait("Waiting for a call")
        bob.wait_for_editor()
        alice = local.running.peer("alice")
        alice.wait("registered")
        alice.command("call", peer=bob.wait(r"Your ID: (\w{56})")[1])
        alice.wait("connected")
        alice.command("send", text="one")
        bob.wait("[0-9:]{5} alice: one")
        assert "\x1b[?1004h" in bob.output
        assert "\a" not in bob.output
        bob.type("\x1b[O")
        bob.pump(1.0)
        alice.command("send", text="two")
        bob.wait("[0-9:]{5} alice: two")
        end = time.monotonic() + 10
        while "\a" not in bob.output:
            assert time.monotonic() < end
            bob.pump(0.2)
        bob.type("\x1b[I/quit\r")
        assert bob.exit() == 0
        assert "\x1b[?1004l" in bob.output


def test_other_notices_while_nobody_looks(local: LocalPeers) -> None:
    """What `--notify` says reaches the terminal: a notice of one of two kinds, or nothing."""
    notices = {
        "osc9": "\x1b]9;Message from alice\x1b\\",
        "osc777": "\x1b]777;notify;Punch;Message from alice\x1b\\",
        "off": "",
    }
    alice = local.running.peer("alice")
    alice.wait("registered")
    with ExitStack() as stack:
        shown = {
            kind: stack.enter_context(
                terminal(local.peer(f"with-{kind}", "--accept", "anyone", "--notify", kind), local.directory)
            )
            for kind in notices
        }
        for kind, notice in notices.items():
            one = shown[kind]
            one.wait("Waiting for a call")
            one.wait_for_editor()
            one.type("\x1b[O")
            one.pump(0.5)
            identity_of_one = one.wait(r"Your ID: (\w{56})")[1]
            alice.command("call", peer=identity_of_one)
            alice.wait("connected")
            alice.command("send", peer=identity_of_one, text="one")
            one.wait("[0-9:]{5} alice: one")
            one.pump(0.5)
            assert notice in one.output
            assert "\a" not in one.output
            assert ("\x1b]9;" in one.output) == (kind == "osc9")
            assert ("\x1b]777;" in one.output) == (kind == "osc777")
            one.type("\x1b[I/quit\r")
            assert one.exit() == 0


def test_keys(local: LocalPeers) -> None:
    """Editing, history over a restart, completion of commands and names."""
    with screen(local.peer("bob"), local.directory) as bob:
        bob.wait("Waiting for a call")
        bob.line("/name " + local.stranger("carol") + " carol")
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
        bob.wait("^[0-9:]{5} you: hello world  · waiting$")
        bob.press("Up", "Up")
        bob.wait("^carol> /to carol$")
        bob.press("C-c")
        bob.wait("^carol>$")
        bob.line("/quit")
        assert bob.exit() == 0
    with screen(local.peer("bob"), local.directory) as bob:
        bob.wait("Waiting for a call")
        bob.press("Up", "Up")
        bob.wait("^> hello world$")
        bob.press("C-c")
        bob.wait("^>\nwaiting for a call$")
        bob.press("C-r")
        bob.wait("^I-search backward:")
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
    kept = b"".join(path.read_bytes() for path in local.directory.rglob("*") if path.is_file())
    assert b"hello world" not in kept


def test_nothing_is_kept_without_a_history(local: LocalPeers) -> None:
    with screen(local.peer("bob", "--no-history"), local.directory) as bob:
        bob.wait("Waiting for a call")
        bob.line(f"/to {local.stranger('carol')}")
        bob.line("a secret word")
        bob.wait("^[0-9:]{5} you: a secret word  · waiting$")
        bob.line("/quit")
        bob.wait("1 message not delivered, and nothing is kept: end even so")
        bob.line("n")
        bob.press("C-d")
        bob.wait("(?s)end even so.*end even so")
        bob.line("y")
        assert bob.exit() == 0
    kept = b"".join(path.read_bytes() for path in local.directory.rglob("*") if path.is_file())
    assert b"a secret word" not in kept
    mine = {path.name for path in (local.directory / "state/peers/bob").iterdir()}
    assert mine == {
        "identity.key",
        "last-rendezvous",
        "known.json",
        ".known.json.lock",
        "offers.json",
        "peer.log",
        ".lock",
    }


def test_the_terminal_is_resized(local: LocalPeers) -> None:
    with screen(local.peer("bob"), local.directory, (120, 30)) as bob:
        bob.wait("Waiting for a call")
        bob.type("a line that is longer than the narrow terminal will be, by far")
        bob.wait("^> a line .* by far$")
        bob.resize(40, 20)
        narrow = (
            "> a line that is longer than the narrow",
            "  terminal will be, by far",
            "waiting for a call",
        )
        bob.wait_for_rows(*narrow)
        time.sleep(1.0)
        bob.wait_for_rows(*narrow)
        bob.resize(100, 30)
        wide = ("> a line that is longer than the narrow terminal will be, by far", "waiting for a call")
        bob.wait_for_rows(*wide)
        time.sleep(1.0)
        bob.wait_for_rows(*wide)
        bob.wait_for_all("> a line", 1)


def test_the_address_book_is_changed_beside_a_running_peer(local: LocalPeers) -> None:
    carol = local.stranger("carol")
    shell = [PUNCH, "peers", "--name", "bob", "--state-dir", str(local.directory / "state")]
    with screen(local.peer("bob"), local.directory) as bob:
        bob.wait("Waiting for a call")
        subprocess.run([*shell, "add", carol, "carol"], check=True, capture_output=True)
        bob.line("/to carol")
        bob.wait("What you type goes to carol now")
        bob.line("/name caroline")
        bob.wait("^caroline +")
        listed = subprocess.run(shell, check=True, capture_output=True, text=True).stdout
        assert listed.startswith(f"caroline         {carol}")
