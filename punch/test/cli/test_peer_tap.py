"""The options of `punch-peer`: what is refused, with which sentence, and where the defaults come from."""

from __future__ import annotations

import json
import os
import signal
from pathlib import Path
from typing import Any

from twisted.application.service import IServiceMaker
from twisted.plugin import getPlugins
from twisted.scripts import twistd
from twisted.trial.unittest import SynchronousTestCase

from punch.cli.peer_tap import Options
from punch.cli.twistd import commands
from punch.identity import PeerID
from punch.node.policies import RelayPolicy
from punch.state import StateDirectory, login_name
from punch.test.ui.front_ends import BOB, ME
from punch.ui.terminal.escapes import Notice
from punch.wire.control import Accept
from punch.wire.rendezvous_address import RendezvousAddress

PIN = "/ecun6uc4xmexq5hf4hiqe5iazcfvcv66yozviearr6c546bmtzi2seic"


class OptionsCase(SynchronousTestCase):
    def setUp(self) -> None:
        self.root = Path(self.mktemp()).absolute()
        self.patch(os, "environ", {"USER": "carol", "PATH": os.environ.get("PATH", "")})

    def parse(self, *arguments: str, rendezvous: str | None = "punch://192.0.2.1:7001") -> Options:
        options: Any = Options
        parsed: Options = options()
        where = [] if rendezvous is None else ["--rendezvous", rendezvous]
        parsed.parseOptions(["--state-dir", str(self.root), *where, *arguments])
        return parsed

    def sentence(self, *arguments: str, rendezvous: str | None = "punch://192.0.2.1:7001") -> str:
        """What is said when these are refused."""
        with self.assertRaises(SystemExit) as ended:
            self.parse(*arguments, rendezvous=rendezvous)
        text = str(ended.exception.code)
        self.assertTrue(text.endswith("."), text)
        self.assertEqual(len(text.splitlines()), 1, text)
        return text


