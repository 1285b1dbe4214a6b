"""The command line of the rendezvous, and what every program of ours needs from `twistd`."""

from __future__ import annotations

import json
import os
import stat
import sys
from datetime import datetime, timedelta, timezone
from pathlib import Path
from typing import Any
from unittest import skipUnless

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import (
    BestAvailableEncryption,
    Encoding,
    NoEncryption,
    PrivateFormat,
)
from cryptography.x509.oid import NameOID
from twisted.application.app import ServerOptions
from twisted.python import usage
from twisted.trial.unittest import SynchronousTestCase

from punch.cli import twistd
from punch.cli.rendezvous.service import Announcer, primary_address
from punch.cli.rendezvous.tap import Options
from punch.identity import Identity
from punch.rendezvous.config import RendezvousLimits
from punch.rendezvous.directory.redis_address import RedisAddress
from punch.rendezvous.tcp.tls import CertificateProblem, load_certificate, names_of
from punch.state import StateDirectory
from punch.test.no_reactor import no_reactor

NOW = datetime(2026, 1, 1, tzinfo=timezone.utc)


def issue(
    directory: Path,
    *names: str,
    begins: datetime = NOW - timedelta(days=1),
    ends: datetime = NOW + timedelta(days=36_500),
    passphrase: bytes | None = None,
) -> tuple[Path, Path]:
    """A certificate for `names` and its key, as files."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "test")])
    builder = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(1)
        .not_valid_before(begins)
        .not_valid_after(ends)
    )
    if names:
        builder = builder.add_extension(
            x509.SubjectAlternativeName([x509.DNSName(each) for each in names]), critical=False
        )
    encryption = BestAvailableEncryption(passphrase) if passphrase else NoEncryption()
    certificate_path, key_path = directory / "chain.pem", directory / "key.pem"
    certificate_path.write_bytes(builder.sign(key, hashes.SHA256()).public_bytes(Encoding.PEM))
    key_path.write_bytes(key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, encryption))
    return certificate_path, key_path


class TapCase(SynchronousTestCase):
    """A directory of its own, and output that is caught."""

    def setUp(self) -> None:
        self.directory = Path(self.mktemp()).absolute()
        self.directory.mkdir()
        self.state = self.directory / "state"

    def parse(self, *arguments: str, parent: usage.Options | None = None) -> Options:
        options = Options()
        options.parent = parent
        options.parseOptions(["--state-dir", str(self.state), *arguments])
        return options

    def refused(self, *arguments: str, parent: usage.Options | None = None) -> str:
        """The sentence with which a command line is refused."""
        ended = self.assertRaises(SystemExit, self.parse, *arguments, parent=parent)
        sentence = str(ended.code)
        self.assertTrue(sentence.startswith("twistd punch-rendezvous: "), sentence)
        self.assertNotIn("\n", sentence)
        return sentence


class OptionTests(TapCase):
    """What the command line says."""

    def test_no_options(self) -> None:
        options = self.parse()
        self.assertEqual(options["control"], [])
        self.assertEqual(options.reflector, (None, 3478))
        self.assertEqual(options.limits, RendezvousLimits())
        self.assertIsNone(options.host)
        self.assertEqual(stat.S_IMODE((self.state / "rendezvous").stat().st_mode), 0o700)

    def test_help_names_every_option_with_its_default(self) -> None:
        text = " ".join(str(Options()).split())
        for name in ("control", "reflector-port", "host", "certificate", "key", "state-dir", "json"):
            self.assertIn(f"--{name}", text)
        for default in ("7001", "3478", "512", "10000", "own key"):
            self.assertIn(default, text)

    def test_state_directory_of_nobody(self) -> None:
        self.assertIn("--state-dir", self.refused("--state-dir", "~nobody-of-this-name/state"))

    def test_reflector(self) -> None:
        for text, expected in (
            ("0", (None, 0)),
            ("192.0.2.1:5000", ("192.0.2.1", 5000)),
            ("[2001:db8::1]:5000", ("2001:db8::1", 5000)),
        ):
            self.assertEqual(self.parse("--reflector-port", text).reflector, expected)
            self.assertEqual(self.parse("--reflector", text).reflector, expected)
        for text in ("", "x", "65536", "-1", "example.org:3478", "1.2.3.4:", "3478x"):
            self.assertIn("UDP port", self.refused("--reflector-port", text))

    def test_second_reflector(self) -> None:
        """A port, any, or none; by default the service chooses."""
        for arguments, expected in (
            ((), (True, None)),
            (("--second-reflector-port", "3500"), (True, 3500)),
            (("--second-reflector-port", "0"), (True, 0)),
            (("--second-reflector-port", "none"), (False, None)),
        ):
            self.assertEqual(self.parse(*arguments).second_reflector, expected)
        for text in ("3478", "65536", "-1", "off", "", "192.0.2.1:3479"):
            self.assertIn("--second-reflector-port", self.refused("--second-reflector-port", text))

    def test_metrics(self) -> None:
        self.assertIsNone(self.parse().metrics)
        endpoint = self.parse("--metrics", "9464").metrics
        assert endpoint is not None
        self.assertTrue(endpoint.local)
        for text in ("", "x", "70000", "http://127.0.0.1:9464"):
            self.assertIn("--metrics", self.refused("--metrics", text))

    def test_registry(self) -> None:
        """The registry is an option or a variable; an error does not contain the password."""
        self.assertIsNone(self.parse().registry)
        self.assertEqual(self.parse("--registry", "redis://h").registry, RedisAddress((("h", 6379),)))
        for text in ("", "localhost", "http://:secret@h", "redis://:secret@", "redis+sentinel://h"):
            sentence = self.refused("--registry", text)
            self.assertIn("--registry", sentence)
            self.assertIn("redis://host:6379/0", sentence)
            self.assertNotIn("secret", sentence)
        self.patch(os, "environ", {**os.environ, "PUNCH_REGISTRY": "redis://other"})
        self.assertEqual(self.parse().registry, RedisAddress((("other", 6379),)))

    def test_alternate_addresses(self) -> None:
        """Alternate addresses are this machine's, or what a 1:1 NAT shows them as."""
        options = self.parse(
            *("--alternate-address", "192.0.2.2", "--alternate-address", "2001:DB8::0:2"),
            *("--alternate-address", "203.0.113.9/10.0.0.9"),
        )
        self.assertEqual(
            [(each.shown, each.own) for each in options.alternates],
            [("192.0.2.2", "192.0.2.2"), ("2001:db8::2", "2001:db8::2"), ("203.0.113.9", "10.0.0.9")],
        )
        for text in ("", "/", "host", "192.0.2.2/", "192.0.2.2/2001:db8::1", "192.0.2.0/24", "fe80::1%eth0"):
            self.assertIn("--alternate-address", self.refused("--alternate-address", text))
        self.refused(*(word for number in range(9) for word in ("--alternate-address", f"192.0.2.{number}")))

    def test_host(self) -> None:
        for text, host, port in (
            ("rendezvous.example.org", "rendezvous.example.org", None),
            ("rendezvous.example.org:443", "rendezvous.example.org", 443),
            ("192.0.2.1", "192.0.2.1", None),
            ("2001:db8::1", "2001:db8::1", None),
            ("[2001:db8::1]:7001", "2001:db8::1", 7001),
        ):
            options = self.parse("--host", text)
            self.assertEqual((options.host, options.public_port), (host, port), text)
        for text in ("", "a b", "http://x", "-"):
            self.assertIn("--host", self.refused("--host", text))

    def test_control_of_a_wrong_kind(self) -> None:
        self.assertIn("TLS itself", self.refused("--control", "ssl:7001"))
        self.assertEqual(
            self.parse("--control", "tcp:1", "--control", "tcp:2")["control"], ["tcp:1", "tcp:2"]
        )

    def test_limits(self) -> None:
        options = self.parse("--handshakes", "7", "--message-rate", "3")
        self.assertEqual((options.limits.handshakes, options.limits.message_rate), (7, 3))
        for text in ("0", "-1", "x", "1.5", "99999999999"):
            sentence = self.refused("--handshakes", text)
            self.assertIn(f"--handshakes takes a whole number of one or more, not {text};", sentence)

    def test_a_wrong_command_line(self) -> None:
        """One sentence, which says where the right one is explained, and not all options."""
        for arguments, problem in (
            (["--dance"], "unknown option --dance"),
            (["--host"], "--host needs a value"),
            (["7001"], "unexpected argument 7001"),
        ):
            sentence = f"twistd punch-rendezvous: {problem}; see twistd punch-rendezvous --help"
            self.assertEqual(self.refused(*arguments), sentence)

    def test_state_directory_that_cannot_be_written(self) -> None:
        self.state.write_text("a file")
        self.assertIn("--state-dir", self.refused())
        self.assertIn("--state-dir", self.refused("--state-dir", ""))

    def test_refusal_as_json_is_an_event_too(self) -> None:
        events: list[dict[str, Any]] = []
        self.patch(twistd.OutputWriter, "event", lambda console, fields: events.append(fields))
        self.refused("--json", "--control", "ssl:1")
        [event] = events
        self.assertEqual((event["event"], event["reason"]), ("failed", "usage"))

    def test_primary_address_is_one(self) -> None:
        with no_reactor():
            self.assertTrue(primary_address())


