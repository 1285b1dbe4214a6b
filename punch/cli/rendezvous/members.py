"""
The commands `punch rendezvous invite`, `invitations`, `peers`, `usage` and `revoke`, for the operator of a
rendezvous.

They use the list of members in the state directory (`punch.rendezvous.members.database`), so they work
whether the service runs or not. A running service looks every second whether the list has changed.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from datetime import datetime, timezone
from pathlib import Path
from typing import Any, TypeVar

from punch.amounts import format_bytes, number_of_bytes, seconds
from punch.cli.parser import Parser
from punch.cli.usage import show, write_stderr
from punch.contacts import is_name
from punch.files import read_regular, unusable_sentence
from punch.identity import PeerID, PeerIDError
from punch.rendezvous.members.database import FILE_NAME, USAGE_DAYS, KeptInvitation, Member, MemberDatabase
from punch.rendezvous.members.membership import MemberStoreError
from punch.sanitize import quoted
from punch.sentences import sentence_of
from punch.state import RendezvousState, StateDirectory, own_state_dir
from punch.state_files import StateError
from punch.turn.server.quotas import DAY
from punch.wire.invitation import NUMBER_SIZE, AdmissionRefusal, Invitation, InvitationError, service_tag
from punch.wire.rendezvous_address import RendezvousAddress, RendezvousAddressError, pin_of

MAX_USES = 100_000

T = TypeVar("T")


class _MembersRefused(Exception):
    """A command can't be executed; `str()` is a sentence for the user."""


def main(command: str, arguments: Sequence[str]) -> int:
    """
    Run one of `COMMANDS`.

    :return: the exit status.
    """
    program = f"punch rendezvous {command}"
    options = _PARSERS[command](program).parse(arguments)
    try:
        state = StateDirectory(Path(options.state_dir)).rendezvous
        if not (state.directory / "identity.key").exists():
            raise _MembersRefused(
                f"No rendezvous has run with the state directory {options.state_dir}; start it first, or "
                "name its directory with --state-dir."
            )
        database = MemberDatabase(state.directory / FILE_NAME)
        try:
            COMMANDS[command](state, database, options)
        finally:
            database.close()
    except (StateError, MemberStoreError, PeerIDError, _MembersRefused) as error:
        mistyped = isinstance(error, PeerIDError)
        text = sentence_of(error) if isinstance(error, StateError) else str(error)
        if options.json:
            reason = "usage" if mistyped else "state"
            show(json.dumps({"event": "failed", "reason": reason, "text": text}))
        write_stderr(f"{program}: {text}")
        return 2 if mistyped else 1
    return 0


# -- invite --


def _invite(state: RendezvousState, database: MemberDatabase, options: argparse.Namespace) -> None:
    pin = pin_of(state.identity().private_key.public_key())
    invitation = Invitation.new(service_tag(pin), os.urandom)
    shown, problem = _shown_address(state)
    addresses = options.address or ([] if shown is None else [shown])
    if options.address:
        if shown is None:
            raise _MembersRefused(
                f"{problem} Until then, --address can't be used, since it is not known whether addresses "
                "have a pin."
            )
        if addresses[0].pin is not None and shown.pin is None:
            raise _MembersRefused(
                "This rendezvous has a certificate of an authority, so its addresses have no pin; leave it "
                "out of --address."
            )
        if addresses[0].pin not in (None, shown.pin):
            raise _MembersRefused("The pin in --address is not that of this rendezvous; leave it out.")
        addresses = [replace(each, pin=shown.pin) for each in addresses]
    expires = time.time() + options.expires
    database.invite(invitation, options.uses, expires, options.relay_quota)
    # A token in one address is for all of them.
    texts = [replace(each, invitation=invitation).with_invitation for each in addresses[:1]]
    address = ",".join([*texts, *map(str, addresses[1:])]) or None
    until = datetime.fromtimestamp(expires, timezone.utc)
    if options.json:
        show(
            json.dumps(
                {
                    "event": "invitation",
                    "number": invitation.number.hex(),
                    "token": str(invitation),
                    "address": address,
                    "uses": options.uses,
                    "expires": until.isoformat(timespec="seconds"),
                    "relay_quota": options.relay_quota,
                }
            )
        )
        return
    whom = "one peer" if options.uses == 1 else f"{options.uses} peers"
    show(f"An invitation for {whom}, good until {until:%Y-%m-%d %H:%M} UTC:\n")
    show(f"    {address or invitation}\n")
    if address is None:
        show(f"{problem} Add ?token=… to the address of the service.")
    else:
        show(f"Whoever gets it starts once with: punch chat --rendezvous '{address}'")


# -- invitations --


def _invitations(state: RendezvousState, database: MemberDatabase, options: argparse.Namespace) -> None:
    now = time.time()
    found = [each for each in database.invitations() if options.all or each.usable(now)]
    if options.json:
        show(
            json.dumps({"event": "invitations", "invitations": [_invitation_fields(each) for each in found]})
        )
        return
    for each in found:
        show(_invitation_line(each, now))
    if not found:
        show("No invitation can be used now; punch rendezvous invite makes one.")