class OptionsTests(OptionsCase):
    def test_defaults(self) -> None:
        options = self.parse()
        self.assertIsNone(options.target)
        self.assertEqual(options.accept, Accept.ASK)
        self.assertEqual(options["name"], login_name(os.environ))
        self.assertEqual(options["json"], 0)

    def test_values(self) -> None:
        identity = " ".join(str(BOB).upper()[i : i + 4] for i in range(0, 56, 4))
        options = self.parse(
            "--peer", identity, "--accept", "Known", "--name", "dave", "--json", "--relay", "Only"
        )
        self.assertEqual(options.target, BOB)
        self.assertEqual(options.accept, Accept.KNOWN)
        self.assertEqual(options.relay, RelayPolicy.ONLY)
        self.assertEqual(options.peer.name, "dave")
        self.assertEqual(options["json"], 1)

    def test_notices(self) -> None:
        self.assertIs(self.parse().notice, Notice.BELL)
        for notice in Notice:
            self.assertIs(self.parse("--notify", notice.value).notice, notice)

    def test_what_is_not_seen_is_ignored(self) -> None:
        """Invisible characters are ignored in options and values that are no names of files."""
        root = self.root / "a\u200bb"
        for state in (["--state-dir", str(root)], [f"--sta\u200bte-dir={root}"], ["--state", str(root)]):
            options = self.parse(
                *state,
                "--pe\u2060er",
                f"\ufeff{BOB}\u200b",
                "--accept=any\xadone",
                "--retention",
                "3\u200b0",
                "--web-port",
                "80\u200b80\u2060",
                "--name",
                "da\u200bve",
                "--no-his\u200btory",
            )
            self.assertEqual((options.target, options.accept), (BOB, Accept.ANYONE))
            self.assertEqual((options["retention"], options["web-port"]), ("30", "8080"))
            self.assertEqual((options.peer.name, options["no-history"]), ("dave", 1))
            self.assertTrue(options.peer.directory.is_relative_to(root), options.peer.directory)

    def test_refused(self) -> None:
        wrong = str(BOB)[:20] + ("a" if str(BOB)[20] != "a" else "b") + str(BOB)[21:]
        cases: list[tuple[list[str], str]] = [
            (["--peer", wrong], "typo"),
            (["--peer", ""], "empty"),
            (["--peer", "punch://192.0.2.1"], "address"),
            (["--peer", PIN[1:]], "pin"),
            (["--accept", "nobody"], "--accept"),
            (["--relay", "maybe"], "--relay"),
            (["--notify", "osc99"], "--notify"),
            (["--name", "a/b"], "--name"),
            (["--name", ""], "--name"),
            (["--state-dir", ""], "--state-dir"),
            (["--retention", "some"], "--retention"),
            (["--retention", "-1"], "--retention"),
            (["--web-port", "65536"], "--web-port"),
        ]
        for arguments, part in cases:
            with self.subTest(arguments):
                self.assertIn(part, self.sentence(*arguments))

    def test_a_name_from_the_address_book(self) -> None:
        book = StateDirectory(self.root).peer("dave").book
        book.add(BOB, "bob")
        self.assertEqual(self.parse("--name", "dave", "--peer", "Bob").target, BOB)
        self.assertIn("'bob' is neither a name", self.sentence("--name", "erin", "--peer", "bob"))

    def test_refused_addresses(self) -> None:
        for address in ("", "http://192.0.2.1", "punch://192.0.2.1:0", "punch://[::1", "punch://h:1/pin"):
            with self.subTest(address):
                self.assertIn("--rendezvous", self.sentence(rendezvous=address))

    def test_a_state_directory_that_cannot_be_written(self) -> None:
        self.root.write_text("a file")
        self.assertIn("--state-dir", self.sentence())
        self.root = Path("~nobody-of-this-name/state")
        self.assertIn("--state-dir", self.sentence())

    def test_a_wrong_command_line(self) -> None:
        """One sentence, which says where the right one is explained, and not all options."""
        for arguments, sentence in (
            (["--dance"], "unknown option --dance"),
            (["-d"], "unknown option -d"),
            (["--peer"], "--peer needs a value"),
            (["--json=1"], "--json takes no value"),
            (["--re", "x"], "--re is short for several options"),
            (["alice", "bob"], "unexpected argument alice"),
            (["--\x1b[31m"], "unknown option --\\x1b[31m"),
        ):
            with self.assertRaises(SystemExit) as ended:
                self.parse(*arguments)
            self.assertEqual(
                ended.exception.code,
                f"twistd punch-peer: {sentence}; see twistd punch-peer --help",
                arguments,
            )

    def test_sentences_begin_with_the_command_of_the_user(self) -> None:
        """As `punch chat`, and not as the plugin that it runs."""
        commands["punch-peer"] = "punch chat"
        self.addCleanup(commands.clear)
        self.assertTrue(self.sentence("--accept", "all").startswith("punch chat: --accept takes"))

    def test_the_help_names_the_command(self) -> None:
        options: Any = Options
        self.assertTrue(str(options()).startswith("Usage: twistd punch-peer [options]\n"))

    def test_every_option_is_explained_with_its_default(self) -> None:
        options: Any = Options
        text = " ".join(str(options()).split())
        for option in (
            "--peer=",
            "--rendezvous=",
            "--name=",
            "--accept=",
            "--relay=",
            "--port-mapping=",
            "--spray=",
            "--state-dir=",
            "--json",
            "--no-history",
            "--retention=",
            "--web",
            "--web-port=",
        ):
            after = text.split(option, 1)[1].split(" --", 1)[0]
            self.assertIn("[default: ", text.split(option, 1)[1][: len(after) + 200], option)
        self.assertEqual(text.count("[default: "), 16)

    def test_login_name(self) -> None:
        cases = {"alice": "alice", "DOMAIN\\bob": "DOMAIN-bob", "..x": "x", "//": "peer", "x" * 80: "x" * 64}
        for login, name in cases.items():
            self.patch(os, "environ", {"LOGNAME": login})
            self.assertEqual(login_name(os.environ), name)