class CertificateTests(TapCase):
    """A certificate from an authority."""

    def load(self, certificate: Path, key: Path, host: str | None = None) -> str:
        return str(self.assertRaises(CertificateProblem, load_certificate, certificate, key, host, NOW))

    def test_name_becomes_the_host(self) -> None:
        certificate, key = issue(self.directory, "*.example.org", "r.example.org")
        options = self.parse("--certificate", str(certificate), "--key", str(key))
        self.assertEqual(options.host, "r.example.org")

    def test_host_that_a_wildcard_covers(self) -> None:
        certificate, key = issue(self.directory, "*.example.org")
        loaded = load_certificate(certificate, key, "a.example.org", NOW)
        self.assertEqual(names_of(loaded.chain[0]), [])
        self.assertIn("--host", self.refused("--certificate", str(certificate), "--key", str(key)))

    def test_other_name(self) -> None:
        certificate, key = issue(self.directory, "r.example.org")
        self.assertIn("r.example.org", self.load(certificate, key, "other.example.org"))
        self.assertIn("not for 192.0.2.1", self.load(certificate, key, "192.0.2.1"))

    def test_expired(self) -> None:
        certificate, key = issue(self.directory, "r.example", ends=NOW - timedelta(hours=1))
        self.assertIn("expired on 2025-12-31", self.load(certificate, key))

    def test_not_valid_yet(self) -> None:
        certificate, key = issue(self.directory, "r.example", begins=NOW + timedelta(days=2))
        self.assertIn("valid only from 2026-01-03", self.load(certificate, key))

    def test_key_of_another_certificate(self) -> None:
        certificate, _ = issue(self.directory, "r.example")
        other = self.directory / "other"
        other.mkdir()
        _, key = issue(other, "r.example")
        self.assertIn("is not the key", self.load(certificate, key))

    def test_locked_key(self) -> None:
        certificate, key = issue(self.directory, "r.example", passphrase=b"secret")
        self.assertIn("passphrase", self.load(certificate, key))

    def test_files_that_are_something_else(self) -> None:
        certificate, key = issue(self.directory, "r.example")
        self.assertIn("no certificate", self.load(key, key))
        self.assertIn("no usable private key", self.load(certificate, certificate))
        self.assertIn("can't be read", self.load(self.directory / "none", key))
        self.assertIn("can't be read", self.load(certificate, self.directory))

    def test_one_without_the_other(self) -> None:
        self.assertIn("belong together", self.refused("--certificate", "x"))
        self.assertIn("belong together", self.refused("--key", "x"))


