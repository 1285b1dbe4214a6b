"""What the rendezvous prints of its events, as text or JSON."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path

from twisted.logger import Logger

from punch.cli import twistd
from punch.files import replace_private
from punch.rendezvous.members.lists import ListFileError, read_deny_list
from punch.rendezvous.service import RendezvousService
from punch.state import RendezvousState, StateError

_log = Logger()


class Announcer:
    """
    Prints the events of the service, as text or JSON.

    :param command: what the user calls this program by.
    :param out: writes to stdout, as `error` does to stderr. Both are closed by `close`.
    :param end: ends the process with an exit status.
    :param host_given: whether the user has given the name by which peers find the service.
    """

    service: RendezvousService

    def __init__(
        self,
        state: RendezvousState,
        *,
        command: str,
        out: twistd.OutputWriter,
        error: twistd.OutputWriter,
        end: Callable[[int], object],
        as_json: bool,
        host_given: bool,
    ) -> None:
        self._state = state
        self._command = command
        self._out = out
        self._error = error
        self._end = end
        self._json = as_json
        self._host_given = host_given
        self._start = time.monotonic()

    def __call__(self, event: str, **fields: object) -> None:
        """Print one event of the service."""
        if event == "listening":
            self._leave_address(str(fields["address"]))
        elif event == "certificate" and self.service.address is not None:
            # Peers on this machine check the key of the certificate.
            self._leave_address(str(self.service.address))
        if self._json:
            elapsed = round(time.monotonic() - self._start, 6)
            self._out.event({"event": event, "time": elapsed, **fields})
        else:
            self._print(event, fields)
        if event == "failed":
            self.write_stderr(str(fields["text"]))
            self._end(1)

    def read_deny_list(self, path: Path) -> None:
        """Read the deny list again. If it has an error, the previous list stays in use."""
        try:
            deny = read_deny_list(path)
        except ListFileError as problem:
            text = f"{problem} The list that was read before stays."
            _log.error("{text}", text=text)
            self("deny-list-failed", text=text)
            self.write_stderr(text)
            return
        ended = self.service.deny(deny)
        _log.info("deny list read: {entries} entries, {ended} peers ended", entries=len(deny), ended=ended)
        self("deny-list", entries=len(deny), ended=ended)

    def registry(self, problem: str | None) -> None:
        """Tell that the Redis of --registry works, or why it does not."""
        if problem is None:
            self("registry")
        else:
            self("registry-failed", text=problem)
            self.write_stderr(problem)

    def write_stderr(self, text: str) -> None:
        """Write a sentence to stderr."""
        self._error.line(f"{self._command}: {text}")

    def close(self) -> None:
        """Close the outputs after the last event."""
        self._out.close()
        self._error.close()

    def _print(self, event: str, fields: dict[str, object]) -> None:
        # Names were checked when they were received: they contain no control characters.
        if event == "listening":
            self._out.line("The rendezvous is ready. Peers find it at this address:")
            self._out.line("")
            self._out.line(f"    {fields['address']}")
            self._out.line("")
            if not self._host_given:
                self._out.line("If they reach this machine by another name or address, give it with --host.")
        elif event in ("deny-list", "members"):
            what = "deny list" if event == "deny-list" else "list of members"
            self._out.line(
                f"The {what} was read again: {fields['entries']} entries, {fields['ended']} peers ended."
            )
        elif event == "registry":
            self._out.line("Redis works: peers of all processes of the service can call each other.")
        elif event == "certificate":
            self._out.line(f"The certificate was read again; it is good until {fields['until']}.")
        elif event == "registered":
            self._out.line(f"{fields['name']} registered ({fields['peer']})")
        elif event == "gone":
            self._out.line(f"{str(fields['peer'])[:8]}… is gone ({fields['reason']})")

    def _leave_address(self, address: str) -> None:
        try:
            # Peers of the same user on this machine find the service by this file.
            self._state.write_address(str(self.service.local_address))
            replace_private(self._state.directory / "public-address", address.encode() + b"\n")
        except (StateError, OSError) as problem:
            _log.error("The address can't be left in the state directory: {problem}", problem=str(problem))
            self.write_stderr(
                f"The address can't be left in {self._state.directory}, so peers on this machine need "
                "--rendezvous; make that directory writable and start again."
            )
