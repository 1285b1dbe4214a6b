"""
Two groups of command-line options of the rendezvous: who may use it (`MemberOptions`), and its relays
(`RelayOptions`).
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from ipaddress import ip_address, ip_network
from pathlib import Path
from typing import Any

from punch.amounts import number_of_bytes
from punch.files import read_regular
from punch.identity import PeerID
from punch.rendezvous.members.lists import ListFileError, parse_members, read_list
from punch.rendezvous.members.membership import AdmitPolicy
from punch.sanitize import quoted
from punch.sentences import sentence_of
from punch.wire.address import PortError, canonical, parse_port
from punch.wire.fields import FieldError, sentence
from punch.wire.special_addresses import IPNetwork
from punch.wire.turn import MAX_RELAYS, TurnURI, TurnURIError

MAX_CONTACT = 200
"""The longest text of --contact, in characters."""
_OWN_URLS = 3
"""How many URIs of the service's own relay a peer is given."""
MEMBER_PARAMETERS: list[list[Any]] = [
    ["relay-for", None, "all", "Whom to relay for: all, or invited (and those of --members)."],
    [
        "relay-quota",
        None,
        None,
        "Bytes that are relayed for one peer in a day (UTC), such as 10G; an invitation can have another "
        "number. [default: any number]",
    ],
    ["relay-quota-per-address", None, None, "The same for all peers at one IPv4 address or IPv6 /64."],
    [
        "admit",
        None,
        "open",
        "Who may register: open (anyone), invited (punch rendezvous invite) or listed (in --members).",
    ],
    [
        "members",
        None,
        None,
        "File with the peer IDs that may register, one a line; read again on SIGHUP. For --admit listed, and "
        "besides invitations for --admit invited.",
    ],
    [
        "contact",
        None,
        "",
        "Whom to ask for an invitation, such as a name and a mail address: told to peers that are refused.",
    ],
]


class OptionError(ValueError):
    """An option cannot be used; `str()` is a sentence for the user, `reason` a code."""

    def __init__(self, sentence: str, reason: str = "usage") -> None:
        super().__init__(sentence)
        self.reason = reason


@dataclass(frozen=True)
class MemberOptions:
    """The values of the options that say who may use the service, and how much of its relay."""

    policy: AdmitPolicy = AdmitPolicy.OPEN
    path: Path | None = None
    """The file of `--members`."""
    contact: str = ""
    relay_for_invited: bool = False
    quota_per_peer: int | None = None
    quota_per_address: int | None = None

    @classmethod
    def read(cls, options: Mapping[str, Any]) -> MemberOptions:
        """
        Read and check the options.

        :raise OptionError: an option is wrong, or two exclude each other.
        """
        try:
            policy = AdmitPolicy(options["admit"])
        except ValueError:
            raise OptionError(
                f"--admit is open, invited or listed, not {quoted(options['admit'], 40)}."
            ) from None
        name, contact = options["members"], options["contact"].strip()
        if policy is AdmitPolicy.LISTED and name is None:
            raise OptionError("--admit listed needs --members, the file with the peer IDs.")
        if options["relay-for"] not in ("all", "invited"):
            raise OptionError(f"--relay-for is all or invited, not {quoted(options['relay-for'], 40)}.")
        relay_for_invited = options["relay-for"] == "invited"
        if policy is AdmitPolicy.OPEN and name is not None and not relay_for_invited:
            raise OptionError("--members needs --admit listed, --admit invited or --relay-for invited.")
        try:
            sentence(contact)
        except FieldError as problem:
            raise OptionError(f"--contact {problem}.") from problem
        if len(contact) > MAX_CONTACT:
            raise OptionError(f"--contact has more than {MAX_CONTACT} characters.")
        # A daemon has another working directory.
        path = None if name is None else Path(os.path.abspath(name))
        if path is not None:
            try:
                read_members(path)
            except ListFileError as problem:
                raise OptionError(str(problem), "members") from problem
        quotas = [_quota(options, option) for option in ("relay-quota", "relay-quota-per-address")]
        return cls(policy, path, contact, relay_for_invited, *quotas)


def _quota(options: Mapping[str, Any], option: str) -> int | None:
    try:
        return None if options[option] is None else number_of_bytes(options[option])
    except ValueError as problem:
        raise OptionError(f"--{option} {problem}.") from problem


