"""
Who may see the page: one-time tickets, and the browsers that came in with one.

Another user of the same machine can connect to our port as well. What tells a browser of ours from a
stranger's is a ticket, which stands in the address that is printed and admits once. The browser gets two
secrets for it:

* a cookie, which no script can read and which no other site makes a browser send;
* a key, which the page keeps in its origin's storage. Cookies go to every port of a host, so that a stranger
  with a port of 127.0.0.1 could learn ours from a browser that is lured there; the storage is one port's.

Everything that matters needs both. Only hashes are kept, and compared: how long that takes tells nothing.
"""

from __future__ import annotations

from base64 import urlsafe_b64encode
from collections.abc import Callable
from dataclasses import dataclass
from hashlib import sha256
from hmac import compare_digest

MAX_TICKETS = 8
"""Tickets that wait to be used; a further one makes the oldest worthless."""

MAX_BROWSERS = 64
"""Browsers that are remembered; a further one makes the one forgotten that came first."""

SECRET_BYTES = 32


@dataclass(frozen=True)
class Browser:
    """What a browser is given when it is let in."""

    cookie: str
    key: str


class BrowserAdmission:
    """
    Tickets and browsers of one process.

    :param random: a source of that many random bytes.
    """

    def __init__(self, random: Callable[[int], bytes]) -> None:
        self._random = random
        self._tickets: dict[bytes, None] = {}
        self._browsers: dict[bytes, bytes] = {}

    def ticket(self) -> str:
        """A new ticket, good for one browser."""
        ticket = self._secret()
        self._tickets[_hash(ticket)] = None
        while len(self._tickets) > MAX_TICKETS:
            del self._tickets[next(iter(self._tickets))]
        return ticket

    def admit(self, ticket: str) -> Browser | None:
        """Let a browser in for a ticket, which is used up; None if it is none, or was used."""
        known = _hash(ticket)
        if known not in self._tickets:
            return None
        del self._tickets[known]
        browser = Browser(self._secret(), self._secret())
        self._browsers[_hash(browser.cookie)] = _hash(browser.key)
        while len(self._browsers) > MAX_BROWSERS:
            del self._browsers[next(iter(self._browsers))]
        return browser

    def knows(self, cookie: str) -> bool:
        """Whether this is the cookie of a browser that was let in."""
        return _hash(cookie) in self._browsers

    def trusts(self, cookie: str, key: str) -> bool:
        """Whether these are the cookie and the key of one browser that was let in."""
        expected = self._browsers.get(_hash(cookie))
        return expected is not None and compare_digest(expected, _hash(key))

    def _secret(self) -> str:
        return urlsafe_b64encode(self._random(SECRET_BYTES)).decode("ascii").rstrip("=")


def _hash(secret: str) -> bytes:
    return sha256(secret.encode("utf-8", "surrogatepass")).digest()
