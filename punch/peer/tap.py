"""
The `twistd` plugin `punch-peer`: options, and what a running peer is put together from.

This is a composition root: the one place where node, front end, state directory and reactor meet.
"""

from __future__ import annotations

import punch.interrupt  # noqa: F401 (before all that takes its time)

# isort: split
import atexit
import getpass
import os
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NoReturn

from twisted.application.service import IService, Service
from twisted.internet.defer import Deferred, DeferredList
from twisted.logger import Logger

from punch.files import make_private_directory
from punch.identity import PeerID, PeerIDError
from punch.options import Options as BaseOptions
from punch.peer.choice import NoRendezvous, choose_rendezvous
from punch.peer.events import Event, Registered
from punch.peer.policy import RelayPolicy
from punch.state import Lock, PeerState, StateDirectory, StateError, own_state_dir
from punch.twistd import Console as PlainConsole
from punch.twistd import end, end_on_signals, fail, use_own_files
from punch.ui.console import Console, InputKind, Streams, occupy_standard_descriptors
from punch.ui.front_end import FrontEnd, Settings, Surroundings
from punch.ui.json_lines import JSONFrontEnd
from punch.ui.stdio import StdioFrontEnd
from punch.ui.terminal import KeyMode, columns
from punch.wire.control import Accept

PROGRAM = "punch-peer"

#: How long the last output may take to be read, once the links are closed, in seconds.
LAST_WORDS = 1.0

_started = time.monotonic()


def login_name(environ: Mapping[str, str]) -> str:
    """The user's login name, as a name for an identity; "peer" where there is none."""
    try:
        name = getpass.getuser()
    except (OSError, KeyError, ImportError):
        name = environ.get("USER", "")
    kept = "".join(character if character.isalnum() or character in "._-" else "-" for character in name)
    return kept.lstrip(".-")[:64] or "peer"


class Options(BaseOptions):
    """What `twistd punch-peer` takes."""

    plugin = PROGRAM
    longdesc = (
        "Waits for other peers to call, or with --peer calls one, connects directly through the NATs in "
        "between, and chats: every line of stdin is a message. Prints its own ID, which others call."
    )

    optFlags = [
        [
            "json",
            None,
            "Events as JSON lines on stdout, commands as JSON lines on stdin, for scripts; docs/json.md "
            "explains them. [default: a chat for people]",
        ]
    ]

    optParameters = [
        [
            "peer",
            None,
            None,
            "ID of the peer to call, as it printed it; upper case, spaces and dashes do not matter. "
            "[default: wait to be called]",
        ],
        [
            "rendezvous",
            None,
            None,
            "Address of the rendezvous, as it printed it: punch://host:port/PIN. [default: "
            "PUNCH_RENDEZVOUS of the environment, else the one used last, else your own on this machine]",
        ],
        [
            "name",
            None,
            None,
            "Name that the other side sees. It also chooses the identity: another name is another ID. "
            f"[default: your login name, {login_name(os.environ)}]",
        ],
        [
            "accept",
            None,
            "ask",
            "Who may connect besides those you called or accepted before: ask (you are asked about "
            "each), known (nobody else) or anyone.",
        ],
        [
            "relay",
            None,
            "auto",
            "Whether a relay may carry links: auto (while there is no direct path), never, or only (always: "
            "the other side does not learn your addresses).",
        ],
        [
            "state-dir",
            None,
            None,
            f"Directory for keys, known peers and logs. [default: {own_state_dir(os.environ)}]",
        ],
    ]

    def postOptions(self) -> None:
        """Check what was given, and take the identity: what fails here needs no reactor and no log."""
        occupy_standard_descriptors()
        if self["name"] is None:
            self["name"] = login_name(os.environ)
        if self["state-dir"] == "":
            self.fail("usage", "--state-dir is empty: name a directory.")
        try:
            self.state = StateDirectory(Path(self["state-dir"] or own_state_dir(os.environ)))
        except StateError as error:
            self.fail("state", str(error))
        try:
            self.accept = Accept(self["accept"].strip().lower())
        except ValueError:
            self.fail("usage", f"--accept takes ask, known or anyone, not {self['accept']!a}.")
        try:
            self.relay = RelayPolicy(self["relay"].strip().lower())
        except ValueError:
            self.fail("usage", f"--relay takes auto, never or only, not {self['relay']!a}.")
        self.target = self._target()
        try:
            self.rendezvous = choose_rendezvous(self["rendezvous"], self.state, self["name"], os.environ)
        except NoRendezvous as error:
            self.fail(error.reason, str(error))
        try:
            self.peer = self.state.peer(self["name"])
            make_private_directory(self.peer.directory)
            # The log names peers: it is for its owner, from the first line on.
            os.close(os.open(self.peer.log_path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600))
        except StateError as error:
            self.fail("state", str(error))
        except OSError as error:
            self.fail(
                "state",
                f"The state directory {self.state.root} can't be written: {error.strerror or error}. "
                "Choose another directory with --state-dir.",
            )
        use_own_files(self, self.peer.directory, self.peer.log_path)

    def fail(self, reason: str, sentence: str) -> NoReturn:
        """End with a sentence on stderr, and as an event with `--json`."""
        fail(PROGRAM, sentence, reason=reason, as_json=bool(self["json"]))

    def _target(self) -> PeerID | None:
        if self["peer"] is None:
            return None
        try:
            return PeerID.parse(self["peer"])
        except PeerIDError as error:
            self.fail("bad-peer-id", str(error))