def _invitation_fields(invitation: KeptInvitation) -> dict[str, Any]:
    expires = None if invitation.revoked else _time(invitation.expires).isoformat(timespec="seconds")
    return {
        "number": invitation.number.hex(),
        "uses": invitation.uses,
        "used": invitation.used,
        "expires": expires,
        "relay_quota": invitation.relay_quota,
        "revoked": invitation.revoked,
    }


def _invitation_line(invitation: KeptInvitation, now: float) -> str:
    left = invitation.uses - invitation.used
    words = [invitation.number.hex()]
    if invitation.revoked:
        words.append("revoked")
    words.append(f"{left} of {invitation.uses} uses left" if left > 0 else "used up")
    if not invitation.revoked:
        words.append(f"{'until' if now < invitation.expires else 'expired'} {_minute(invitation.expires)}")
    if invitation.relay_quota is not None:
        words.append(f"relay {format_bytes(invitation.relay_quota)} a day")
    return "  ".join(words)


def _shown_address(state: RendezvousState) -> tuple[RendezvousAddress | None, str]:
    """Return the address of this server, or None and a sentence that says why it is not known."""
    path = state.directory / "public-address"
    try:
        return RendezvousAddress.parse(read_regular(path, 4096).decode("ascii")), ""
    except FileNotFoundError:
        return None, "The service has not run yet, so its address is not known."
    except OSError as error:
        return None, unusable_sentence(
            f"The file {path}", error, "start the service again, which writes it anew"
        )
    except (UnicodeDecodeError, RendezvousAddressError):
        return None, f"The file {path} has no address; start the service again, which writes it anew."


# -- peers --


def _peers(state: RendezvousState, database: MemberDatabase, options: argparse.Namespace) -> None:
    members = database.members()
    if options.json:
        show(json.dumps({"event": "members", "peers": [_fields(member) for member in members]}))
        return
    for member in members:
        show(_line(member))
    if not members:
        show("Nobody has redeemed an invitation yet; punch rendezvous invite makes one.")


def _fields(member: Member) -> dict[str, Any]:
    since = None if member.since is None else _time(member.since).isoformat(timespec="seconds")
    return {
        "peer": str(member.peer),
        "name": member.name,
        "since": since,
        "relay_quota": member.relay_quota,
        "refusal": None if member.refusal is None else member.refusal.value,
        "invitation": None if member.invitation is None else member.invitation.hex(),
    }


def _line(member: Member) -> str:
    words = [str(member.peer), member.name]
    if member.since is not None:
        words.append(f"since {_minute(member.since)}")
    if member.invitation is not None:
        words.append(f"invitation {member.invitation.hex()}")
    if member.relay_quota is not None:
        words.append(f"relay {format_bytes(member.relay_quota)} a day")
    if member.refusal is not None:
        by = "its owner" if member.refusal is AdmissionRefusal.ID_REVOKED else "the operator"
        words.append(f"revoked by {by}")
    return "  ".join(word for word in words if word)


def _time(unix: float) -> datetime:
    return datetime.fromtimestamp(unix, timezone.utc)


def _minute(unix: float) -> str:
    return f"{_time(unix):%Y-%m-%d %H:%M} UTC"


# -- usage --


def _usage(state: RendezvousState, database: MemberDatabase, options: argparse.Namespace) -> None:
    today = int(time.time()) // DAY
    rows = database.usage(today - options.days + 1)
    if options.json:
        days = [{"day": _day(day), "peer": str(peer), "bytes": used} for day, peer, used in rows]
        show(json.dumps({"event": "usage", "usage": days}))
        return
    for day, peer, used in rows:
        show(f"{_day(day)}  {peer}  {format_bytes(used)}")
    if not rows:
        show("The relay has carried nothing in this time.")


def _day(day: int) -> str:
    return f"{_time(day * DAY):%Y-%m-%d}"


# -- revoke --


def _revoke(state: RendezvousState, database: MemberDatabase, options: argparse.Namespace) -> None:
    number = _number_of_invitation(options.peer)
    if number is not None:
        _revoke_invitation(database, number, options)
        return
    try:
        peer = PeerID.parse(options.peer)
    except PeerIDError:
        if not is_name(options.peer):
            raise
        # Members choose their names themselves, so two may have the same name.
        hint = "punch rendezvous peers lists those of the members"
        raise PeerIDError(f"{quoted(options.peer)} is no peer ID: {hint}.") from None
    if not options.undo:
        database.revoke(peer, AdmissionRefusal.REVOKED, time.time())
        said = f"{peer.short}… is refused from now on; its connections end within a second."
    elif database.restore(peer, time.time()):
        said = f"{peer.short}… is refused no longer."
    elif database.revocation(peer) is AdmissionRefusal.ID_REVOKED:
        raise _MembersRefused(f"{peer.short}… was revoked by its owner, which can't be undone.")
    else:
        raise _MembersRefused(f"{peer.short}… was not revoked.")
    if options.json:
        show(json.dumps({"event": "revoked", "peer": str(peer), "undone": bool(options.undo)}))
    else:
        show(said)


