"""Files that are sent and received by real processes."""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from random import Random
from typing import Any

import pytest

from punch.apps.files.codec import encode_data, encode_entries
from punch.apps.files.messages import (
    BLOCK,
    PIECE,
    Entry,
    EntryKind,
    FailureCode,
    FilesOffer,
    Item,
    TransferFailed,
)
from punch.apps.files.partial_folder import FREE
from punch.apps.files.target import Target
from tests.consoles import peer, terminal
from tests.local_peers import LocalPeers
from tests.needs import missing
from tests.processes import PUNCH, JSONProcess, Programs, programs

MB = 1_000_000


class Peers:
    """Alice sends and bob receives; they know each other."""

    def __init__(self, service: LocalPeers, running: Programs) -> None:
        self.running = running
        self.state = service.directory / "state"
        self.address = service.address
        self.directory = running.directory
        self.source = self.directory / "from"
        self.folder = self.directory / "to"
        self.source.mkdir()
        self.folder.mkdir()
        self.alice, self.bob = service.id_of("alice"), service.id_of("bob")

    def know(self) -> None:
        """Put each into the other's address book."""
        self.punch("peers", "add", self.bob, "bob", name="alice")
        self.punch("peers", "add", self.alice, "alice", name="bob")

    def chat(self, name: str) -> JSONProcess:
        """A chat that is registered."""
        chat = self.running.peer(name, "--accept", "anyone", "--state-dir", str(self.state))
        chat.wait("registered", 60.0)
        return chat

    def words(self, command: str, *words: str, name: str) -> list[str]:
        return [PUNCH, command, "--state-dir", str(self.state), "--name", name, *words]

    def punch(self, command: str, *words: str, name: str, status: int = 0) -> str:
        """Run a command to its end; what it says on stderr."""
        done = subprocess.run(
            self.words(command, *words, name=name),
            cwd=self.source,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=120,
            check=False,
        )
        assert done.returncode == status, (done.returncode, done.stdout, done.stderr)
        assert "Traceback" not in done.stderr
        return done.stderr

    def receive(self, *options: str) -> JSONProcess:
        receiver = self.running.start(
            self.words("receive", "--json", "--output", str(self.folder), *options, name="bob")
        )
        receiver.wait("ready", 60.0)
        return receiver

    def send(self, *words: str) -> JSONProcess:
        *paths, who = words
        found = [str(self.source / path) for path in paths]
        return self.running.start(self.words("send", "--json", *found, who, name="alice"))

    def file(self, name: str, size: int) -> bytes:
        content = Random(name).randbytes(size)
        (self.source / name).write_bytes(content)
        return content


@pytest.fixture(scope="module")
def service(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LocalPeers]:
    with programs(tmp_path_factory.mktemp("service")) as running:
        found = LocalPeers(running)
        with programs(tmp_path_factory.mktemp("first")) as first:
            Peers(found, first).know()
        yield found


@pytest.fixture
def peers(service: LocalPeers, tmp_path: Path) -> Iterator[Peers]:
    with programs(tmp_path) as running:
        yield Peers(service, running)


def test_a_file_and_a_folder(peers: Peers) -> None:
    """They arrive under their names, beside what is there, and both sides say so."""
    content = peers.file("photo.jpg", 3 * MB)
    (peers.source / "notes").mkdir()
    for number in range(200):
        (peers.source / "notes" / str(number)).write_text(str(number))
    (peers.folder / "photo.jpg").write_text("another one")
    receiver = peers.receive("--yes", "--once", "--from", "alice")
    said = peers.punch("send", "photo.jpg", "notes", "bob", name="alice")
    assert "Sent to bob: 3.0 MB" in said
    offered = receiver.wait("transfer-offered")
    assert offered["peer"] == peers.alice
    assert offered["items"] == [
        {"name": "photo.jpg", "kind": "file", "size": 3 * MB, "files": 1},
        {"name": "notes", "kind": "folder", "size": 490, "files": 200},
    ]
    assert receiver.wait("transfer-done")["path"] == str(peers.folder / "photo (1).jpg")
    assert receiver.exit() == 0
    assert (peers.folder / "photo (1).jpg").read_bytes() == content
    assert (peers.folder / "photo.jpg").read_text() == "another one"
    assert (peers.folder / "notes" / "199").read_text() == "199"
    assert sorted(path.name for path in peers.folder.iterdir()) == ["notes", "photo (1).jpg", "photo.jpg"]