class FileTests(TapCase):
    """Programs side by side in one directory."""

    def parent(self, *arguments: str) -> usage.Options:
        """The options of `twistd`, as far as they are parsed when ours are."""
        parent = ServerOptions()
        parent["pidfile"] = parent.defaults["pidfile"] = "twistd.pid"
        parent["nodaemon"] = 1
        self.patch(sys, "argv", ["twistd", *arguments, "punch-rendezvous"])
        return parent

    def test_own_log_and_no_pid(self) -> None:
        parent = self.parent()
        self.parse(parent=parent)
        self.assertEqual(parent["pidfile"], "")
        self.assertEqual(parent["logfile"], str(self.state / "rendezvous" / "rendezvous.log"))
        self.assertEqual(parent["logger"], "punch.cli.twistd.own_log.open")

    def test_log_as_json(self) -> None:
        """JSON goes to the file of `--logfile`, to stdout, or to our own file; whole IDs only if asked."""
        self.addCleanup(setattr, twistd.own_log, "observer", twistd.own_log.observer)
        self.addCleanup(setattr, twistd.own_log, "path", None)
        own = self.state / "rendezvous" / "rendezvous.log"
        for logfile, path in (("-", None), ("mine.log", Path("mine.log").absolute()), (None, own)):
            parent = self.parent(*(() if logfile is None else ("--logfile", logfile)))
            parent["logfile"] = logfile
            options = self.parse("--log-format", "json", parent=parent)
            self.assertEqual(parent["logger"], "punch.cli.twistd.own_log.open")
            self.assertEqual(twistd.own_log.path, path)
            self.assertEqual(options["log-peers"], "cut")
            self.assertEqual(options.logs_to_stdout, logfile == "-")
        self.assertEqual(self.parse()["log-peers"], "cut")
        self.assertEqual(self.parse("--log-format", "json", "--log-peers", "full")["log-peers"], "full")
        self.assertIn("--log-format", self.refused("--log-format", "xml"))
        self.assertIn("--log-peers", self.refused("--log-peers", "some"))
        self.assertIn("syslog", self.refused("--log-format", "json", parent=self.parent("--logger", "x")))

    def test_pid_of_a_daemon(self) -> None:
        parent = self.parent()
        parent["nodaemon"] = 0
        self.parse(parent=parent)
        self.assertEqual(parent["pidfile"], str(self.state / "rendezvous" / "twistd.pid"))

    def test_what_the_user_gave_stays(self) -> None:
        parent = self.parent("--logfile", "-")
        parent["logfile"] = "-"
        parent["pidfile"] = "mine.pid"
        self.parse(parent=parent)
        self.assertEqual((parent["logfile"], parent["logger"], parent["pidfile"]), ("-", None, "mine.pid"))

    @skipUnless(hasattr(os, "mkfifo"), "needs named pipes")
    def test_what_the_user_gave_is_no_file(self) -> None:
        """A named pipe would let the start wait for its other end, without a word."""
        pipe, loop = self.directory / "pipe", self.directory / "loop"
        os.mkfifo(pipe)
        loop.symlink_to("loop")
        for option in ("logfile", "pidfile"):
            for path, word in ((pipe, "named pipe"), (self.directory, "directory"), (loop, "symbolic")):
                parent = self.parent(f"--{option}={path}")
                parent[option] = str(path)
                sentence = self.refused(parent=parent)
                for part in (f"--{option}", str(path), word):
                    self.assertIn(part, sentence)
        parent = self.parent("--logfile", "/dev/null")
        parent["logfile"] = "/dev/null"
        self.parse(parent=parent)

    def test_default_that_the_user_spelled_out_stays(self) -> None:
        parent = self.parent("--logger", "x.y")
        parent["logger"] = "x.y"
        self.parse(parent=parent)
        self.assertEqual((parent["logger"], parent["logfile"]), ("x.y", None))

    def test_log_is_private_and_bounded(self) -> None:
        twistd.own_log.path = self.directory / "own.log"
        observer: Any = twistd.own_log.open()
        self.addCleanup(twistd.own_log.close)
        observer({"log_format": "hello", "log_time": 0.0, "log_level": None, "log_namespace": "x"})
        self.assertIn("hello", twistd.own_log.path.read_text())
        self.assertEqual(stat.S_IMODE(twistd.own_log.path.stat().st_mode), 0o600)