class PeerService(Service):
    """A peer with its front end, from start to last words."""

    _log = Logger()

    def __init__(self, options: Options, reactor: Any) -> None:
        self._reactor = reactor
        self._state: PeerState = options.peer
        self._json = bool(options["json"])
        self._rendezvous = options.rendezvous
        self._sentence: str | None = None
        self._console: Console | None = None
        self._keys: KeyMode | None = None
        try:
            identity = self._state.identity()
            self._lock: Lock = self._state.lock()
            known = self._state.known
        except StateError as error:
            options.fail("state", str(error))
        if options.target == identity.peer_id:
            options.fail(
                "self", "This is your own ID: give --peer the ID that the other side's punch-peer prints."
            )
        settings = Settings(identity.peer_id, options["name"], options.target)
        surroundings = Surroundings(reactor, self._finish)
        self.front_end: FrontEnd
        if self._json:
            self.front_end = JSONFrontEnd(settings, surroundings, lambda: time.monotonic() - _started)
        else:
            self.front_end = StdioFrontEnd(settings, surroundings)
        # Not earlier: it takes long to load, and an interrupt is quiet only since the options were read.
        from punch.peer.node import Node

        self.node = Node(
            reactor=reactor,
            identity=identity,
            name=options["name"],
            accept=options.accept,
            known=known,
            rendezvous=options.rendezvous,
            on_event=self._event,
            relay=options.relay,
        )

    def startService(self) -> None:
        super().startService()  # type: ignore[no-untyped-call]
        streams = Streams.of_this_process()
        front_end = self.front_end
        self._console = Console(
            self._reactor,
            streams,
            front_end.input_received,
            front_end.input_over,
            front_end.output_lost,
        )
        terminal = streams.output_is_terminal
        front_end.attach(self.node, self._console, streams.input_kind, terminal)
        if isinstance(front_end, StdioFrontEnd) and terminal and streams.input_kind is InputKind.TERMINAL:
            self._edit_lines(front_end, streams)
        self.node.startService()

    def _edit_lines(self, front_end: StdioFrontEnd, streams: Streams) -> None:
        if not KeyMode.possible(os.environ):
            return
        keys = KeyMode(streams.stdin, lambda: self._reactor.callFromThread(front_end.redraw))
        if keys.start():
            self._keys = keys
            atexit.register(keys.end)
            front_end.edit_lines(lambda: columns(streams.stdout))

    def stopService(self) -> Deferred[Any]:
        """Tell the other sides goodbye, let the last output out, give everything back."""
        super().stopService()  # type: ignore[no-untyped-call]
        self.front_end.stopped()
        if self._keys is not None:
            # First of all: a second signal ends the process at once.
            self._keys.end()
        return DeferredList([_as_deferred(self.node.stopService())]).addBoth(self._last_words)

    def _last_words(self, _: object) -> Deferred[None]:
        console = self._console
        assert console is not None
        if isinstance(self.front_end, StdioFrontEnd):
            self.front_end.close()
        done: Deferred[None] = console.written()
        done.addTimeout(LAST_WORDS, self._reactor)
        return done.addBoth(self._give_back)

    def _give_back(self, _: object) -> None:
        assert self._console is not None
        self._console.restore()
        self._lock.release()
        if self._sentence is not None:
            stderr = PlainConsole(2)
            stderr.line(self._sentence)
            stderr.close()

    def _event(self, event: Event) -> None:
        if isinstance(event, Registered):
            try:
                self._state.remember_rendezvous(str(self._rendezvous))
            except StateError as error:
                self._log.warn("{error}", error=error)
        self.front_end.handle(event)

    def _finish(self, status: int, sentence: str | None) -> None:
        self._sentence = sentence
        if sentence is not None:
            self._log.error("{sentence}", sentence=sentence)
        end(self._reactor, status)


def _as_deferred(value: object) -> Deferred[Any]:
    if isinstance(value, Deferred):
        return value
    done: Deferred[Any] = Deferred()
    done.callback(value)
    return done


def makeService(options: Options) -> IService:
    """What `twistd` runs."""
    from twisted.internet import reactor

    service = PeerService(options, reactor)
    end_on_signals(reactor)
    return service
