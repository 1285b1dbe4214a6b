"""
The `twistd` plugin `punch-peer`: options, and what a running peer is put together from.

This is a composition root: the one place where node, chat, front end, state directory and reactor meet.
"""

from __future__ import annotations

import punch.cli.interrupt  # noqa: F401 (before all that takes its time)

# isort: split
import getpass
import os
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from enum import Enum
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn, TypeVar

from twisted.application.service import IService, Service
from twisted.internet.defer import Deferred, maybeDeferred
from twisted.internet.error import CannotListenError
from twisted.logger import Logger

from punch.apps.chat import Chat, ChatError
from punch.apps.chat.events import PageServed
from punch.apps.chat.storage import ImmediateWorker, ThreadWorker, Worker
from punch.apps.chat.store import Store
from punch.cli.options import CommandOptions as BaseOptions
from punch.cli.options import NoRendezvous, choose_rendezvous, proxy_variable
from punch.cli.twistd import (
    OutputWriter,
    end,
    end_on_signals,
    fail,
    on_second_signal,
    set_exit_status,
    use_own_files,
)
from punch.identity import PeerID
from punch.lookup import UnknownPeer, find_peer
from punch.net.interfaces import source_address
from punch.net.reactor import install_resolver, use_monotonic_time
from punch.net.srv import ServiceResolver
from punch.node.causes import OtherCause, Reason
from punch.node.control.replacements import EXIT_STATUS, Replacements
from punch.node.events import (
    CallFailed,
    Event,
    Ready,
    Registered,
)
from punch.node.policy import RelayPolicy
from punch.state import Lock, PeerState, StateDirectory, StateError, own_state_dir
from punch.ui.console import Console, StartOptions, open_console
from punch.ui.front_end import FrontEndContext, Settings
from punch.ui.standard_streams import occupy_standard_descriptors
from punch.ui.terminal.escapes import Notice
from punch.wire.control import Accept

if TYPE_CHECKING:
    from punch.node.offer_freshness import OfferMemory
    from punch.ui.web.view import WebView

E = TypeVar("E", bound=Enum)

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

    plugin = "punch-peer"
    files = frozenset(("state-dir",))
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
        ],
        [
            "no-history",
            None,
            "Keep nothing of what is said on disk: what is not delivered when the process ends is lost. "
            "[default: messages are kept, see --retention]",
        ],
        [
            "web",
            None,
            "Also open the chat to a browser on this machine: prints the address to open. [default: no]",
        ],
    ]

    optParameters = [
        [
            "peer",
            None,
            None,
            "Whom to call: the ID that the other side printed (upper case, spaces and dashes do not matter), "
            "or a name from the address book. [default: wait to be called]",
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
            f"Directory for keys, address book, messages and logs. [default: {own_state_dir(os.environ)}]",
        ],
        [
            "retention",
            None,
            None,
            "How many days messages are kept from now on, or off: until they are erased. [default: as it was "
            "set last, at first off]",
        ],
        [
            "notify",
            None,
            "bell",
            "What tells you of messages and calls while you look elsewhere, in a terminal that reports its "
            "focus: bell, a notice by osc9 or osc777, whichever yours knows, or off.",
        ],
        [
            "web-port",
            None,
            "0",
            "Port of the page on 127.0.0.1; 0 is any that is free.",
        ],
    ]

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self["rendezvous"] = None

    def opt_rendezvous(self, address: str) -> None:
        """Address of the rendezvous, as it printed it: punch://host:port/PIN. May be given several \
times, or with commas, if the rendezvous is several servers. [default: PUNCH_RENDEZVOUS of the environment, \
else the one used last, else your own on this machine]"""
        self["rendezvous"] = address if self["rendezvous"] is None else f"{self['rendezvous']},{address}"

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
        self.accept = self._choice("accept", Accept)
        self.relay = self._choice("relay", RelayPolicy)
        self.notice = self._choice("notify", Notice)
        self.retention = self._retention()
        self.web_port = self._web_port()
        try:
            self.peer = self.state.peer(self["name"])
        except StateError as error:
            self.fail("state", str(error))
        self.target = self._target()
        try:
            self.rendezvous = choose_rendezvous(self["rendezvous"], self.state, self["name"], os.environ)
        except NoRendezvous as error:
            self.fail(error.reason, str(error))
        try:
            self.peer.prepare()
        except StateError as error:
            self.fail("state", str(error))
        use_own_files(
            self, self.peer.directory, self.peer.log_path, lambda sentence: self.fail("usage", sentence)
        )

    def fail(self, reason: str, sentence: str) -> NoReturn:
        """End with a sentence on stderr, and as an event with `--json`."""
        fail(self.command, sentence, reason=reason, as_json=bool(self["json"]))

    def _choice(self, option: str, kind: type[E]) -> E:
        """Return the member of `kind` that the user chose."""
        try:
            return kind(self[option].strip().lower())
        except ValueError:
            *others, last = (member.value for member in kind)
            self.fail("usage", f"--{option} takes {', '.join(others)} or {last}, not {self[option]!a}.")

    def _target(self) -> PeerID | None:
        if self["peer"] is None:
            return None
        try:
            return find_peer(self.peer.book, self["peer"])
        except StateError as error:
            self.fail("state", str(error))
        except UnknownPeer as error:
            self.fail("bad-peer-id", str(error))

    def _retention(self) -> Retention | None:
        text = self["retention"]
        if text is None:
            return None
        if text.strip().lower() in ("off", "never", "forever"):
            return Retention(None)
        try:
            days = float(text)
        except ValueError:
            days = 0.0
        if not 0 < days < 1_000_000:
            self.fail("usage", f"--retention takes a number of days, or off, not {text!a}.")
        return Retention(days)

    def _web_port(self) -> int:
        try:
            port = int(self["web-port"])
        except ValueError:
            port = -1
        if not 0 <= port < 65536:
            self.fail("usage", f"--web-port takes a port from 0 to 65535, not {self['web-port']!a}.")
        if self["web"]:
            try:
                import punch.ui.web.view  # noqa: F401
            except ImportError as error:
                from punch.extras import install_command_here

                self.fail(
                    "usage",
                    f"--web needs a package that is not there, {error.name}: {install_command_here('web')}",
                )
        return port