def test_the_receiver_is_killed_twice(peers: Peers) -> None:
    """The sender goes on by itself, and what arrived is not sent again."""
    content = peers.file("big", 60 * MB)
    receiver = peers.receive("--yes")
    sender = peers.send("big", "bob")
    reached = 0
    for _ in range(2):
        enough = reached + 8 * MB
        reached = sender.wait("transfer-progress", 60.0, lambda event: event["position"] > enough)["position"]  # noqa: B023
        receiver.kill()
        receiver = peers.receive("--yes")
        sender.wait("transfer-waiting", 60.0)
        assert not (peers.folder / "big").exists()
    done = sender.wait("transfer-done", 120.0)
    assert sender.exit() == 0
    assert done["position"] == 60 * MB
    assert done["sent"] < 60 * MB
    assert (peers.folder / "big").read_bytes() == content
    assert [path.name for path in peers.folder.iterdir()] == ["big"]


def test_standard_input(peers: Peers) -> None:
    """A pipe is sent as it comes, under a name of its own, here into the folder to which a link leads."""
    link = peers.directory / "link"
    link.symlink_to(peers.folder)
    receiver = peers.receive("--yes", "--once", "--output", str(link))
    done = subprocess.run(
        peers.words("send", "--as", "note.txt", "-", "bob", name="alice"),
        input=b"some text",
        capture_output=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert receiver.wait("transfer-done")["path"] == str(peers.folder / "note.txt")
    assert receiver.exit() == 0
    assert link.is_symlink()
    assert (peers.folder / "note.txt").read_bytes() == b"some text"


def test_a_text(peers: Peers) -> None:
    """It is shown, without what would act on a terminal; what can't be one has a sentence."""
    text = "Two lines,\nthe second \x1b[2J with an escape \u202e."
    receiving = peers.words("receive", "--yes", "--once", "--output", str(peers.folder), name="bob")
    with subprocess.Popen(receiving, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as receiver:
        assert receiver.stderr is not None
        receiver.stderr.readline()
        said = peers.punch("send", "--text", text, "bob", name="alice")
        out, err = receiver.communicate(timeout=60)
    assert (out, receiver.returncode) == (
        "Two lines,\nthe second \\x1b[2J with an escape \\u202e.\n",
        0,
    )
    assert "Text from alice:" in err
    assert "Sent to bob: the text." in said
    assert list(peers.folder.iterdir()) == []
    for words, status, sentence in (
        (["--text", os.fsdecode(b"\xff"), "bob"], 1, "no UTF-8"),
        (["--text", "x", "a", "bob"], 2, "sent alone"),
    ):
        assert sentence in peers.punch("send", *words, name="alice", status=status)


def test_between_chats(peers: Peers, service: LocalPeers) -> None:
    """Typed in a terminal, shown and answered in another one: the file goes to the folder for downloads."""
    content = peers.file("photo.jpg", MB)
    waits = ["--accept", "anyone", "--downloads", str(peers.folder)]
    with terminal(peer(service.directory, "bob", *waits), peers.folder) as bob:
        bob.wait("Registered", 60.0)
        with terminal(peer(service.directory, "alice", "--peer", "bob"), peers.source) as alice:
            alice.wait("Connected", 60.0)
            alice.type("/send photo.jpg\n")
            bob.wait(r"alice wants to send you photo\.jpg[\s\S]*Receive photo\.jpg from alice\? \[y/n\]", 60)
            bob.type("y\n")
            alice.wait(r"photo\.jpg \(1\.0 MB\) to bob: complete", 60.0)
            bob.wait(r"photo\.jpg \(1\.0 MB\) from alice: complete", 60.0)
            alice.type("/send nothing.jpg\n")
            alice.wait("neither a name in the address book", 20.0)
    assert (peers.folder / "photo.jpg").read_bytes() == content


def test_a_pipe_that_brings_nothing_for_now(peers: Peers) -> None:
    """What it has brought is sent at once, and who waits for more ends as soon as the transfer does."""
    receiver = peers.receive("--yes")

    def send() -> JSONProcess:
        sender = peers.running.start(peers.words("send", "--json", "-", "bob", name="alice"))
        assert sender.process.stdin is not None
        sender.process.stdin.write(b"a line\n")
        sender.process.stdin.flush()
        receiver.wait("transfer-progress", 60.0, lambda event: event["position"] == 7)
        return sender

    sender = send()
    sender.kill(signal.SIGINT)
    assert sender.exit(10.0) == -signal.SIGINT
    receiver.wait("transfer-failed")
    sender = send()
    receiver.kill(signal.SIGTERM)
    assert sender.exit(10.0) == 6
    assert "can't be read again" in sender.stderr


def test_no_standard_input(peers: Peers) -> None:
    """Its number belongs to another file then, which must not be sent."""
    command = " ".join(peers.words("send", "-", "bob", name="alice")) + " <&-"
    done = subprocess.run(["sh", "-c", command], capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 1, done.stderr
    assert "no standard input" in done.stderr


def test_who_is_asked(peers: Peers) -> None:
    """Without a terminal nobody can be asked: only peers with a grant may send."""
    content = peers.file("a", 10)
    peers.receive()
    assert "bob does not want it." in peers.punch("send", "a", "bob", name="alice", status=5)
    assert list(peers.folder.iterdir()) == []
    peers.punch("peers", "grant", "alice", "files/1", name="bob")
    try:
        peers.punch("send", "a", "bob", name="alice")
    finally:
        peers.punch("peers", "revoke", "alice", "files/1", name="bob")
    assert (peers.folder / "a").read_bytes() == content


def test_a_terminal(peers: Peers) -> None:
    """The user is asked, and may say no or yes."""
    content = peers.file("a", 10)
    words = peers.words("receive", "--output", str(peers.folder), name="bob")
    with terminal(words, peers.directory) as screen:
        screen.wait(re.escape("Ready to receive"), 60.0)
        refused = peers.send("a", "bob")
        screen.wait(re.escape("alice wants to send you a (10 bytes)."), 60.0)
        screen.wait(re.escape("Accept? [y/n]"), 60.0)
        screen.type("what\nn\n")
        assert refused.exit() == 5
        accepted = peers.send("a", "bob")
        screen.wait(r"(?s)bytes\).*bytes\)\..*Accept\? \[y/n\] $", 60.0)
        screen.type("y\n")
        assert accepted.exit() == 0
        screen.wait(re.escape("Received from alice: a (10 bytes)"), 60.0)
        screen.type("\x03")
        screen.wait(re.escape("Stopped receiving."), 60.0)
    assert (peers.folder / "a").read_bytes() == content


def test_two_offers_at_a_terminal(peers: Peers) -> None:
    """
    The next is shown when the one before is answered or withdrawn, and an answer is for what was read last.
    """
    content = peers.file("a", 10)
    peers.file("b", 20)
    peers.file("c", 30)
    peers.chat("alice")
    words = peers.words("receive", "--output", str(peers.folder), name="bob")
    with terminal(words, peers.directory) as screen:
        screen.wait(re.escape("Ready to receive"), 60.0)
        withdrawn = peers.send("c", "bob")
        screen.wait(re.escape("alice wants to send you c (30 bytes).\nAccept? [y/n]"), 60.0)
        first = peers.send("a", "bob")
        first.wait("transfer-offered", 60.0)
        screen.type("y")
        withdrawn.kill()
        screen.wait(re.escape("alice wants to send you a (10 bytes).\nAccept? [y/n]"), 60.0)
        screen.type("\n")
        screen.wait(re.escape("Type y or n"), 60.0)
        second = peers.send("b", "bob")
        second.wait("transfer-offered", 60.0)
        for _ in range(5):
            screen.pump(0.2)
        assert "b (20 bytes)" not in screen.text
        screen.type("y\n")
        assert first.exit() == 0
        screen.wait(r"(?s)" + re.escape("alice wants to send you b (20 bytes).\nAccept? [y/n]"), 60.0)
        # The end of the input is no.
        screen.type("\x04")
        assert second.exit() == 5
    assert (peers.folder / "a").read_bytes() == content
    assert not (peers.folder / "b").exists()


def test_a_rendezvous_that_is_away(peers: Peers) -> None:
    """Who waits for files is told that none can come."""
    address = re.sub(r":\d+/", ":1/", peers.address)
    receiver = peers.running.start(
        peers.words("receive", "--json", "--yes", "--rendezvous", address, name="carol")
    )
    said = receiver.wait("unregistered", 60.0)
    assert (said["rendezvous"], said["reason"]) == (address, "rendezvous-unreachable")
    assert "Nothing listens" in said["text"]


def test_another_process_takes_the_place_of_the_receiver(peers: Peers) -> None:
    """It is not registered again, so it ends and says why."""
    receiver = peers.receive("--yes")
    there = peers.state / "peers" / "bob" / "identity.key"
    copied = peers.directory / "copied" / "peers" / "bob" / "identity.key"
    copied.parent.mkdir(parents=True, mode=0o700)
    shutil.copy(there, copied)
    away = ["--state-dir", str(peers.directory / "copied"), "--rendezvous", peers.address, "--json"]
    peers.running.start([PUNCH, "receive", "--name", "bob", *away]).wait("ready", 60.0)
    failed = receiver.wait("failed", 60.0)
    assert failed["reason"] == "replaced"
    assert "identity" in failed["text"]
    assert receiver.exit() == 1


def test_what_goes_wrong(peers: Peers) -> None:
    """Each has a sentence and a status of its own."""
    peers.file("a", 10)
    (peers.source / "dangling").symlink_to("missing")
    for words, status, sentence in (
        (["a", "bob"], 4, "is not registered"),
        (["a", "carol"], 1, "neither a name in the address book nor a peer ID"),
        (["missing", "bob"], 1, "No such file"),
        ([], 2, "name what to send"),
        (["a", "a"], 1, "punch send --code"),
        (["--as", "../x", "-", "bob"], 1, "--as takes the name"),
    ):
        assert sentence in peers.punch("send", *words, name="alice", status=status), words
    for words, status, sentence in (
        (["--output", "missing"], 1, "a folder that is there"),
        (["--output", "a"], 1, "a folder that is there"),
        (["--output", "dangling"], 1, "a folder that is there"),
        (["--from", "carol"], 1, "neither a name"),
        (["--output"], 2, "needs a value"),
    ):
        assert sentence in peers.punch("receive", *words, name="bob", status=status), words
    assert not (peers.source / "missing").exists()
    peers.chat("bob")
    assert "does not receive files now" in peers.punch("send", "a", "bob", name="alice", status=4)


def test_beside_a_chat(peers: Peers) -> None:
    """The commands use the node of a chat that runs, and the chat goes on."""
    content = peers.file("a", MB)
    chats = [peers.chat(name) for name in ("alice", "bob")]
    receiver = peers.receive("--yes", "--once")
    peers.punch("send", "a", "bob", name="alice")
    assert receiver.exit() == 0
    assert (peers.folder / "a").read_bytes() == content
    chats[0].command("send", peer=peers.bob, text="still here")
    chats[1].wait("message", where=lambda event: event["text"] == "still here")
    for chat in chats:
        assert chat.process.poll() is None


def test_status_of_the_node(peers: Peers) -> None:
    """It shows what attached commands send and receive, until they end, in order or not."""
    peers.file("big", 3 * MB)
    for name in ("alice", "bob"):
        peers.chat(name)

    def reported(name: str) -> list[dict[str, Any]]:
        done = subprocess.run(
            peers.words("status", "--json", name=name), capture_output=True, timeout=60, check=True
        )
        found: list[dict[str, Any]] = json.loads(done.stdout)["program_transfers"]
        return found

    def wait(name: str, count: int) -> list[dict[str, Any]]:
        end = time.monotonic() + 60.0
        while len(found := reported(name)) != count:
            assert time.monotonic() < end, found
            screen.pump(0.2)
        return found

    with terminal(peers.words("receive", name="bob"), peers.directory) as screen:
        screen.wait(re.escape("Ready to receive"), 60.0)
        # Nobody answers: the offer waits
        sender = peers.send("big", "bob")
        for name, program, outgoing in (("alice", "punch send", True), ("bob", "punch receive", False)):
            (shown,) = wait(name, 1)
            assert (shown["program"], shown["outgoing"], shown["stage"]) == (program, outgoing, "offered")
            assert (shown["name"], shown["items"], shown["size"]) == ("big", 1, 3 * MB)
        sender.kill()
        for name in ("alice", "bob"):
            wait(name, 0)


def test_the_node_is_killed(peers: Peers) -> None:
    """An attached command says so, with a status of its own."""
    peers.file("big", 60 * MB)
    chat = peers.chat("alice")
    peers.receive("--yes")
    sender = peers.send("big", "bob")
    sender.wait("transfer-progress", 60.0, lambda event: event["position"] > 0)
    chat.kill()
    assert sender.exit() == 9
    assert "has ended" in sender.stderr


@pytest.fixture
def small_disk(peers: Peers) -> Iterator[Path]:
    if os.geteuid() != 0:
        missing("mounting a small disk needs root")
    folder = str(peers.folder)
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=40m", "tmpfs", folder], check=True)
    try:
        yield peers.folder
    finally:
        subprocess.run(["umount", "-l", folder], check=True)


def test_a_full_disk(peers: Peers, small_disk: Path) -> None:
    """What does not fit is refused before it is sent; a pipe ends when the disk is full."""
    peers.file("big", 30 * MB)
    peers.receive("--yes")
    said = peers.punch("send", "big", "bob", name="alice", status=8)
    assert "bob's disk has not enough free space" in said
    done = subprocess.run(
        peers.words("send", "-", "bob", name="alice"),
        input=b"x" * 50 * MB,
        capture_output=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 8, done.stderr
    assert sum(path.stat().st_size for path in small_disk.rglob("*") if path.is_file()) == 0


def test_a_disk_that_is_read_only(peers: Peers, small_disk: Path) -> None:
    subprocess.run(["mount", "-o", "remount,ro", str(small_disk)], check=True)
    said = peers.punch("receive", "--output", str(small_disk), name="bob", status=8)
    assert "can't be written" in said


def test_what_stays_free(small_disk: Path) -> None:
    """Two transfers, each of which fits: neither writes when too little is left."""
    size = 15 * BLOCK
    targets = []
    for name in ("a", "b"):
        offer = FilesOffer((Item(name, EntryKind.FILE, size, 1),), 1, ("sha256",))
        targets.append(Target(small_disk, "alice", offer))
        targets[-1].receive_all(encode_entries([Entry(EntryKind.FILE, name.encode(), size)]))

    def write() -> None:
        for offset in range(0, size, PIECE):
            for target in targets:
                target.receive(encode_data(0, offset, b"x" * PIECE))

    with pytest.raises(TransferFailed) as caught:
        write()
    assert caught.value.code is FailureCode.NO_SPACE
    for target in targets:
        target.close()
    disk = os.statvfs(small_disk)
    assert disk.f_bavail * disk.f_frsize > FREE - BLOCK - PIECE
