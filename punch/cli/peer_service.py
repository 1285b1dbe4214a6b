"""
Puts a running peer together.

This is a composition root: the one place where node, chat, front end, state directory and reactor meet.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from twisted.application.service import Service
from twisted.internet.defer import Deferred, maybeDeferred
from twisted.internet.error import CannotListenError
from twisted.internet.threads import deferToThreadPool
from twisted.logger import Logger

from punch.apps.chat import Chat, ChatError
from punch.apps.chat.codes import ContactCodes
from punch.apps.chat.events import PageServed
from punch.apps.chat.model import ChatProblem
from punch.apps.chat.storage import ImmediateWorker, ThreadWorker, Worker
from punch.apps.chat.store import Store
from punch.apps.codes.code import Card
from punch.apps.files.messages import SERVICE as FILES
from punch.apps.files.transfers import Transfers
from punch.cli.twistd import OutputWriter, end, on_second_signal, set_exit_status
from punch.identity import Identity
from punch.link.services import anyone
from punch.local.own import OwnNode
from punch.local.process import KeptPrekeys, gateways_by, remembered_offers
from punch.local.server import LocalServer
from punch.local.socket_file import SocketError, socket_sentence
from punch.net.interfaces import source_address
from punch.net.srv import ServiceResolver
from punch.net.upnp import upnp_of_machine
from punch.node.causes import OtherCause, Reason
from punch.node.control.replacements import EXIT_STATUS, Replacements
from punch.node.events import CallFailed, Event, Ready, Registered
from punch.node.listeners import load_at_first_call
from punch.node.node import Node
from punch.sentences import sentence_of
from punch.state import PeerState
from punch.state_files import Lock, StateError
from punch.ui.command import Applications
from punch.ui.console import Console, open_console
from punch.ui.desktop import download_folder, folder_opener
from punch.ui.front_end import FrontEndContext, Settings, StartOptions
from punch.ui.json.commands import perform_for_program
from punch.ui.text.causes import event_sentence
from punch.ui.text.chat import chat_error_sentence

if TYPE_CHECKING:
    from punch.apps.codes.exchange import Issuer, Redeemer
    from punch.cli.peer_tap import Options
    from punch.ui.web.view import WebView


T = TypeVar("T")


class PeerService(Service):
    """
    A peer with its chat and front end, from the start of the process to its end.

    :param uptime: the seconds since the process started.
    """

    _log = Logger()

    def __init__(self, options: Options, reactor: Any, uptime: Callable[[], float]) -> None:
        self._reactor = reactor
        self._options = options
        self._uptime = uptime
        self._state: PeerState = options.peer
        self._rendezvous = options.rendezvous
        self._sentence: str | None = None
        self._console: Console | None = None
        self._chat: Chat | None = None
        self._codes: ContactCodes | None = None
        self._transfers: Transfers | None = None
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
        except StateError as error:
            options.fail("state", sentence_of(error))
        except ChatError as error:
            options.fail("state", chat_error_sentence(error))
        if options.target == identity.peer_id:
            options.fail(
                "self", "This is your own ID: give --peer the ID that the other side's Punch prints."
            )
        self._identity = identity
        self._replacements = Replacements(
            self._state, reactor, lambda: self.node.startService(), self._event, sentence_of
        )
        self.node = Node(
            reactor=reactor,
            identity=identity,
            name=self._name,
            accept=options.accept,
            known=self._book,
            sentence=sentence_of,
            rendezvous=options.rendezvous,
            offers=remembered_offers(self._state),
            source=source_address,
            gateways=gateways_by(options.port_mapping),
            upnp=upnp_of_machine(reactor),
            proxy=options.proxy,
            waiting=lambda: self._chat is not None and self._chat.calls.await_rendezvous,
            look_up_service=ServiceResolver(reactor),
            relay=options.relay,
            prekeys=KeptPrekeys(self._state),
            spray=options.spray,
        )
        load_at_first_call(self.node)
        self.node.subscribe(self._event, lambda: self._chat is not None and self._chat.views.can_answer)
        self._local: LocalServer | None = None

    @property
    def _history_path(self) -> Path | None:
        return self._state.history_path if self._history else None

    def startService(self) -> None:
        super().startService()  # type: ignore[no-untyped-call]
        options = self._options
        try:
            chat = self._chat = self._make_chat()
            own = self._make_own_node(chat)
        except ChatError as error:
            self._finish(1, chat_error_sentence(error))
            return
        console = self._console = open_console(
            self._reactor,
            StartOptions(
                Settings(self._identity.peer_id, self._name, options.target, self._history, options.notice),
                FrontEndContext(self._reactor, self._finish, applications=self._make_applications(chat, own)),
                os.environ,
                self._uptime,
                bool(options["json"]),
                self._state.typed_lines_path if self._history else None,
            ),
            chat,
        )
        on_second_signal(console.restore)
        if self._transfers is not None and (options["web"] or console.front_end.view.watched):
            # A user can be asked about offers. While punch receive runs, it gets the offers, not this process
            own.serve_by_default(FILES, self._transfers.service, anyone)
        if options["web"] and not self._open_web(chat, console):
            return
        self._open_socket(own, console)
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

    def _make_own_node(self, chat: Chat) -> OwnNode:
        return OwnNode(
            self.node,
            book=self._book,
            clock=self._reactor,
            rendezvous=self._rendezvous,
            name=lambda: chat.name,
            sentence=event_sentence,
        )

    def _make_applications(self, chat: Chat, own: OwnNode) -> Applications:
        transfers = self._transfers = Transfers(
            own,
            granted=lambda peer: self._book.granted(peer, FILES),
            blocked=self._book.blocked,
            opening=chat.calls.expect_automatic,
            folder=self._options.downloads or download_folder(os.environ),
            run=self._in_thread,
            clock=self._reactor,
            tell=chat.views.tell,
        )
        return Applications(
            self._make_codes(chat), transfers, folder_opener(self._reactor, os.environ), own.status
        )

    def _in_thread(self, call: Callable[[], T], /) -> Deferred[T]:
        return deferToThreadPool(self._reactor, self._reactor.getThreadPool(), call)

    def _make_codes(self, chat: Chat) -> ContactCodes:
        codes = self._codes = ContactCodes(
            identity=self._identity,
            own_name=lambda: chat.name,
            contacts=chat.contacts,
            views=chat.views,
            meet=self._meet,
            where=", ".join(address.location for address in self._rendezvous),
            now=self._reactor.seconds,
            random=os.urandom,
        )
        return codes

    def _meet(
        self, core: Issuer | Redeemer, key: Identity, on_registered: Callable[[], object]
    ) -> Deferred[Card]:
        from punch.apps.codes.client import CodeClient

        return CodeClient(
            core,
            key,
            reactor=self._reactor,
            rendezvous=self._rendezvous,
            member=self._identity,
            on_registered=on_registered,
            monotonic=self._reactor.seconds,
            proxy=self._options.proxy,
            look_up_service=ServiceResolver(self._reactor),
        ).run()

    def _save_name(self, name: str) -> None:
        try:
            self._state.remember_display_name(name)
        except StateError as error:
            raise ChatError(ChatProblem.NAME_NOT_KEPT, cause=error) from error

    def _open_web(self, chat: Chat, console: Console) -> bool:
        from punch.ui.web.uploads import Uploads
        from punch.ui.web.view import WebView

        self._web = web = WebView(
            chat,
            reactor=self._reactor,
            pairs=self.node.pairs,
            commands=console.front_end.view.commands,
            uploads=Uploads(self._state.directory / "uploads", self._in_thread, self._reactor, os.urandom),
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
        """
        Serve the page. If no port was chosen, use the port of last time, because a browser keeps drafts by
        port.
        """
        port = self._options.web_port
        last: int | None = None
        try:
            last = self._state.last_web_port if port == 0 else None
        except StateError as error:
            self._log.warn("{error}", error=sentence_of(error))
        try:
            url = web.start(port if last is None else last)
        except CannotListenError:
            if last is None:
                raise
            url = web.start(0)
        try:
            self._state.remember_web_port(web.server.port)
        except StateError as error:
            self._log.warn("{error}", error=sentence_of(error))
        return url

    def _open_socket(self, own: OwnNode, console: Console) -> None:
        """Let other programs of the user share the node."""
        commands = partial(perform_for_program, console.front_end.view.commands)
        self._local = LocalServer(own, self._reactor, commands)
        self._local.listen(self._state.directory, os.environ).addErrback(self._no_socket)

    def _no_socket(self, failure: Any) -> None:
        # The peer itself works without it
        error = failure.value
        why = socket_sentence(error) if isinstance(error, SocketError) else error
        self._log.warn("Other programs can't share the node: {error}", error=why)

    def _started(self, _: object) -> None:
        assert self._chat is not None
        if self._options.retention is not None:
            self._chat.history.set_retention(self._options.retention.days).addErrback(self._cannot_start)
        if self.running and self._console is not None:
            try:
                self._replacements.start(waits=not self._console.front_end.view.watched)
            except StateError as error:
                self._finish(1, sentence_of(error))

    def _cannot_start(self, failure: Any) -> None:
        error = failure.value
        sentence = chat_error_sentence(error) if isinstance(error, ChatError) else failure.getErrorMessage()
        self._log.failure("the history could not be used: {sentence}", failure, sentence=sentence)
        self._event(CallFailed(None, OtherCause(Reason.STATE.value, sentence)))

    def stopService(self) -> Deferred[Any]:
        """Restore the terminal, close the links in good order, then wait until all output is written."""
        super().stopService()  # type: ignore[no-untyped-call]
        return Deferred.fromCoroutine(self._end())

    async def _end(self) -> None:
        console, web, chat = self._console, self._web, self._chat
        self._replacements.stop()
        steps: list[Callable[[], object]] = [
            # The terminal first, because a second signal ends the process at once.
            *([] if console is None else [console.close]),
            *([] if self._local is None else [self._local.stop]),
            *([] if self._codes is None else [self._codes.stop]),
            *([] if self._transfers is None else [self._transfers.stop]),
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
            self._log.warn("{error}", error=sentence_of(error))
        assert self._chat is not None
        self._chat.handle(event)
        if isinstance(event, Ready) and self._url is not None:
            self._chat.views.tell(PageServed(self._url))

    def _finish(self, status: int, sentence: str | None) -> None:
        self._sentence = sentence
        if sentence is not None:
            self._log.error("{sentence}", sentence=sentence)
        end(self._reactor, status)