class ChoiceTests(OptionsCase):
    """--rendezvous, PUNCH_RENDEZVOUS, the one used last, the local one, a sentence: in this order."""

    def test_order(self) -> None:
        self.assertIn("punch-rendezvous", self.sentence(rendezvous=None))
        state = StateDirectory(self.root)
        state.rendezvous.write_address("punch://192.0.2.4:1")
        self.assertEqual(self.parse(rendezvous=None).rendezvous[0].host, "192.0.2.4")
        state.peer(login_name(os.environ)).remember_rendezvous("punch://192.0.2.3:1")
        self.assertEqual(self.parse(rendezvous=None).rendezvous[0].host, "192.0.2.3")
        self.patch(os, "environ", {**os.environ, "PUNCH_RENDEZVOUS": "punch://192.0.2.2:1" + PIN})
        self.assertEqual(
            self.parse(rendezvous=None).rendezvous, RendezvousAddress.parse_all("punch://192.0.2.2:1" + PIN)
        )
        self.assertEqual(self.parse().rendezvous[0].host, "192.0.2.1")

    def test_last_is_remembered_for_each_name(self) -> None:
        StateDirectory(self.root).peer("dave").remember_rendezvous("punch://192.0.2.3:1")
        self.assertEqual(self.parse("--name", "dave", rendezvous=None).rendezvous[0].host, "192.0.2.3")
        self.sentence("--name", "erin", rendezvous=None)

    def test_several_servers(self) -> None:
        """The option several times, or with commas."""
        for arguments in (
            ("--rendezvous", "192.0.2.1", "--rendezvous", "192.0.2.2"),
            ("--rendezvous", "192.0.2.1,192.0.2.2"),
        ):
            found = self.parse(*arguments, rendezvous=None).rendezvous
            self.assertEqual([address.host for address in found], ["192.0.2.1", "192.0.2.2"])

    def test_a_mistake_names_its_source(self) -> None:
        self.patch(os, "environ", {**os.environ, "PUNCH_RENDEZVOUS": "ftp://x"})
        self.assertIn("PUNCH_RENDEZVOUS", self.sentence(rendezvous=None))
        self.assertEqual(self.parse().rendezvous[0].host, "192.0.2.1")


class PluginTests(SynchronousTestCase):
    def test_twistd_has_the_plugin(self) -> None:
        found: Any = getPlugins
        makers = {plugin.tapname: plugin for plugin in found(IServiceMaker)}
        self.assertIs(makers["punch-peer"].options, Options)
        self.assertIn("punch-rendezvous", makers)

    def test_files_of_its_own(self) -> None:
        self.addCleanup(signal.signal, signal.SIGINT, signal.getsignal(signal.SIGINT))
        root = Path(self.mktemp()).absolute()
        server: Any = twistd.ServerOptions  # type: ignore[attr-defined]
        config = server()
        config.parseOptions(
            ["-n", "punch-peer", "--state-dir", str(root), "--name", "x", "--rendezvous", "punch://192.0.2.1"]
        )
        self.assertEqual(config["pidfile"], "")
        self.assertEqual(config["logfile"], str(root / "peers" / "x" / "peer.log"))

    def test_json_failures_are_events_too(self) -> None:
        written: list[bytes] = []

        def write(descriptor: int, data: bytes) -> int:
            written.append(bytes(data))
            return len(data)

        self.patch(os, "write", write)
        for arguments, reason in (
            (["--json", "--peer", "nonsense"], "bad-peer-id"),
            (["--dance", "--json"], "usage"),
        ):
            options: Any = Options
            parsed = options()
            self.assertRaises(SystemExit, parsed.parseOptions, arguments)
            event = json.loads(b"".join(written))
            written.clear()
            self.assertEqual((event["event"], event["reason"]), ("failed", reason))

    def test_ids_are_different(self) -> None:
        self.assertNotEqual(PeerID.parse(str(BOB)), ME)
