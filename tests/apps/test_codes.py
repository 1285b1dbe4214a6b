"""Codes between real processes: two users of one machine, who have nothing but the rendezvous' address."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from pathlib import Path
from random import Random

import pytest

from punch.state import StateDirectory
from tests.consoles import run, terminal
from tests.local_peers import LocalPeers
from tests.processes import PUNCH, JSONProcess, programs


class Users:
    """Alice makes codes and bob uses them; each has a state directory."""

    def __init__(self, service: LocalPeers) -> None:
        self.service = service
        self.directory = service.directory

    def words(self, name: str, command: str, *words: str) -> list[str]:
        options = ["--state-dir", str(self.directory / name), "--name", name]
        if command != "peers":
            options += ["--rendezvous", self.service.address]
        return [PUNCH, command, *options, *words]

    def start(self, name: str, command: str, *words: str) -> JSONProcess:
        return self.service.running.start(self.words(name, command, "--json", *words))

    def run(self, name: str, command: str, *words: str) -> tuple[int, str, str]:
        """Run a command to its end: its status, and what it printed on stdout and stderr."""
        done = run(self.words(name, command, *words), self.directory)
        assert "Traceback" not in done.stderr.decode()
        return done.returncode, done.stdout.decode(), done.stderr.decode()


@pytest.fixture(scope="module")
def users(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Users]:
    with programs(tmp_path_factory.mktemp("codes")) as running:
        yield Users(LocalPeers(running))


def test_two_peers_meet(users: Users) -> None:
    """Each is in the other's address book afterwards; the code works once."""
    inviting = users.start("alice", "invite", "--as", "robert")
    code = inviting.wait("code", 60.0)
    assert code["expires"] == 600.0
    status, out, err = users.run("bob", "join", *code["code"].upper().split("-"))
    assert (status, out) == (0, ""), err
    assert "You and alice know each other now." in err
    met = inviting.wait("contact")
    assert (met["petname"], met["name"]) == ("robert", "bob")
    assert inviting.exit() == 0
    _, book, _ = users.run("alice", "peers")
    assert book.split()[:2] == ["robert", met["peer"]]
    status, _, err = users.run("bob", "join", code["code"])
    assert status == 4
    assert "was used already" in err


def test_a_wrong_code(users: Users) -> None:
    """Both sides are told in a sentence; what can't be a code does not reach the rendezvous."""
    inviting = users.start("alice", "invite")
    code = inviting.wait("code", 60.0)["code"]
    number = code.partition("-")[0]
    status, out, err = users.run("bob", "join", f"{number}-coyot-tulip-yogurt")
    assert (status, out) == (1, "")
    assert err == "punch join: 'coyot' is not a word of any code. Did you mean coyote?\n"
    status, _, err = users.run("bob", "join", f"{number}-coyote-tulip-yogurt")
    assert status == 5
    assert "This is not the code of the other side" in err
    failed = inviting.wait("failed")
    assert failed["reason"] == "wrong-code"
    assert inviting.exit() == 5


def test_a_code_for_another_rendezvous(users: Users, tmp_path: Path) -> None:
    """It says at which one it looked; the code is still good at its own."""
    with programs(tmp_path) as running:
        address = LocalPeers(running).address
        inviting = users.start("alice", "invite", "--as", "other-bob")
        code = inviting.wait("code", 60.0)["code"]
        status, out, err = users.run("bob", "join", "--rendezvous", address, code)
        assert (status, out) == (4, ""), err
        assert address.partition("//")[2].partition("/")[0] in err
        assert "--rendezvous" in err
    status, _, err = users.run("bob", "join", "--as", "other-alice", code)
    assert status == 0, err
    assert inviting.wait("contact")["petname"] == "other-bob"


def test_an_end_by_the_user_and_by_a_full_disk(users: Users) -> None:
    """Both get one sentence."""
    with terminal(users.words("alice", "invite"), users.directory) as screen:
        screen.wait("punch join [0-9]{5}-", 60.0)
        screen.type("\x03")
        screen.wait(re.escape("Stopped. The code can't be used any more."))
    done = run(users.words("alice", "invite"), users.directory, redirect=">/dev/full")
    assert done.returncode == 1
    said = done.stderr.decode()
    assert said.endswith("punch invite: The output can't be written: No space left on device.\n")
    assert "Traceback" not in said


def test_the_question_for_a_code(users: Users) -> None:
    """The Tab key completes a word; what is no code is said as ever, and there is no question for a pipe."""
    with terminal(users.words("bob", "join"), users.directory) as screen:
        screen.wait("Code:", 60.0)
        screen.type("48213-may\t")
        screen.wait("mayonnaise", 20.0)
        screen.type("-x\r")
        screen.wait("'x' is not a word of any code", 20.0)
    status, _, err = users.run("bob", "join")
    assert status == 2
    assert "needs the code" in err


def test_a_terminal_that_has_no_blocks(users: Users) -> None:
    """It shows no QR code instead of escapes."""
    extra = {"PYTHONIOENCODING": "iso-8859-1"}
    with terminal(users.words("alice", "invite"), users.directory, extra=extra) as screen:
        screen.wait("punch join [0-9]{5}-", 60.0)
        screen.pump(0.5)
        assert "\\u" not in screen.text


