"""The address of Redis, as the operator gives it. Pure."""

from __future__ import annotations

import re
from dataclasses import dataclass
from urllib.parse import unquote, urlsplit

from punch.wire.address import PortError, parse_port

PORT = 6379
SENTINEL_PORT = 26379
_SCHEMES = ("redis", "rediss", "redis+sentinel", "rediss+sentinel")
_FORMS = (
    "redis://host:6379/0 or rediss://user:password@host/0 (TLS), or with Sentinel "
    "redis+sentinel://host1,host2,host3/NAME/0"
)
_HOST = re.compile(r"(?:\[([0-9A-Fa-f:.]+)\]|([^\[\]:@/]+))(?::([0-9]{1,5}))?")


class RedisAddressError(ValueError):
    """A text is not an address of Redis; `str()` is a sentence for the user, without the password."""


@dataclass(frozen=True)
class RedisAddress:
    """
    :ivar hosts: host and port of Redis; of each Sentinel if `name` is given.
    :ivar name: what the Sentinels call the primary.
    """

    hosts: tuple[tuple[str, int], ...]
    tls: bool = False
    database: int = 0
    username: str | None = None
    password: str | None = None
    name: str | None = None

    @property
    def location(self) -> str:
        """For messages: the hosts, without user and password."""
        hosts = ",".join(f"[{host}]:{port}" if ":" in host else f"{host}:{port}" for host, port in self.hosts)
        return f"Sentinel {hosts}" if self.name else hosts

    @classmethod
    def parse(cls, text: str) -> RedisAddress:
        """
        Parse an address.

        :raise RedisAddressError: it is malformed.
        """
        try:
            url = urlsplit(text.strip())
        except ValueError as error:
            raise RedisAddressError(f"The address of Redis can't be read; write {_FORMS}.") from error
        if url.scheme not in _SCHEMES:
            raise RedisAddressError(f"The address of Redis has no scheme that is known; write {_FORMS}.")
        if url.query or url.fragment:
            raise RedisAddressError(f"The address of Redis has no ? and no #; write {_FORMS}.")
        user, _, places = url.netloc.rpartition("@")
        username, colon, password = user.partition(":")
        sentinel = url.scheme.endswith("sentinel")
        parts = [part for part in url.path.split("/") if part]
        name = unquote(parts.pop(0)) if sentinel and parts else None
        if sentinel and not name:
            raise RedisAddressError(
                f"The name of the primary that Sentinel knows is missing; write {_FORMS}."
            )
        if len(parts) > 1 or (parts and re.fullmatch("[0-9]{1,5}", parts[0]) is None):
            raise RedisAddressError(f"The database of Redis is a number; write {_FORMS}.")
        hosts = tuple(_host(place, SENTINEL_PORT if sentinel else PORT) for place in places.split(","))
        if len(hosts) > 1 and not sentinel:
            raise RedisAddressError(f"Several hosts are for Sentinel only; write {_FORMS}.")
        return cls(
            hosts,
            tls=url.scheme.startswith("rediss"),
            database=int(parts[0]) if parts else 0,
            username=unquote(username) or None,
            password=unquote(password) if colon else None,
            name=name,
        )


def _host(text: str, default: int) -> tuple[str, int]:
    match = _HOST.fullmatch(text)
    try:
        if match is not None:
            return match[1] or match[2], parse_port(match[3]) if match[3] else default
    except PortError:
        pass
    raise RedisAddressError(f"A host or port of Redis is wrong or missing; write {_FORMS}.")
