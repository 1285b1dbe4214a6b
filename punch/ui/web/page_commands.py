"""Commands of a page: those of all views, and what concerns the files that it sends to this process."""

from __future__ import annotations

from twisted.internet.defer import Deferred, succeed

from punch.apps.chat import ChatError
from punch.ui import file_commands
from punch.ui.command import Answer, CommandContext, FieldKind, Fields
from punch.ui.commands import COMMANDS, perform
from punch.ui.web.uploads import UploadError, Uploads


class PageCommands:
    """
    Does the commands of pages.

    A page names no paths of this machine: it sends what it has to this process (`upload`), and says to whom
    that goes (`send-files` with `upload`).
    """

    def __init__(self, context: CommandContext, uploads: Uploads | None) -> None:
        self._context = context
        self._uploads = uploads

    def perform(self, name: object, fields: Fields) -> Deferred[Answer | None]:
        """As `punch.ui.commands.perform`."""
        try:
            if name == "upload":
                return succeed(self._begin(fields))
            if name == "discard-upload":
                self._require_uploads().discard(_upload(fields))
                return succeed(None)
            if name == "send-files":
                return self._send(fields)
        except UploadError as error:
            raise ChatError(error.reason, str(error)) from None
        if isinstance(name, str) and name in COMMANDS:
            for field in COMMANDS[name].fields:
                if field.name in fields and field.kind in (FieldKind.FILE, FieldKind.FILES):
                    raise ChatError(
                        "malformed", f'A page names no files of this machine: leave out "{field.name}".'
                    )
        return perform(self._context, name, fields)

    def _require_uploads(self) -> Uploads:
        if self._uploads is None:
            raise ChatError("no-transfers", "This page takes no files.")
        return self._uploads

    def _begin(self, fields: Fields) -> Answer:
        size, files = fields.get("size"), fields.get("files")
        for value in (size, files):
            if not isinstance(value, int) or isinstance(value, bool) or not 0 <= value < 2**53:
                raise ChatError("malformed", 'An upload needs "size", in bytes, and "files", how many.')
        assert isinstance(size, int)
        assert isinstance(files, int)
        return {"upload": self._require_uploads().begin(size, files)}

    def _send(self, fields: Fields) -> Deferred[Answer | None]:
        peer, name = fields.get("peer"), _upload(fields)
        if not isinstance(peer, str):
            raise ChatError("malformed", 'The command needs a field "peer" with an ID or a name.')
        uploads = self._require_uploads()
        # Before they are taken: an error here leaves them to the page
        self._context.chat.contacts.find_reachable(peer)
        paths = uploads.take(name)
        return file_commands.send(self._context, peer, paths, lambda: uploads.remove(name))  # type: ignore[return-value]


def _upload(fields: Fields) -> str:
    name = fields.get("upload")
    if not isinstance(name, str) or not name.isalnum():
        raise ChatError("malformed", 'The command needs a field "upload", as the command upload answers it.')
    return name
