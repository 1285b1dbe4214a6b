"""
The command `punch peers`: shows and changes the address book, also while a peer runs.

A running peer reads the changes when it uses the book next. Every two seconds it checks whether a peer that
is connected, or calls, is blocked now, and ends that link or call.
"""

from __future__ import annotations

import argparse
import json
import os
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

from punch import names
from punch.apps.chat import ContactSummary
from punch.apps.chat.contacts import grant, revoke
from punch.cli.parser import Parser
from punch.cli.usage import show, write_stderr
from punch.contacts import AddressBook, AddressBookError, UnknownPeer, find_peer
from punch.identity import PeerID, PeerIDError
from punch.sentences import sentence_of
from punch.state import StateDirectory, login_name, own_state_dir
from punch.state_files import StateError
from punch.ui.json.events import contact_fields
from punch.ui.text.answers import contact_line

if TYPE_CHECKING:
    from _typeshed import SupportsWrite


class _Refused(Exception):
    """A change is refused; `str()` is a sentence for the user, `reason` a code."""

    def __init__(self, reason: str, text: str) -> None:
        super().__init__(text)
        self.reason = reason


def main(arguments: Sequence[str]) -> int:
    """
    Run the command.

    :return: the exit status.
    """
    options = _parser().parse(arguments)
    try:
        state = StateDirectory(Path(options.state_dir)).peer(options.identity)
        me = state.identity().peer_id if state.directory.exists() else None
        state.book.sleep = time.sleep
        changed = _ACTIONS[options.action or "list"](state.book, options, me)
    except (StateError, AddressBookError, PeerIDError, _Refused) as error:
        reason = getattr(error, "code", None) or getattr(error, "reason", None) or "state"
        text = str(error) if isinstance(error, _Refused) else sentence_of(error)
        if options.json:
            show(json.dumps({"event": "failed", "reason": reason, "text": text}))
        write_stderr(f"punch peers: {text}")
        return 1
    if options.json:
        show(json.dumps({"event": "peers", "peers": [contact_fields(contact) for contact in changed]}))
    else:
        for contact in changed:
            show(contact_line(contact_fields(contact)))
        if not changed and not options.action:
            show("Nobody is in the address book yet: whom you call or let in is known from then on.")
    return 0


def _parser() -> Parser:
    login = login_name(os.environ)
    root = str(own_state_dir(os.environ))
    parser = Parser(
        "punch peers",
        description="The address book: names for peer IDs, usable wherever an ID is, who is blocked, and who "
        "may open which services. Works while a peer runs.",
    )

    class Action(argparse.ArgumentParser):
        """The parser of one action, which prints errors and help as `parser` does."""

        def __init__(self, **options: Any) -> None:
            super().__init__(**options)
            self.color = False
            if options.get("add_help", True):
                self.add_argument("--help-all", action="help", help=argparse.SUPPRESS)

        def print_help(self, file: SupportsWrite[str] | None = None) -> None:
            parser.print_text(self.format_help(), file)

        def error(self, message: str) -> NoReturn:
            parser.error(message)

    # Options may stand before and after the action.
    after = Action(add_help=False)
    both: tuple[argparse.ArgumentParser, ...] = (parser, after)
    for one in both:
        no_default = one is after

        def default(value: object, no_default: bool = no_default) -> object:
            return argparse.SUPPRESS if no_default else value

        one.add_argument(
            "--json", action="store_true", default=default(False), help="print one JSON object, not lines"
        )
        one.add_argument(
            "--name",
            dest="identity",
            default=default(login),
            metavar="NAME",
            help=f"whose book, as punch-peer's --name [default: {login}]".replace("%", "%%"),
        )
        one.add_argument(
            "--state-dir",
            default=default(root),
            metavar="DIR",
            help=f"where it is kept [default: {root}]".replace("%", "%%"),
        )

    actions = parser.add_subparsers(dest="action", title="actions", metavar="action", parser_class=Action)
    actions.add_parser("list", parents=[after], help="show the whole book, as without an action")
    name = actions.add_parser("name", parents=[after], help="WHO NAME: give somebody a name; - takes it away")
    name.add_argument("who", help="a name or an ID")
    name.add_argument("new", metavar="newname", help="the new name; - for none")
    add = actions.add_parser(
        "add", parents=[after], help="ID [NAME]: add a peer, whose calls are accepted from then on"
    )
    add.add_argument("who", metavar="ID")
    add.add_argument("new", metavar="newname", nargs="?", help="a name for them")
    for action, text in (
        ("grant", "WHO SERVICE: let them open a service, such as echo/1"),
        ("revoke", "WHO SERVICE: take the grant back; open streams stay open"),
    ):
        changed = actions.add_parser(action, parents=[after], help=text)
        changed.add_argument("who", help="a name or an ID")
        changed.add_argument("service", help="its name, as the program that serves it says")
    for action, text in (
        ("block", "WHO: refuse their calls"),
        ("unblock", "WHO: stop refusing their calls"),
        ("forget", "WHO: remove them from the book"),
    ):
        actions.add_parser(action, parents=[after], help=text).add_argument("who", help="a name or an ID")
    return parser