class PipeOutput:
    """A pipe in the place of stdout or stderr."""

    def __init__(self) -> None:
        self._reader, self._fd = os.pipe()
        self.writer = twistd.OutputWriter(self._fd)

    def read(self) -> str:
        """All that was written; the writer is closed."""
        os.close(self._fd)
        with open(self._reader, encoding="utf-8") as file:
            return file.read()


class AnnouncerTests(TapCase):
    """What the user and scripts are told."""

    full_peers = False
    log_on_stdout = False
    log_as_json = False

    def announce(self, *, as_json: bool, event: str, **fields: object) -> tuple[str, str, list[int]]:
        """What came out of stdout and stderr, and the exit statuses with which the process was to end."""
        out, error, statuses = PipeOutput(), PipeOutput(), list[int]()
        announcer = Announcer(
            StateDirectory(self.state).rendezvous,
            command="punch rendezvous",
            out=out.writer,
            error=error.writer,
            end=statuses.append,
            as_json=as_json,
            host_given=False,
            full_peers=self.full_peers,
            log_on_stdout=self.log_on_stdout,
            log_as_json=self.log_as_json,
        )
        announcer.service = self  # type: ignore[assignment]
        announcer(event, **fields)
        announcer.close()
        return out.read(), error.read(), statuses

    local_address = "punch://127.0.0.1:7001/PIN"

    def test_address_is_printed_and_left_for_local_peers(self) -> None:
        out, _, _ = self.announce(as_json=False, event="listening", address="punch://h:1/PIN")
        self.assertIn("punch://h:1/PIN", [line.strip() for line in out.splitlines()])
        state = StateDirectory(self.state).rendezvous
        self.assertEqual(state.read_address(), self.local_address)
        self.assertIn("punch://h:1/PIN", (state.directory / "public-address").read_text())

    def test_address_that_cannot_be_left(self) -> None:
        (self.state / "rendezvous" / "address").mkdir(parents=True)
        out, error, statuses = self.announce(as_json=False, event="listening", address="punch://h:1/PIN")
        self.assertIn("punch://h:1/PIN", out)
        self.assertIn("--rendezvous", error)
        self.assertEqual(statuses, [])

    def test_json(self) -> None:
        out, _, _ = self.announce(as_json=True, event="registered", peer="p", name="n")
        event = json.loads(out)
        self.assertGreaterEqual(event.pop("time"), 0)
        self.assertEqual(event, {"event": "registered", "peer": "p", "name": "n"})

    def test_ids_and_names_only_if_asked(self) -> None:
        def said(event: str, **fields: str) -> str:
            out, error, _ = self.announce(as_json=False, event=event, peer="abcdefgh" * 7, **fields)
            self.assertEqual(error, "")
            return out

        self.assertEqual(said("registered", name="Alice"), "abcdefgh… registered\n")
        self.assertEqual(said("gone", reason="closed"), "abcdefgh… is gone (closed)\n")
        self.full_peers = True
        self.assertEqual(said("registered", name="Alice"), f"Alice registered ({'abcdefgh' * 7})\n")
        self.log_on_stdout = True
        self.assertEqual(said("registered", name="Alice") + said("gone", reason="closed"), "")

    def test_nothing_beside_a_json_log(self) -> None:
        self.log_on_stdout = self.log_as_json = True
        for event in ("listening", "registry"):
            out, error, _ = self.announce(as_json=False, event=event, address="punch://h:1/PIN")
            self.assertEqual((out, error), ("", ""))
        _, error, statuses = self.announce(as_json=False, event="failed", reason="r", text="Do that.")
        self.assertEqual((error, statuses), ("punch rendezvous: Do that.\n", [1]))
        # The events of --json were asked for.
        self.assertEqual(json.loads(self.announce(as_json=True, event="registry")[0])["event"], "registry")

    def test_failure_ends_with_a_sentence_and_a_status(self) -> None:
        for as_json in (False, True):
            _, error, statuses = self.announce(as_json=as_json, event="failed", reason="r", text="Do that.")
            self.assertEqual(error, "punch rendezvous: Do that.\n")
            self.assertEqual(statuses, [1])

    def test_key_is_made_once(self) -> None:
        state = StateDirectory(self.state).rendezvous
        first = state.identity()
        self.assertIsInstance(first, Identity)
        self.assertEqual(state.identity().peer_id, first.peer_id)
