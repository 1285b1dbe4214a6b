"""`punch rendezvous status`: what a running rendezvous of this machine says of itself."""

from __future__ import annotations

import http.client
import json
import os
import socket
from collections.abc import Iterator, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from punch.amounts import format_bytes, format_count, format_duration
from punch.cli.parser import Parser
from punch.cli.usage import show, write_stderr
from punch.rendezvous.monitoring.http import STATUS_PATH
from punch.rendezvous.monitoring.listener import SOCKET
from punch.rendezvous.monitoring.status import HealthStatus
from punch.sanitize import quoted
from punch.sentences import sentence_of
from punch.state import StateDirectory, own_state_dir
from punch.state_files import StateError

PROGRAM = "punch rendezvous status"
_TIMEOUT = 5.0
_MOST_BYTES = 1_000_000
"""More than any status has."""


class _Unreachable(Exception):
    """The service can't be asked; `str()` is a sentence."""


class _SocketConnection(http.client.HTTPConnection):
    """HTTP over a UNIX socket."""

    def __init__(self, path: Path) -> None:
        super().__init__("localhost", timeout=_TIMEOUT)
        self._path = path

    def connect(self) -> None:
        """Connect to the socket."""
        self.sock = socket.socket(socket.AF_UNIX)
        self.sock.settimeout(_TIMEOUT)
        self.sock.connect(str(self._path))


def main(arguments: Sequence[str]) -> int:
    """
    Print the status.

    :return: the exit status: 0 if the service works, even with restrictions; 1 if it does not, or can't be
        asked.
    """
    parser = Parser(
        PROGRAM,
        description="Print what a rendezvous that runs on this machine reports about itself. It is asked "
        "over the socket in its state directory, so that only the same user (or root) can do it.",
    )
    parser.add_argument(
        "--state-dir",
        default=str(own_state_dir(os.environ)),
        metavar="DIR",
        help="the state directory of the service [default: %(default)s]",
    )
    parser.add_argument(
        "--url", metavar="URL", help="the listener of --metrics instead, such as http://127.0.0.1:9464"
    )
    parser.add_argument("--json", action="store_true", help="print JSON, with the values of the last day")
    options = parser.parse(arguments)
    try:
        found = _ask(options.url, Path(options.state_dir))
        text = json.dumps(found) if options.json else _text(found)
    except _Unreachable as problem:
        if options.json:
            show(json.dumps({"event": "failed", "time": 0.0, "reason": "unreachable", "text": str(problem)}))
        write_stderr(f"{PROGRAM}: {problem}")
        return 1
    show(text)
    return 0 if HealthStatus(found["status"]).serves else 1


def _ask(url: str | None, state_dir: Path) -> dict[str, Any]:
    """:raise _Unreachable: the service can't be asked."""
    if url is None:
        try:
            path = StateDirectory(state_dir).rendezvous.directory / SOCKET
        except StateError as problem:
            raise _Unreachable(sentence_of(problem)) from problem
        # Other problems, such as a directory of another user, are found by connecting.
        with suppress(OSError):
            if not path.exists():
                raise _not_running(state_dir)
        connection: http.client.HTTPConnection = _SocketConnection(path)
        where = str(path)
    else:
        try:
            parts = urlsplit(url)
            if parts.scheme != "http" or not parts.hostname:
                raise ValueError
            connection = http.client.HTTPConnection(parts.hostname, parts.port, timeout=_TIMEOUT)
        except ValueError:
            raise _Unreachable(f"--url {quoted(url, 100)} is no URL like http://127.0.0.1:9464.") from None
        where = url
    try:
        connection.request("GET", STATUS_PATH)
        answer = connection.getresponse()
        body = answer.read(_MOST_BYTES)
        if answer.status != http.HTTPStatus.OK:
            raise _Unreachable(f"{where} answers {answer.status} {answer.reason}; it is no Punch rendezvous.")
        found: dict[str, Any] = json.loads(body)
        HealthStatus(found["status"])
        return found
    except (FileNotFoundError, ConnectionRefusedError):
        if url is None:
            raise _not_running(state_dir) from None
        raise _Unreachable(f"Nothing listens at {url}; is the service running with --metrics?") from None
    except PermissionError:
        raise _Unreachable(f"{where} belongs to another user; ask as that user, or as root.") from None
    except (OSError, http.client.HTTPException) as problem:
        raise _Unreachable(f"{where} does not answer ({problem}).") from problem
    except (ValueError, KeyError, TypeError) as problem:
        raise _Unreachable(f"What {where} answers is not the status of a Punch rendezvous.") from problem
    finally:
        connection.close()


def _not_running(state_dir: Path) -> _Unreachable:
    return _Unreachable(
        f"No rendezvous runs with the state directory {state_dir}. Start one with punch rendezvous, or name "
        "the directory of the one that runs with --state-dir."
    )


def _text(found: dict[str, Any]) -> str:
    """
    The status for people.

    :raise _Unreachable: it is not that of a service of this version.
    """
    try:
        text = "\n".join(_lines(found))
    except (ValueError, KeyError, TypeError, AttributeError) as problem:
        raise _Unreachable("The service has another version of Punch; ask with --json.") from problem
    # The server of --url may be another program than Punch, so its text may contain anything.
    return "".join(each if each.isprintable() or each == "\n" else "?" for each in text)


def _lines(found: dict[str, Any]) -> Iterator[str]:
    figures, history = found["figures"], found["history"]
    yield f"Punch {found['version']}, running for {format_duration(found['uptime'])}: {found['status']}"
    yield from (f"  {reason}" for reason in found["reasons"])
    relayed = figures["relayed_bytes_to_peers"] + figures["relayed_bytes_to_clients"]
    rows = [
        ("registered peers", format_count(figures["peers"])),
        ("calls being introduced", format_count(figures["introductions"])),
        (
            "TCP connections",
            f"{figures['connections']:,} ({figures['handshakes']:,} in handshake)",
        ),
        ("relayed addresses", format_count(figures["allocations"])),
        ("since the start", ""),
        ("  registrations", format_count(figures["registrations"])),
        (
            "  calls",
            f"{figures['introductions_begun']:,} ({figures['introductions_answered']:,} answered)",
        ),
        ("  relayed", format_bytes(relayed)),
        ("  reflector answers", format_count(figures["reflector_answers"])),
        ("  refusals", format_count(sum(figures["refusals"].values()))),
        *((f"    {cause}", format_count(number)) for cause, number in sorted(figures["refusals"].items())),
        ("in the last day", ""),
        ("  most peers", format_count(max([figures["peers"], *history["peers"]]))),
        ("  calls", format_count(sum(history["calls"]))),
        ("  relayed", format_bytes(sum(history["relayed_bytes"]))),
        ("  refusals", format_count(sum(history["refusals"]))),
    ]
    width = max(len(name) for name, _ in rows)
    yield from (f"{name:{width}}  {value}".rstrip() for name, value in rows)