def test_a_file_for_somebody_unknown(users: Users) -> None:
    """It arrives by the code alone; neither side keeps an identity or a contact."""
    content = Random(1).randbytes(3_000_000)
    source, folder = users.directory / "photo.jpg", users.directory / "received"
    source.write_bytes(content)
    folder.mkdir()
    sending = users.start("carol", "send", str(source))
    code = sending.wait("code", 60.0)["code"]
    status, _, err = users.run("dave", "receive", "--yes", "--output", str(folder), code)
    assert status == 0, err
    assert "Received from carol: photo.jpg" in err
    assert sending.wait("transfer-done")["position"] == len(content)
    assert sending.exit() == 0
    assert (folder / "photo.jpg").read_bytes() == content
    assert not (users.directory / "carol" / "peers" / "carol" / "identity.key").exists()
    assert not (users.directory / "carol" / "peers" / "carol" / "known.json").exists()


def test_a_file_that_is_not_wanted(users: Users) -> None:
    """The code is used up, so both sides end at once: when the user says no, and when nobody can be asked."""
    (users.directory / "unwanted").write_bytes(b"content")
    folder = users.directory / "empty"
    folder.mkdir()

    def send() -> tuple[JSONProcess, str]:
        sending = users.start("carol", "send", str(users.directory / "unwanted"))
        return sending, sending.wait("code", 60.0)["code"]

    sending, code = send()
    receive = users.words("dave", "receive", "--output", str(folder), code)
    with terminal(receive, users.directory) as screen:
        screen.wait(r"\[y/n\]", 60.0)
        screen.type("n\n")
        assert screen.exit(60.0) == 5
        assert "a code works once" in screen.text
    assert sending.exit() == 5
    sending, code = send()
    status, _, err = users.run("dave", "receive", "--output", str(folder), code)
    assert status == 5
    assert "use --yes." in err
    assert sending.exit() == 5
    assert list(folder.iterdir()) == []


def test_the_capture_in_the_readme(users: Users) -> None:
    """What the README shows of a file by a code is what both sides show today, line after line."""
    text = (Path(__file__).parents[2] / "README.md").read_text("utf-8")
    section = text.partition("## Send a file to a friend")[2].partition("\n## ")[0]
    blocks = re.findall(r"^```console\n(.*?)^```$", section, re.MULTILINE | re.DOTALL)
    shown = [[line for line in block.splitlines() if not line.startswith("$ ")] for block in blocks]
    folder = users.directory / "readme"
    folder.mkdir()
    (users.directory / "holiday.zip").touch()
    os.truncate(users.directory / "holiday.zip", 24_000_000)
    # Without a QR code, for which `codes` has no library
    extra = {"PYTHONIOENCODING": "iso-8859-1"}
    send, receive = users.words("alice", "send", "holiday.zip"), users.words("bob", "receive")
    with terminal(send, users.directory, extra=extra) as alice:
        code = alice.wait("[0-9]{5}-[a-z]+-[a-z]+-[a-z]+", 60.0)[0]
        with terminal([*receive, code], folder, extra=extra) as bob:
            bob.wait(r"\[y/n\]", 60.0)
            bob.type("y\n")
            bob.wait("Received from", 60.0)
            alice.wait("Sent to", 60.0)
            screens = [alice.text, bob.text]
    for lines, screen in zip(shown, screens, strict=True):
        position = 0
        for line in lines:
            line = line.replace("12508-augmented-wishbone-donut", code).replace("/home/bob", str(folder))
            found = re.compile(re.escape(line).replace(r"1\ s\.", r"[0-9]+\ (s|ms)\.")).search(
                screen, position
            )
            assert found is not None, (line, screen)
            position = found.end()
    assert (folder / "holiday.zip").stat().st_size == 24_000_000


def test_where_only_members_may_register(tmp_path: Path) -> None:
    """Their codes and files work, by vouchers of theirs; somebody else is told whom to ask."""
    listed = tmp_path / "members"
    listed.write_text(
        "".join(
            f"{StateDirectory(tmp_path / name).peer(name).identity().peer_id}\n" for name in ("alice", "bob")
        )
    )
    options = ("--admit", "listed", "--members", str(listed), "--contact", "Ann (ann@example.org)")
    with programs(tmp_path) as running:
        users = Users(LocalPeers(running, *options))
        inviting = users.start("alice", "invite")
        status, _, err = users.run("bob", "join", inviting.wait("code", 60.0)["code"])
        assert status == 0, err
        assert inviting.wait("contact")["name"] == "bob"
        assert inviting.exit() == 0
        source, folder = tmp_path / "photo.jpg", tmp_path / "received"
        source.write_bytes(b"photo" * 10_000)
        folder.mkdir()
        sending = users.start("alice", "send", str(source))
        code = sending.wait("code", 60.0)["code"]
        status, _, err = users.run("bob", "receive", "--yes", "--output", str(folder), code)
        assert status == 0, err
        assert sending.exit() == 0
        assert (folder / "photo.jpg").read_bytes() == source.read_bytes()
        status, _, err = users.run("carol", "invite")
        assert status != 0
        assert "send Ann (ann@example.org) your ID" in err
