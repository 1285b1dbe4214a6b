"""What Punch keeps between runs."""

from __future__ import annotations

import stat
from datetime import datetime, timedelta, timezone
from pathlib import Path

from cryptography import x509
from twisted.trial.unittest import SynchronousTestCase

from punch.contacts import AddressBookError
from punch.identity import PeerID
from punch.sentences import sentence_of
from punch.state import StateDirectory, default_state_dir
from punch.state_files import StateError
from punch.test.strategies import IDENTITIES

NOW = datetime(2026, 1, 2, 3, 4, 5, 678901, tzinfo=timezone.utc)
HOME = Path("/home/alice")
ALICE, BOB = (known.peer_id for known in IDENTITIES[:2])


class StateTestCase(SynchronousTestCase):
    """With an empty state directory, not made yet."""

    def setUp(self) -> None:
        self.root = Path(self.mktemp()).absolute()
        self.state = StateDirectory(self.root)

    def assert_private(self) -> None:
        """Nobody but the owner can read anything below the root, and no temporary file is left."""
        for path in [self.root, *self.root.rglob("*")]:
            mode = 0o700 if path.is_dir() else 0o600
            self.assertEqual(stat.S_IMODE(path.stat().st_mode), mode, path)
            self.assertTrue(path.name.endswith(".lock") or not path.name.startswith("."), path)


class DefaultTests(SynchronousTestCase):
    """Where the root is if nobody says."""

    def test_platforms(self) -> None:
        """Each platform's own place."""
        for environ, platform, expected in (
            ({}, "linux", "/home/alice/.local/state/punch"),
            ({"XDG_STATE_HOME": "/var/x"}, "linux", "/var/x/punch"),
            ({"XDG_STATE_HOME": "/var/x"}, "freebsd14", "/var/x/punch"),
            ({"XDG_STATE_HOME": ""}, "linux", "/home/alice/.local/state/punch"),
            ({"XDG_STATE_HOME": "relative"}, "linux", "/home/alice/.local/state/punch"),
            ({"XDG_STATE_HOME": "/var/x"}, "darwin", "/home/alice/Library/Application Support/punch"),
            ({"LOCALAPPDATA": "/c/local"}, "win32", "/c/local/punch"),
            ({}, "win32", "/home/alice/AppData/Local/punch"),
        ):
            self.assertEqual(default_state_dir(environ, platform, HOME), Path(expected))

    def test_absolute(self) -> None:
        """A relative root stays where it was when the working directory changes."""
        self.assertEqual(StateDirectory(Path("x")).root, Path.cwd() / "x")