def _who(book: AddressBook, text: str, me: PeerID | None) -> PeerID:
    try:
        peer = find_peer(book, text)
    except UnknownPeer as error:
        raise _Refused("bad-peer-id", sentence_of(error)) from error
    if peer == me:
        raise _Refused("self", "This is your own ID.")
    return peer


def _contact(book: AddressBook, peer: PeerID) -> ContactSummary:
    entry = book.entry(peer)
    given = entry.name is not None
    called = entry.name or entry.claimed
    alike = bool(book.alike(peer, called, given)) or (not given and names.is_misleading(called))
    services = tuple(sorted(entry.services))
    return ContactSummary(peer, entry.name, entry.claimed, entry.known, entry.blocked, alike, services)


def _list(book: AddressBook, options: argparse.Namespace, me: PeerID | None) -> list[ContactSummary]:
    found = [_contact(book, peer) for peer in book]
    return sorted(found, key=lambda one: (one.name is None, (one.name or one.claimed).casefold(), one.peer))


def _name(book: AddressBook, options: argparse.Namespace, me: PeerID | None) -> list[ContactSummary]:
    peer = _who(book, options.who, me)
    book.rename(peer, None if options.new == "-" else options.new)
    return [_contact(book, peer)]


def _add(book: AddressBook, options: argparse.Namespace, me: PeerID | None) -> list[ContactSummary]:
    peer = _who(book, options.who, me)
    if options.new is not None:
        book.rename(peer, options.new)
    book.add(peer, "")
    return [_contact(book, peer)]


def _block(book: AddressBook, options: argparse.Namespace, me: PeerID | None) -> list[ContactSummary]:
    peer = _who(book, options.who, me)
    book.block(peer, options.action == "block")
    return [_contact(book, peer)]


def _grant(book: AddressBook, options: argparse.Namespace, me: PeerID | None) -> list[ContactSummary]:
    peer = _who(book, options.who, me)
    change = grant if options.action == "grant" else revoke
    change(book, peer, options.service)
    return [_contact(book, peer)]


def _forget(book: AddressBook, options: argparse.Namespace, me: PeerID | None) -> list[ContactSummary]:
    peer = _who(book, options.who, me)
    if not book.forget(peer):
        raise _Refused("unknown-peer", f"{peer.short} is not in the address book.")
    return []


_ACTIONS: dict[str, Callable[[AddressBook, argparse.Namespace, PeerID | None], list[ContactSummary]]] = {
    "list": _list,
    "name": _name,
    "add": _add,
    "block": _block,
    "unblock": _block,
    "grant": _grant,
    "revoke": _grant,
    "forget": _forget,
}
