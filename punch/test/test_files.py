"""Only regular files are opened, whatever has their names."""

from __future__ import annotations

import os
import socket
from collections.abc import Callable
from datetime import datetime, timezone
from pathlib import Path
from unittest import skipUnless

from twisted.trial.unittest import SynchronousTestCase

from punch.apps.chat.model import ChatError
from punch.apps.chat.store import Store
from punch.cli.rendezvous.options import OptionError, RelayOptions
from punch.contacts import AddressBook, AddressBookError
from punch.files import NotRegular, check_regular, open_regular, read_regular, sqlite_files
from punch.identity import Identity, load_identity
from punch.rendezvous.tcp.tls import CertificateProblem, load_certificate
from punch.sentences import sentence_of
from punch.state import PeerState, RendezvousState
from punch.state_files import StateError
from punch.ui.terminal.line_history import LineHistory
from punch.ui.text.chat import chat_error_sentence

NOW = datetime(2026, 1, 1, tzinfo=timezone.utc)


def pipe(path: Path) -> None:
    """Whoever opens it waits for its other end."""
    os.mkfifo(path)


def directory(path: Path) -> None:
    """Can be opened, and not read."""
    path.mkdir()


def listening(path: Path) -> None:
    """A Unix socket; its path may be longer than such an address."""
    here = os.open(path.parent, os.O_RDONLY)
    try:
        with socket.socket(socket.AF_UNIX) as made:
            made.bind(f"/proc/self/fd/{here}/{path.name}")
    finally:
        os.close(here)


def endless(path: Path) -> None:
    """A link to a device that has no end."""
    path.symlink_to("/dev/zero")


KINDS = {pipe: "named pipe", directory: "directory", listening: "socket", endless: "device"}


@skipUnless(hasattr(os, "mkfifo") and os.path.isdir("/proc/self/fd"), "needs named pipes and /proc")
class RegularFileTests(SynchronousTestCase):
    """None of these hangs: that is most of the test."""

    def setUp(self) -> None:
        self.root = Path(self.mktemp())
        self.root.mkdir()

    def each(self, path: Path, use: Callable[[], object], error: type[Exception], *parts: str) -> None:
        """Whatever has the file's name, using it fails with a sentence that names it."""
        for make, kind in KINDS.items():
            make(path)
            found = self.assertRaises(error, use)
            if isinstance(found, ChatError):
                sentence = chat_error_sentence(found)
            elif isinstance(found, (StateError, AddressBookError)):
                sentence = sentence_of(found)
            else:
                sentence = str(found)
            for part in (str(path), kind, *parts):
                self.assertIn(part, sentence)
            self.assertTrue(sentence.endswith("."), sentence)
            path.rmdir() if make is directory else path.unlink()

    def test_opening(self) -> None:
        path = self.root / "x"
        for make in KINDS:
            make(path)
            for flags in (os.O_RDONLY, os.O_RDWR, os.O_WRONLY | os.O_CREAT | os.O_APPEND):
                self.assertRaises(NotRegular, open_regular, path, flags)
            self.assertRaises(NotRegular, read_regular, path, 10)
            self.assertRaises(NotRegular, check_regular, path)
            path.rmdir() if make is directory else path.unlink()
        check_regular(path)
        self.assertRaises(FileNotFoundError, read_regular, path, 10)

    def test_too_big(self) -> None:
        path = self.root / "x"
        path.write_bytes(b"0123456789")
        self.assertEqual(read_regular(path, 10), b"0123456789")
        self.assertIn("more than 9 bytes", str(self.assertRaises(NotRegular, read_regular, path, 9)))

    def test_links_to_files(self) -> None:
        """Certificates are such: certbot keeps the files elsewhere."""
        (self.root / "there").write_bytes(b"x")
        (self.root / "here").symlink_to("there")
        self.assertEqual(read_regular(self.root / "here", 10), b"x")

    def test_what_a_peer_keeps(self) -> None:
        state = PeerState(self.root / "peer", "peer")
        state.directory.mkdir()
        advice = "--state-dir"
        there = state.directory
        self.each(there / "identity.key", state.identity, StateError, advice)
        self.each(there / "known.json", lambda: PeerState(there, "peer").book, StateError, advice)
        self.each(there / ".lock", state.lock, StateError, advice)
        self.each(there / "display-name", lambda: state.display_name, StateError, advice)
        self.each(there / "last-rendezvous", lambda: state.last_rendezvous, StateError, advice)
        for file in sqlite_files(state.history_path):
            self.each(file, lambda: Store(state.history_path), Exception, "--no-history")
        names = ["peer.log", "twistd.pid", "typed-lines", "display-name", "last-rendezvous"]
        names += ["offers.json", "replaced", "last-web-port"]
        for name in names:
            self.each(there / name, state.prepare, StateError, advice)
        # Without a history, what has its name is nobody's business.
        state.history_path.mkdir()
        state.prepare()

    def test_the_lock_of_the_address_book(self) -> None:
        path = self.root / "known.json"
        book = AddressBook(path)
        peer = Identity.generate(lambda count: b"x" * count).peer_id
        self.each(self.root / ".known.json.lock", lambda: book.block(peer, not book.blocked(peer)), Exception)

    def test_what_a_rendezvous_keeps(self) -> None:
        state = RendezvousState(self.root / "rendezvous")
        identity = load_identity(self.root / "identity.key")
        state.directory.mkdir()
        there = state.directory
        self.each(there / "certificate.pem", lambda: state.certificate(identity, [], NOW), StateError)
        self.each(there / "address", state.read_address, StateError)
        for name in ("rendezvous.log", "twistd.pid", "certificate.pem", "address"):
            self.each(there / name, state.prepare, StateError, "--state-dir")

    def test_what_the_command_line_names(self) -> None:
        path = self.root / "named"
        good = self.root / "good"
        good.write_bytes(b"x")
        self.each(path, lambda: load_certificate(path, good, None, NOW), CertificateProblem)
        self.each(path, lambda: load_certificate(good, path, None, NOW), CertificateProblem)
        options = {
            "relay": "on",
            "turn": [],
            "relay-address": [],
            "relay-allow": [],
            "relay-ports": "50000-50100",
            "turn-secret-file": str(path),
        }
        self.each(path, lambda: RelayOptions.read(options), OptionError)

    def test_typed_lines_are_private(self) -> None:
        """Nobody else reads them, and what is erased is not in the file."""
        path = self.root / "typed-lines"
        history = LineHistory(path)
        history.add("a secret", 1.0)
        self.assertIn(b"a secret", path.read_bytes())
        self.assertEqual(path.stat().st_mode & 0o077, 0)
        history.erase()
        self.assertFalse(path.exists() and b"secret" in path.read_bytes())

    def test_typed_lines(self) -> None:
        """They are worth no sentence once the process runs, and no wait either."""
        path = self.root / "typed-lines"
        for make in KINDS:
            make(path)
            history = LineHistory(path)
            history.add("hello", 1.0)
            history.forget_before(2.0)
            LineHistory(path).erase()
            if path.is_symlink() or path.exists():
                path.rmdir() if make is directory else path.unlink()
