"""`punch status`: what the node of an identity does, asked over its socket."""

from __future__ import annotations

import json
import os
import socket
import time
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

from punch.cli.parser import Parser
from punch.cli.usage import show, write_stderr
from punch.identity import PeerID
from punch.local.protocol import JSON, NODE_TIME, CommandError, line, node_timeout
from punch.local.socket_file import (
    NotRunning,
    SocketError,
    SocketProblem,
    attaching_path,
    may_attach,
    peer_uid,
    socket_sentence,
)
from punch.sentences import sentence_of
from punch.state import StateDirectory, login_name, own_state_dir
from punch.state_files import StateError
from punch.ui.text.answers import lines
from punch.ui.text.sentences import shown_name
from punch.wire import strict_json

PROGRAM = "punch status"
_MOST_BYTES = 8 << 20
"""The most bytes of an answer that are read: more than any node sends."""


def main(arguments: Sequence[str]) -> int:
    """
    Print the status.

    :return: the exit status: 0, or 1 if no node runs or it can't be asked.
    """
    login, root = login_name(os.environ), own_state_dir(os.environ)
    parser = Parser(
        PROGRAM,
        description="Print what the node of an identity on this machine does: its ID, links and "
        "their paths, services, and programs that share it. Only the same user (or root) can ask.",
    )
    parser.add_argument("--name", default=login, help="the identity of that name [default: %(default)s]")
    parser.add_argument(
        "--state-dir", default=str(root), metavar="DIR", help="where it is kept [default: %(default)s]"
    )
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    options = parser.parse(arguments)
    try:
        directory = StateDirectory(Path(options.state_dir)).peer(options.name).directory
        answer = _ask(directory)
    except StateError as error:
        return _fail("state", sentence_of(error), options.json)
    except CommandError as error:
        return _fail(error.reason, str(error), options.json)
    if options.json:
        show(json.dumps({**answer, "event": "status"}))
        return 0
    names = {each["peer"]: each.get("petname") or "" for each in answer.get("program_transfers", ())}
    names |= {link["peer"]: link.get("petname") or link.get("name") or "" for link in answer.get("links", ())}

    def name(peer: PeerID) -> str:
        return shown_name(names.get(str(peer), ""), peer)

    try:
        show("\n".join(lines("status", answer, name, time.time())))
    except (KeyError, TypeError, ValueError):
        return _fail("version", "The node has another version of Punch: ask with --json.", False)
    return 0


def _fail(reason: str, text: str, as_json: bool) -> int:
    if as_json:
        show(json.dumps({"event": "failed", "time": 0.0, "reason": reason, "text": text}))
    write_stderr(f"{PROGRAM}: {text}")
    return 1


def _ask(directory: Path) -> JSON:
    """:raise CommandError: the node can't be asked."""
    try:
        path = attaching_path(directory, os.environ)
        with socket.socket(socket.AF_UNIX) as connection:
            connection.settimeout(NODE_TIME)
            try:
                connection.connect(os.fspath(path))
            except PermissionError:
                raise SocketError(SocketProblem.OTHER_USER, path) from None
            if not may_attach(peer_uid(connection)):
                raise SocketError(SocketProblem.OTHER_USER, path)
            # The node may have refused this program already, and sent the reason
            with suppress(BrokenPipeError, ConnectionResetError):
                connection.sendall(line({"command": "status"}))
            with connection.makefile("rb") as file:
                answers = [_event(file.readline(_MOST_BYTES)) for _ in range(2)]
    except (NotRunning, ConnectionRefusedError):
        raise CommandError(
            "not-running",
            f"No node runs with the identity in {directory}. Start one with punch chat or punch peer, or "
            "name the one that runs with --name and --state-dir.",
        ) from None
    except SocketError as error:
        raise CommandError("denied", socket_sentence(error)) from None
    except TimeoutError:
        raise node_timeout() from None
    except OSError as error:
        raise CommandError(
            "socket", f"The socket of the node can't be used: {error.strerror or error}."
        ) from None
    return {key: value for key, value in answers[1].items() if key not in ("event", "time", "command")}


def _event(text: bytes) -> JSON:
    try:
        event = strict_json.loads(text)
    except strict_json.JSONError:
        event = None
    if not isinstance(event, dict):
        raise CommandError("malformed", "What listens at the socket is no node of Punch.")
    if event.get("event") not in ("ready", "result"):
        raise CommandError(str(event.get("reason")), str(event.get("text")))
    return event