def read_members(path: Path) -> frozenset[PeerID]:
    """
    Read the file of `--members`.

    :raise ListFileError: it cannot be read, or it has an error; the sentence names the file.
    """
    text = read_list(path, "The list of members")
    try:
        return parse_members(text)
    except ListFileError as problem:
        raise ListFileError(f"The list of members {path}, {problem}.") from problem


@dataclass(frozen=True)
class RelayOptions:
    """The values of the options for relays."""

    enabled: bool = True
    addresses: Sequence[str] = ()
    allow: Sequence[IPNetwork] = ()
    ports: tuple[int, int] = (49152, 65535)
    turn: Sequence[TurnURI] = ()
    secret: bytes | None = None

    @classmethod
    def read(cls, options: Mapping[str, Any]) -> RelayOptions:
        """
        Read and check the options.

        :raise OptionError: an option is wrong, or two exclude each other.
        """
        if options["relay"] not in ("on", "off"):
            raise OptionError(f"--relay is on or off, not {options['relay'][:40]!r}.")
        enabled = options["relay"] == "on"
        turn = tuple(_turn(text) for text in options["turn"])
        most = MAX_RELAYS - (_OWN_URLS if enabled else 0)
        if len(turn) > most:
            raise OptionError(f"--turn may be given {most} times at most; leave some out.")
        path = options["turn-secret-file"]
        if turn and path is None:
            raise OptionError(
                "--turn needs --turn-secret-file, the file with the secret that is shared with the server."
            )
        return cls(
            enabled,
            _addresses(options["relay-address"]),
            tuple(_network(text) for text in options["relay-allow"]),
            _ports(options["relay-ports"]),
            turn,
            None if path is None else _secret(Path(path)),
        )


def _turn(text: str) -> TurnURI:
    try:
        return TurnURI.parse(text)
    except TurnURIError as problem:
        raise OptionError(f"--turn: {sentence_of(problem)}") from problem


def _addresses(texts: Sequence[str]) -> tuple[str, ...]:
    found: list[str] = []
    for text in texts:
        try:
            host = canonical(text.removeprefix("[").removesuffix("]"), 0).host
        except ValueError as problem:
            raise OptionError(f"--relay-address {text[:80]!r} is no IP address.") from problem
        if ip_address(host).is_unspecified:
            raise OptionError(
                f"--relay-address {host} is no address that peers could reach; give the public one."
            )
        if any((":" in each) == (":" in host) for each in found):
            raise OptionError("--relay-address may be given once for each address family.")
        found.append(host)
    return tuple(found)


def _network(text: str) -> IPNetwork:
    try:
        return ip_network(text)
    except ValueError as problem:
        raise OptionError(
            f"--relay-allow {text[:80]!r} is no network; write something like 10.0.0.0/8 or fd00::/8."
        ) from problem


def _ports(text: str) -> tuple[int, int]:
    first, _, last = text.partition("-")
    with suppress(PortError):
        low, high = parse_port(first), parse_port(last)
        if low <= high:
            return low, high
    raise OptionError(f"--relay-ports {text[:40]!r} is no range of ports; write something like 49152-65535.")


def _secret(path: Path) -> bytes:
    try:
        secret = read_regular(path, 65536).strip()
    except OSError as problem:
        raise OptionError(
            f"The file of --turn-secret-file, {path}, can't be read ({problem.strerror})."
        ) from problem
    if not secret:
        raise OptionError(f"{path} is empty; write the secret that is shared with the server into it.")
    if len(secret.splitlines()) > 1:
        raise OptionError(f"{path} has several lines; it holds the secret alone, in one line.")
    if len(secret) > 4096:
        raise OptionError(f"{path} is too long for a secret; the file holds nothing else.")
    return secret


def whole_number(option: str) -> Callable[[str], int]:
    """Return a function that reads the value of an option, a whole number of one or more."""

    def read(text: str) -> int:
        if re.fullmatch(r"[1-9][0-9]{0,8}", text) is None:
            raise ValueError(f"--{option} takes a whole number of one or more, not {text[:50]}")
        return int(text)

    read.coerceDoc = "Must be a whole number of one or more."  # type: ignore[attr-defined]
    return read