class PeerStateTests(StateTestCase):
    """What one peer keeps."""

    def test_nothing_before_it_is_asked_for(self) -> None:
        """Looking makes nothing."""
        peer = self.state.peer("alice")
        self.assertIsNone(peer.last_rendezvous)
        self.assertEqual(list(peer.book), [])
        self.assertIsNone(self.state.rendezvous.read_address())
        self.assertFalse(self.root.exists())

    def test_identities(self) -> None:
        """One key a name, kept."""
        alice = self.state.peer("alice").identity().peer_id
        self.assertEqual(self.state.peer("alice").identity().peer_id, alice)
        self.assertNotEqual(self.state.peer("bob").identity().peer_id, alice)
        self.assertEqual(self.state.peer("alice").directory, self.root / "peers" / "alice")
        self.assert_private()

    def test_home_of_nobody(self) -> None:
        """A user that does not exist has no home to keep anything in."""
        problem = self.assertRaises(StateError, StateDirectory, Path("~nobody-of-this-name/state"))
        self.assertIn("--state-dir", sentence_of(problem))

    def test_names(self) -> None:
        """Names that are one directory, in any script."""
        for good in (
            "a",
            "alice.smith",
            "A_b-c.9",
            "Zo\u00eb",
            "\u0905\u092e\u093f\u0924",
            "\u674e",
            "x" * 64,
        ):
            self.assertEqual(self.state.peer(good).name, good)
        self.assertEqual(self.state.peer("Zoe\u0308").directory, self.state.peer("Zo\u00eb").directory)
        for bad in (
            "",
            ".",
            "..",
            ".x",
            "a/b",
            "../x",
            "a\\b",
            "a b",
            "a\0",
            "a\n",
            "\x1b[2J",
            "x" * 65,
            "a:b",
            "\u674e" * 65,
        ):
            message = sentence_of(self.assertRaises(StateError, self.state.peer, bad))
            self.assertIn("--name", message)
            self.assertTrue(message.isprintable() and message.endswith("."), message)
        self.assertRaises(StateError, self.state.peer, "\U0001f1e6" * 64)
        self.assertFalse(self.root.exists())

    def test_bad_key_file(self) -> None:
        """The error names what is wrong with a key file."""
        peer = self.state.peer("alice")
        peer.identity()
        (peer.directory / "identity.key").chmod(0o644)
        message = sentence_of(self.assertRaises(StateError, peer.identity))
        self.assertIn(f"chmod 600 {peer.directory / 'identity.key'}", message)

    def test_last_rendezvous(self) -> None:
        """The address used last; the file isn't touched when it is the same."""
        peer = self.state.peer("alice")
        peer.remember_rendezvous("punch://example.org:7001")
        self.assertEqual(self.state.peer("alice").last_rendezvous, "punch://example.org:7001")
        before = (peer.directory / "last-rendezvous").stat().st_ino
        peer.remember_rendezvous("punch://example.org:7001")
        self.assertEqual((peer.directory / "last-rendezvous").stat().st_ino, before)
        peer.remember_rendezvous("punch://example.net:7001")
        self.assertEqual(peer.last_rendezvous, "punch://example.net:7001")
        self.assert_private()
        (peer.directory / "last-rendezvous").write_bytes(b"\n")
        self.assertIsNone(peer.last_rendezvous)

    def test_prekeys(self) -> None:
        """Those of other peers, as long as these are known."""
        peer = self.state.peer("alice")
        self.assertIsNone(peer.read_prekey(ALICE))
        for known in (ALICE, BOB):
            peer.write_prekey(known, known.key * 39)
        self.assertEqual(peer.read_prekey(ALICE), ALICE.key * 39)
        (peer.directory / "prekeys" / "notes").write_text("somebody else's file")
        (peer.directory / "prekeys" / "notes").chmod(0o600)
        peer.book.add(ALICE, "alice")
        peer.forget_prekeys()
        self.assertEqual((peer.read_prekey(ALICE), peer.read_prekey(BOB)), (ALICE.key * 39, None))
        peer.write_prekey(ALICE, None)
        peer.write_prekey(ALICE, None)
        self.assertIsNone(peer.read_prekey(ALICE))
        self.assert_private()

    def test_the_prekey_of_a_forgotten_peer(self) -> None:
        """No file names who was taken out of the address book, which another process may do."""
        peer = self.state.peer("alice")
        for known in (ALICE, BOB):
            peer.book.add(known, "")
            peer.write_prekey(known, known.key * 39)
        self.state.peer("alice").book.forget(ALICE)
        self.assertEqual((peer.read_prekey(ALICE), peer.read_prekey(BOB)), (None, BOB.key * 39))
        peer.book.forget(BOB)
        self.assertEqual(list((peer.directory / "prekeys").iterdir()), [])

    def test_prekeys_where_none_can_be(self) -> None:
        """A file where the directory should be is an error with a sentence."""
        peer = self.state.peer("alice")
        peer.directory.mkdir(parents=True)
        (peer.directory / "prekeys").write_text("")
        for call in (
            lambda: peer.write_prekey(ALICE, b"x"),
            peer.forget_prekeys,
        ):
            self.assertRaises(StateError, call)
        peer.book.add(ALICE, "")
        error = self.assertRaises(AddressBookError, peer.book.forget, ALICE)
        self.assertEqual(error.code, "state")
        self.assertNotIn(ALICE, self.state.peer("alice").book)

    def test_cannot_be_written(self) -> None:
        """Below a regular file: every use ends in a sentence with the path and --state-dir."""
        self.root.write_bytes(b"")
        state = StateDirectory(self.root / "state")
        peer, service = state.peer("alice"), state.rendezvous
        for use in (
            peer.identity,
            peer.lock,
            lambda: peer.remember_rendezvous("x"),
            lambda: peer.book.add(ALICE, "a"),
            service.identity,
            lambda: service.write_address("x"),
            lambda: service.certificate(IDENTITIES[0], [], NOW),
        ):
            message = sentence_of(self.assertRaises(StateError, use))
            self.assertIn(str(self.root / "state"), message)
            self.assertIn("Not a directory", message)
            self.assertIn("--state-dir", message)