def _number_of_invitation(text: str) -> bytes | None:
    """Return the number of an invitation, given as a number or a token; None if the text is neither."""
    if re.fullmatch(f"[0-9a-fA-F]{{{2 * NUMBER_SIZE}}}", text):
        return bytes.fromhex(text)
    try:
        return Invitation.parse(text).number
    except InvitationError:
        return None


def _revoke_invitation(database: MemberDatabase, number: bytes, options: argparse.Namespace) -> None:
    """:raise _MembersRefused: there is no such invitation, or --undo was given."""
    shown = number.hex()
    if options.undo:
        raise _MembersRefused("The revocation of an invitation can't be undone: make another one.")
    if not database.revoke_invitation(number):
        raise _MembersRefused(
            f"There is no invitation {shown} here; punch rendezvous invitations --all lists them."
        )
    if options.json:
        show(json.dumps({"event": "invitation-revoked", "number": shown}))
        return
    members = sum(member.invitation == number for member in database.members())
    if not members:
        rest = "Nobody has used it."
    elif members == 1:
        rest = "The peer that has used it stays admitted: punch rendezvous peers shows which."
    else:
        rest = f"The {members} peers that have used it stay admitted: punch rendezvous peers shows which."
    show(f"The invitation {shown} can't be used any more. {rest}")


Command = Callable[[RendezvousState, MemberDatabase, argparse.Namespace], None]

COMMANDS: dict[str, Command] = {
    "invite": _invite,
    "invitations": _invitations,
    "peers": _peers,
    "revoke": _revoke,
    "usage": _usage,
}
"""The commands, by name."""


# -- their options --


def _checked(read: Callable[[str], T]) -> Callable[[str], T]:
    def checked(text: str) -> T:
        try:
            return read(text)
        except ValueError as problem:
            raise argparse.ArgumentTypeError(str(problem)) from problem

    return checked


def _number_to(most: int) -> Callable[[str], int]:
    """Return a function that reads a whole number from 1 to `most`."""

    def read(text: str) -> int:
        if re.fullmatch("[0-9]{1,9}", text) is None or not 1 <= int(text) <= most:
            raise ValueError(f"takes a number from 1 to {most}, not {quoted(text, 40)}")
        return int(text)

    return read


def _parser(program: str, description: str) -> Parser:
    root = str(own_state_dir(os.environ))
    parser = Parser(program, description=description)
    parser.add_argument("--json", action="store_true", help="print one JSON object, not lines")
    parser.add_argument(
        "--state-dir",
        default=root,
        metavar="DIR",
        help=f"the state directory of the service [default: {root}]".replace("%", "%%"),
    )
    return parser


def _invite_parser(program: str) -> Parser:
    parser = _parser(
        program,
        "Make an invitation, for a rendezvous that runs with --admit invited, and print it within the "
        "address to send. Whoever has it can use it.",
    )
    parser.add_argument(
        "--uses",
        type=_checked(_number_to(MAX_USES)),
        default=1,
        metavar="N",
        help="for how many peers [default: 1]",
    )
    parser.add_argument(
        "--expires",
        type=_checked(seconds),
        default=7 * 86_400,
        metavar="TIME",
        help="how long it can be used for the first time: 30m, 12h, 7d, 4w [default: 7d]",
    )
    parser.add_argument(
        "--relay-quota",
        type=_checked(number_of_bytes),
        metavar="BYTES",
        help="what the relay carries for each of these peers in a day: 500M, 10G [default: no own limit]",
    )
    parser.add_argument(
        "--address",
        type=_checked(RendezvousAddress.parse_all),
        metavar="ADDRESSES",
        help="what to print it within: a domain with SRV records, or the addresses of all servers, with "
        "commas [default: the address of this server]",
    )
    return parser


def _invitations_parser(program: str) -> Parser:
    parser = _parser(
        program, "List the invitations that can be used: number, uses that are left, expiry, quota."
    )
    parser.add_argument(
        "--all", action="store_true", help="also those that are used up, have expired or were revoked"
    )
    return parser


def _peers_parser(program: str) -> Parser:
    return _parser(program, "List the peers that have redeemed an invitation, and those that were revoked.")


def _usage_parser(program: str) -> Parser:
    parser = _parser(program, "Show how much the relay has carried for each peer, a day of UTC a line.")
    parser.add_argument(
        "--days",
        type=_checked(_number_to(USAGE_DAYS)),
        default=1,
        metavar="N",
        help="for the last N days [default: today]",
    )
    return parser


def _revoke_parser(program: str) -> Parser:
    parser = _parser(
        program,
        "Refuse a peer from now on, whoever it is: a running service ends what it has. Or let nobody use an "
        "invitation any more; those who have used it stay.",
    )
    parser.add_argument("peer", metavar="ID", help="of the peer; or the number or the token of an invitation")
    parser.add_argument("--undo", action="store_true", help="stop refusing the peer")
    return parser


_PARSERS: dict[str, Callable[[str], Parser]] = {
    "invite": _invite_parser,
    "invitations": _invitations_parser,
    "peers": _peers_parser,
    "revoke": _revoke_parser,
    "usage": _usage_parser,
}