@dataclass(frozen=True)
class Retention:
    """For how many days messages are to be kept; None: until they are erased."""

    days: float | None


class PeerService(Service):
    """A peer with its chat and front end, from the start of the process to its end."""

    _log = Logger()

    def __init__(self, options: Options, reactor: Any) -> None:
        self._reactor = reactor
        self._options = options
        self._state: PeerState = options.peer
        self._rendezvous = options.rendezvous
        self._sentence: str | None = None
        self._console: Console | None = None
        self._chat: Chat | None = None
        self._web: WebView | None = None
        self._url: str | None = None
        self._history = not options["no-history"]
        try:
            identity = self._state.identity()
            self._lock: Lock = self._state.lock()
            self._book = self._state.book
            self._name = self._state.display_name
            # Only to see that it can be used: a daemon will be another process.
            Store(self._history_path).close()
        except (StateError, ChatError) as error:
            options.fail("state", str(error))
        if options.target == identity.peer_id:
            options.fail(
                "self", "This is your own ID: give --peer the ID that the other side's Punch prints."
            )
        self._identity = identity
        self._replacements = Replacements(self._state, reactor, lambda: self.node.startService(), self._event)
        # Not earlier: it takes long to load, and an interrupt is quiet only since the options were read.
        from punch.node.node import Node

        self.node = Node(
            reactor=reactor,
            identity=identity,
            name=self._name,
            accept=options.accept,
            known=self._book,
            rendezvous=options.rendezvous,
            offers=self._remembered_offers(),
            source=source_address,
            proxy=proxy_variable(os.environ),
            waiting=lambda: self._chat is not None and self._chat.calls.await_rendezvous,
            look_up_service=ServiceResolver(reactor),
            relay=options.relay,
        )
        self.node.subscribe(self._event, lambda: self._chat is not None and self._chat.views.can_answer)

    def _remembered_offers(self) -> OfferMemory:
        from punch.node.offer_freshness import OfferMemory, read_offers

        try:
            content = self._state.read_offers()
        except StateError as error:
            self._log.warn("{error}", error=error)
            content = b""
        kept = read_offers(content, time.time(), new=self._state.new)
        if content is None:
            self._save_offers(kept.encode())
        return OfferMemory(kept, os.urandom, self._save_offers)

    def _save_offers(self, content: bytes) -> bool:
        try:
            self._state.write_offers(content)
        except StateError as error:
            # Callers are asked then, which takes a round trip.
            self._log.warn("{error}", error=error)
            return False
        return True

    @property
    def _history_path(self) -> Path | None:
        return self._state.history_path if self._history else None

    def startService(self) -> None:
        super().startService()  # type: ignore[no-untyped-call]
        options = self._options
        try:
            chat = self._chat = self._make_chat()
        except ChatError as error:
            self._finish(1, str(error))
            return
        console = self._console = open_console(
            self._reactor,
            StartOptions(
                Settings(self._identity.peer_id, self._name, options.target, self._history, options.notice),
                FrontEndContext(self._reactor, self._finish),
                os.environ,
                lambda: time.monotonic() - _started,
                bool(options["json"]),
                self._state.typed_lines_path if self._history else None,
            ),
            chat,
        )
        on_second_signal(console.restore)
        if options["web"] and not self._open_web(chat, console):
            return
        chat.start().addCallbacks(self._started, self._cannot_start)

    def _make_chat(self) -> Chat:
        store = Store(self._history_path)
        worker: Worker = ThreadWorker(self._reactor, store) if self._history else ImmediateWorker(store)
        return Chat(
            me=self._identity.peer_id,
            name=self._name,
            node=self.node,
            book=self._book,
            worker=worker,
            clock=self._reactor,
            wall=time.time,
            random=os.urandom,
            save_name=self._save_name,
            keeps_history=self._history,
        )

    def _save_name(self, name: str) -> None:
        try:
            self._state.remember_display_name(name)
        except StateError as error:
            raise ChatError("state", str(error)) from error

    def _open_web(self, chat: Chat, console: Console) -> bool:
        from punch.ui.web.view import WebView

        self._web = web = WebView(
            chat,
            reactor=self._reactor,
            pairs=self.node.pairs,
            quit=console.front_end.view.exit.leave,
            random=os.urandom,
            wall=time.time,
        )
        try:
            url = self._start_web(web)
        except CannotListenError as error:
            self._web = None
            self._finish(
                1, f"The page can't be served: {error.socketError}. Choose another port with --web-port."
            )
            return False
        self._url = url
        return True

    def _start_web(self, web: WebView) -> str:
        """At the port of last time if none was chosen: a browser keeps drafts for a port."""
        port = self._options.web_port
        last = self._state.last_web_port if port == 0 else None
        try:
            url = web.start(port if last is None else last)
        except CannotListenError:
            if last is None:
                raise
            url = web.start(0)
        try:
            self._state.remember_web_port(web.server.port)
        except StateError as error:
            self._log.warn("{error}", error=error)
        return url

    def _started(self, _: object) -> None:
        assert self._chat is not None
        if self._options.retention is not None:
            self._chat.history.set_retention(self._options.retention.days).addErrback(self._cannot_start)
        if self.running and self._console is not None:
            self._replacements.start(waits=not self._console.front_end.view.watched)

    def _cannot_start(self, failure: Any) -> None:
        self._log.failure("the history could not be used", failure)
        self._event(CallFailed(None, OtherCause(Reason.STATE.value, failure.getErrorMessage())))

    def stopService(self) -> Deferred[Any]:
        """Restore the terminal, close the links in good order, then wait until all output is written."""
        super().stopService()  # type: ignore[no-untyped-call]
        return Deferred.fromCoroutine(self._end())

    async def _end(self) -> None:
        console, web, chat = self._console, self._web, self._chat
        self._replacements.stop()
        steps: list[Callable[[], object]] = [
            # First of all the terminal: a second signal ends the process at once.
            *([] if console is None else [console.close]),
            self.node.stopService,
            *([] if web is None else [web.stop]),
            *([] if chat is None else [chat.stop]),
            lambda: self._book.close(time.sleep),
            *([] if console is None else [console.drain]),
        ]
        for step in steps:
            try:
                await maybeDeferred(step)
            except Exception:  # the other steps are taken all the same
                self._log.failure("the end was not in good order")
        self._lock.release()
        if self._sentence is None and console is not None:
            # If a signal ends the process, the sentence is printed, too; the signal is its exit status
            self._sentence = console.front_end.view.exit.unsent()
        if self._sentence is not None:
            stderr = OutputWriter(2)
            stderr.line(self._sentence)
            stderr.close()

    def _event(self, event: Event) -> None:
        try:
            if isinstance(event, Registered):
                self._state.remember_rendezvous(",".join(map(str, self._rendezvous)))
            if self._replacements.handle(event):
                set_exit_status(EXIT_STATUS)
        except StateError as error:
            self._log.warn("{error}", error=error)
        assert self._chat is not None
        self._chat.handle(event)
        if isinstance(event, Ready) and self._url is not None:
            self._chat.views.tell(PageServed(self._url))

    def _finish(self, status: int, sentence: str | None) -> None:
        self._sentence = sentence
        if sentence is not None:
            self._log.error("{sentence}", sentence=sentence)
        end(self._reactor, status)


def makeService(options: Options) -> IService:
    """What `twistd` runs."""
    from twisted.internet import reactor

    use_monotonic_time(reactor)
    install_resolver(reactor)
    service = PeerService(options, reactor)
    words = "" if options["json"] else "The peer has stopped."
    end_on_signals(reactor, final_line=words)
    return service
