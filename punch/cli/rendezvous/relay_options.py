"""The command-line options for relays."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from ipaddress import ip_address, ip_network
from pathlib import Path
from typing import Any

from punch.files import read_regular
from punch.wire.address import canonical
from punch.wire.special_addresses import IPNetwork
from punch.wire.turn_uri import MAX_RELAYS, TurnURI, TurnURIError

_OWN_URLS = 3
"""URIs of the service's own relay that peers are given."""


class RelayOptionError(ValueError):
    """An option cannot be used; `str()` is a sentence for the user."""


@dataclass(frozen=True)
class RelayOptions:
    """The values of the options."""

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

        :raise RelayOptionError: an option is wrong, or two exclude each other.
        """
        if options["relay"] not in ("on", "off"):
            raise RelayOptionError(f"--relay is on or off, not {options['relay'][:40]!r}.")
        enabled = options["relay"] == "on"
        turn = tuple(_turn(text) for text in options["turn"])
        most = MAX_RELAYS - (_OWN_URLS if enabled else 0)
        if len(turn) > most:
            raise RelayOptionError(f"--turn may be given {most} times at most; leave some out.")
        path = options["turn-secret-file"]
        if turn and path is None:
            raise RelayOptionError(
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
        raise RelayOptionError(f"--turn: {problem}") from problem


def _addresses(texts: Sequence[str]) -> tuple[str, ...]:
    found: list[str] = []
    for text in texts:
        try:
            host = canonical(text.removeprefix("[").removesuffix("]"), 0).host
        except ValueError as problem:
            raise RelayOptionError(f"--relay-address {text[:80]!r} is no IP address.") from problem
        if ip_address(host).is_unspecified:
            raise RelayOptionError(
                f"--relay-address {host} is no address that peers could reach; give the public one."
            )
        if any((":" in each) == (":" in host) for each in found):
            raise RelayOptionError("--relay-address may be given once for each address family.")
        found.append(host)
    return tuple(found)


def _network(text: str) -> IPNetwork:
    try:
        return ip_network(text)
    except ValueError as problem:
        raise RelayOptionError(
            f"--relay-allow {text[:80]!r} is no network; write something like 10.0.0.0/8 or fd00::/8."
        ) from problem


def _ports(text: str) -> tuple[int, int]:
    found = re.fullmatch(r"([0-9]{1,5})-([0-9]{1,5})", text)
    if found is not None:
        low, high = int(found[1]), int(found[2])
        if 1 <= low <= high <= 65535:
            return low, high
    raise RelayOptionError(
        f"--relay-ports {text[:40]!r} is no range of ports; write something like 49152-65535."
    )


def _secret(path: Path) -> bytes:
    try:
        secret = read_regular(path, 65536).strip()
    except OSError as problem:
        raise RelayOptionError(
            f"The file of --turn-secret-file, {path}, can't be read ({problem.strerror})."
        ) from problem
    if not secret:
        raise RelayOptionError(f"{path} is empty; write the secret that is shared with the server into it.")
    if len(secret.splitlines()) > 1:
        raise RelayOptionError(f"{path} has several lines; it holds the secret alone, in one line.")
    if len(secret) > 4096:
        raise RelayOptionError(f"{path} is too long for a secret; the file holds nothing else.")
    return secret