class LockTests(StateTestCase):
    """One process an identity."""

    def test_second_is_refused(self) -> None:
        """The sentence names the identity and what to do; after the release it is free."""
        lock = self.state.peer("alice").lock()
        message = sentence_of(self.assertRaises(StateError, self.state.peer("alice").lock))
        self.assertIn("'alice'", message)
        self.assertIn("--name", message)
        self.state.peer("bob").lock().release()
        lock.release()
        lock.release()
        self.state.peer("alice").lock().release()
        self.assert_private()

    def test_a_program_that_could_use_another_node(self) -> None:
        """The sentence names it, and says in which order both can run; the next one's name counts."""
        peer = self.state.peer("alice")
        lock = peer.lock("punch receive, which has a long name")
        lock.release()
        lock = peer.lock("punch receive")
        message = sentence_of(self.assertRaises(StateError, self.state.peer("alice").lock))
        self.assertTrue(message.startswith("punch receive already runs with the identity 'alice'."), message)
        self.assertIn("start this first", message)
        lock.release()
        lock = peer.lock()
        message = sentence_of(self.assertRaises(StateError, self.state.peer("alice").lock))
        self.assertTrue(message.startswith("Another process already runs"), message)
        lock.release()
        lock = peer.lock("a\x1b[2J")
        self.assertIn(
            "Another process", sentence_of(self.assertRaises(StateError, self.state.peer("alice").lock))
        )
        lock.release()

    def test_left_behind(self) -> None:
        """A lock file of a process that is no more blocks nobody, whatever is in it."""
        path = self.root / "peers" / "alice" / ".lock"
        path.parent.mkdir(parents=True)
        path.write_bytes(b"12345")
        self.state.peer("alice").lock().release()


class RendezvousStateTests(StateTestCase):
    """What a service keeps."""

    def test_address(self) -> None:
        """The address is left for others of the same user, and replaced."""
        service = self.state.rendezvous
        service.write_address("punch://192.0.2.1:7001/x")
        service.write_address("punch://192.0.2.2:7001/x")
        self.assertEqual(StateDirectory(self.root).rendezvous.read_address(), "punch://192.0.2.2:7001/x")
        self.assert_private()

    def test_certificate_is_kept(self) -> None:
        """The same bytes, until something changes."""
        service = self.state.rendezvous
        who = service.identity()
        hosts = ["example.org", "2001:db8::1"]
        pem = service.certificate(who, hosts, NOW)
        self.assertEqual(service.certificate(who, hosts, NOW + timedelta(days=365)), pem)
        certificate = x509.load_pem_x509_certificate(pem)
        self.assertEqual(PeerID.from_certificate(certificate), who.peer_id)
        self.assertLess(certificate.not_valid_before_utc, NOW)
        names = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
        self.assertEqual(names.get_values_for_type(x509.DNSName), ["example.org"])
        self.assert_private()

    def test_certificate_is_remade(self) -> None:
        """A certificate is made anew for other hosts or another key, if damaged, or if not valid for long."""
        service = self.state.rendezvous
        first = service.certificate(IDENTITIES[0], ["a.example"], NOW)
        path = service.directory / "certificate.pem"
        for who, hosts, now in (
            (IDENTITIES[0], ["b.example"], NOW),
            (IDENTITIES[1], ["a.example"], NOW),
            (IDENTITIES[0], ["a.example"], NOW + timedelta(days=3640)),
            (IDENTITIES[0], ["a.example"], NOW - timedelta(days=2)),
        ):
            path.write_bytes(first)
            remade = x509.load_pem_x509_certificate(service.certificate(who, hosts, now))
            self.assertNotEqual(remade, x509.load_pem_x509_certificate(first))
            self.assertTrue(remade.not_valid_before_utc <= now <= remade.not_valid_after_utc)
            self.assertEqual(PeerID.from_certificate(remade), who.peer_id)
        for damaged in (b"", b"x", first[:100], first.replace(b"A", b"B")):
            path.write_bytes(damaged)
            self.assertEqual(service.certificate(IDENTITIES[0], ["a.example"], NOW), first)
            self.assertEqual(path.read_bytes(), first)
