"""
The view of the chat in browsers: it sends all events to every open page, and passes their commands to the
chat.

A page first gets a snapshot of the chat, and then the events that follow. So a page that was reloaded, or a
second one, shows the same as the first.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from typing import Any

import segno
from twisted.internet.defer import Deferred, succeed
from twisted.internet.interfaces import IReactorTime
from twisted.logger import Logger

from punch import __version__
from punch.apps.chat import MAX_TEXT, Chat
from punch.apps.chat import events as chat_events
from punch.ice.checklist import PairStatus
from punch.identity import PeerID
from punch.net.driver import Timer
from punch.node import events as peer_events
from punch.ui import file_commands
from punch.ui.command import Answer, CommandContext, CommandRefused, FieldKind, Fields
from punch.ui.commands import COMMANDS, perform
from punch.ui.json.events import (
    code_fields,
    contact_fields,
    conversation_fields,
    path_text,
    render,
    status_fields,
    transfer_list,
)
from punch.ui.text.chat import chat_error_sentence
from punch.ui.web.admission import BrowserAdmission
from punch.ui.web.connections import PageConnection
from punch.ui.web.server import WebServer
from punch.ui.web.socket import PageSocket
from punch.ui.web.uploads import UploadError, Uploads

#: Seconds between two updates of the candidate pairs while a page is open.
PAIRS_INTERVAL = 0.25

#: The most peers for which it is remembered when their history was erased. With more, only the latest time
#: is kept, for all peers: pages then erase all drafts that are older.
MAX_ERASED = 1000

#: Seconds for which a closed page counts as being reloaded, so that questions go on waiting for it.
RELOAD = 15.0

JSON = dict[str, Any]

_WATCHED = (peer_events.Calling, peer_events.Introduced, peer_events.Checking, peer_events.Connected)


class WebView:
    """
    All open pages.

    :param pairs: `Node.pairs`.
    :param commands: the context in which the pages' commands are done.
    :param uploads: receives the files that pages send; None: none is received.
    :param random: returns the given number of random bytes, for tickets.
    :param wall: returns the seconds since 1970.
    """

    _log = Logger()

    def __init__(
        self,
        chat: Chat,
        *,
        reactor: Any,
        pairs: Callable[[PeerID], Sequence[PairStatus]],
        commands: CommandContext,
        uploads: Uploads | None = None,
        random: Callable[[int], bytes],
        wall: Callable[[], float] = time.time,
    ) -> None:
        self._chat = chat
        self._clock: IReactorTime = reactor
        self._pairs = pairs
        self._wall = wall
        self._applications = commands.applications
        self._commands = PageCommands(commands, uploads)
        self._uploads = uploads
        self._pages: dict[PageSocket, None] = {}
        self._left_at: float | None = None
        self._pairs_timer = Timer(reactor)
        self._watched: dict[PeerID, list[JSON]] = {}
        self._erased: dict[str, float] = {}
        self.server = WebServer(reactor, BrowserAdmission(random), self.page, uploads)

    # -- start and stop --

    def start(self, port: int) -> str:
        """
        Listen for browsers, and subscribe to the events of the chat.

        :param port: the TCP port; 0 for any that is free.
        :return: an address that admits one browser.
        :raise CannotListenError: that port is taken.
        """
        self.server.listen(port)
        self._chat.views.attach(self)
        self._chat.new_page = self.server.new_url
        return self.server.new_url()

    def stop(self) -> Any:
        """Close all pages. The Deferred fires when the port is free."""
        self._chat.views.detach(self)
        self._chat.new_page = None
        self._pairs_timer.cancel()
        if self._uploads is not None:
            self._uploads.stop()
        return self.server.stop()

    def page(self, connection: PageConnection) -> PageSocket:
        """Make the WebSocket of a page that was opened."""
        return PageSocket(
            connection,
            self._clock,
            perform=self._commands.perform,
            joined=self._joined,
            left=self._page_left,
        )

    # -- events of the chat (View) --

    @property
    def can_answer(self) -> bool:
        """Whether a page is open, or was closed less than `RELOAD` seconds ago."""
        if self._pages:
            return True
        return self._left_at is not None and self._clock.seconds() - self._left_at < RELOAD

    def handle(self, event: chat_events.Event) -> Deferred[None] | None:
        """
        Send the event to all open pages.

        It returns None also if no page is open: messages are in the history, which later pages load.
        """
        if isinstance(event, _WATCHED):
            self._watched.setdefault(event.peer, [])
        event_fields = render(event, self._chat)
        if event_fields is None:
            return None
        if isinstance(event, chat_events.HistoryErased) and event.before is None:
            self._remember_erased(event.peer)
        if isinstance(event, chat_events.CodeMade):
            event_fields["qr"] = qr_code(event.code)
        self._tell_all(event_fields)
        peer = getattr(event, "peer", None)
        if peer in self._watched and isinstance(event, peer_events.Event):
            # The page shows the stage of a call together with its candidate pairs.
            self._update_pairs_of(peer)
        return None

    def _remember_erased(self, peer: PeerID | None) -> None:
        """Remember when a history was erased, so that pages which open later erase their drafts."""
        if peer is None or len(self._erased) >= MAX_ERASED:
            self._erased.clear()
            peer = None
        self._erased["" if peer is None else str(peer)] = self._wall()

    # -- what pages do --

    def _joined(self, page: PageSocket) -> None:
        """A page was opened: send it a snapshot."""
        self._pages[page] = None
        self._update_pairs_later()
        Deferred.fromCoroutine(self._start(page)).addErrback(lambda failure: self._no_snapshot(failure, page))

    def _page_left(self, page: PageSocket) -> None:
        """A page was closed."""
        if self._pages.pop(page, page) is None:
            self._left_at = self._clock.seconds()

    async def _start(self, page: PageSocket) -> None:
        chat, applications = self._chat, self._applications
        codes, transfers = applications.codes, applications.transfers
        retention = await chat.history.retention()
        conversations = await chat.history.conversations()
        # Nothing is awaited from here on, so no event can come in between: the snapshot includes all events
        # until now, and all later ones are sent.
        trouble = chat.storage.trouble
        page.start(
            {
                "event": "snapshot",
                "id": str(chat.me),
                "name": chat.name,
                "version": __version__,
                "qr": qr_code(str(chat.me)),
                "longest": MAX_TEXT,
                "status": status_fields(chat.status()),
                "registration": render(chat.registration, chat),
                "questions": [str(peer) for peer in chat.questions],
                "pairs": {str(peer): pairs for peer, pairs in self._watched.items() if pairs},
                "conversations": [conversation_fields(each) for each in conversations],
                "peers": [contact_fields(contact) for contact in chat.contacts.all()],
                "retention": retention,
                "history_failed": None if trouble is None else chat_error_sentence(trouble),
                "keeps_history": chat.keeps_history,
                "erased": self._erased,
                "transfers": transfer_list(transfers, chat),
                "downloads": None if transfers is None else path_text(transfers.folder),
                "opens_folders": applications.open_folder is not None,
                "code": _waiting_code(None if codes is None else codes.made),
            }
        )

    def _no_snapshot(self, failure: Any, page: PageSocket) -> None:
        self._log.failure("A page could not be sent its snapshot", failure)
        page.close()

    def _tell_all(self, event: JSON) -> None:
        for page in list(self._pages):
            page.tell(event)

    # -- candidate pairs --

    def _update_pairs_later(self) -> None:
        if not self._pairs_timer.running:
            self._pairs_timer.start(PAIRS_INTERVAL, self._update_pairs)

    def _update_pairs(self) -> None:
        if self._pages:
            for peer in list(self._watched):
                self._update_pairs_of(peer)
            self._update_pairs_later()

    def _update_pairs_of(self, peer: PeerID) -> None:
        pairs = [_pair_fields(pair) for pair in self._pairs(peer)]
        if pairs != self._watched[peer]:
            self._watched[peer] = pairs
            self._tell_all({"event": "pairs", "peer": str(peer), "pairs": pairs})
        if not pairs and peer not in self._chat.links and peer not in self._chat.calling:
            del self._watched[peer]


def _pair_fields(pair: PairStatus) -> JSON:
    return {
        "local": str(pair.local),
        "local_kind": pair.local_kind.value,
        "seen_as": None if pair.seen_as is None else str(pair.seen_as),
        "remote": str(pair.remote),
        "remote_kind": pair.remote_kind.value,
        "state": pair.state,
        "selected": pair.selected,
        "rtt": None if pair.rtt is None else round(pair.rtt, 3),
    }


def _waiting_code(made: chat_events.CodeMade | None) -> JSON | None:
    return None if made is None else {**code_fields(made), "qr": qr_code(made.code)}


def qr_code(text: str) -> JSON:
    """
    Make a QR code, for a page to draw.

    :param text: an ID, or a code. It is encoded in upper case, which makes the QR code smaller; both are
        read without regard to case.
    :return: `size`, the number of modules along each side, without the quiet zone; and `path`, the dark
        modules as an SVG path.
    """
    rows = [bytes(row) for row in segno.make_qr(text.upper(), error="m").matrix]
    path = []
    for y, row in enumerate(rows):
        x = 0
        while x < len(row):
            if not row[x]:
                x += 1
                continue
            end = x
            while end < len(row) and row[end]:
                end += 1
            path.append(f"M{x} {y}h{end - x}v1h-{end - x}z")
            x = end
    return {"size": len(rows), "path": "".join(path)}


class PageCommands:
    """
    Does the commands of pages.

    A page can't name files of this machine. It sends the content of files to this process (`upload`), and
    then names the peer to which they go (`send-files` with the field `upload`).
    """

    def __init__(self, context: CommandContext, uploads: Uploads | None) -> None:
        self._context = context
        self._uploads = uploads

    def perform(self, name: object, fields: Fields) -> Deferred[Answer | None]:
        """
        Do a command, as `punch.ui.commands.perform` does; also `upload` and `discard-upload`, which only
        pages have.
        """
        try:
            if name == "upload":
                return succeed(self._begin(fields))
            if name == "discard-upload":
                self._require_uploads().discard(_upload(fields))
                return succeed(None)
            if name == "send-files":
                return self._send(fields)
        except UploadError as error:
            raise CommandRefused(error.reason, str(error)) from None
        if isinstance(name, str) and name in COMMANDS:
            for field in COMMANDS[name].fields:
                if field.name in fields and field.kind in (FieldKind.FILE, FieldKind.FILES):
                    raise CommandRefused(
                        "malformed", f'A page names no files of this machine: leave out "{field.name}".'
                    )
        return perform(self._context, name, fields)

    def _require_uploads(self) -> Uploads:
        if self._uploads is None:
            raise CommandRefused("no-transfers", "This page takes no files.")
        return self._uploads

    def _begin(self, fields: Fields) -> Answer:
        size, files = fields.get("size"), fields.get("files")
        for value in (size, files):
            if not isinstance(value, int) or isinstance(value, bool) or not 0 <= value < 2**53:
                raise CommandRefused("malformed", 'An upload needs "size", in bytes, and "files", how many.')
        assert isinstance(size, int)
        assert isinstance(files, int)
        return {"upload": self._require_uploads().begin(size, files)}

    def _send(self, fields: Fields) -> Deferred[Answer | None]:
        peer, name = fields.get("peer"), _upload(fields)
        if not isinstance(peer, str):
            raise CommandRefused("malformed", 'The command needs a field "peer" with an ID or a name.')
        uploads = self._require_uploads()
        # The peer is looked up before the files are taken: after an error, the page can still send them.
        self._context.chat.contacts.find_reachable(peer)
        paths = uploads.take(name)
        return file_commands.send(self._context, peer, paths, lambda: uploads.remove(name))  # type: ignore[return-value]


def _upload(fields: Fields) -> str:
    name = fields.get("upload")
    if not isinstance(name, str) or not name.isalnum():
        raise CommandRefused(
            "malformed", 'The command needs a field "upload", as the command upload answers it.'
        )
    return name
