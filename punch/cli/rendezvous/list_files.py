"""The lists of peers in files, `--deny` and `--members`, which are read again on SIGHUP."""

from __future__ import annotations

from collections.abc import Callable, Sized
from typing import TYPE_CHECKING, Generic, TypeVar

from twisted.logger import Logger

from punch.rendezvous.members.lists import ListFileError

if TYPE_CHECKING:
    # The help of the command, which needs the options alone, does not wait for it
    from punch.rendezvous.control.sessions import ServiceReport

L = TypeVar("L", bound=Sized)

_log = Logger()


class ListFile(Generic[L]):
    """
    Reads a list again, and knows what is wrong with its file.

    :param event: the name of the event that tells that it was read (entries, ended); with `-failed` behind
        it, of the one that tells that it could not be (text).
    :param what: what people call the list.
    :param read: reads the file; raises `ListFileError`.
    :param use: has the service go by a list from now on, and returns how many peers it has ended.
    """

    def __init__(self, event: str, what: str, read: Callable[[], L], use: Callable[[L], int]) -> None:
        self._event = event
        self._what = what
        self._read = read
        self._use = use
        self._problem: str | None = None

    def read_again(self, report: ServiceReport, warn: Callable[[str], None]) -> None:
        """
        Use what the file holds now. If it has an error, the list before stays in use.

        :param warn: called with a sentence for the operator.
        """
        try:
            found = self._read()
        except ListFileError as problem:
            text = self._problem = f"{problem} The list that was read before stays."
            _log.error("{text}", text=text)
            report(f"{self._event}-failed", text=text)
            warn(text)
            return
        self._problem = None
        ended = self._use(found)
        _log.info(
            "{what} read: {entries} entries, {ended} peers ended",
            what=self._what,
            entries=len(found),
            ended=ended,
        )
        report(self._event, entries=len(found), ended=ended)

    def check(self) -> str | None:
        """What is wrong with the file, for `/healthz`."""
        return self._problem
