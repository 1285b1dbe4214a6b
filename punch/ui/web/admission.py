"""
Decides which browsers may open the page: those that were admitted by a one-time ticket.

Other users of the same machine can connect to the port as well. So the address that is printed contains a
ticket, which admits one browser. In exchange for it, the browser gets two secrets:

* a cookie, which no script can read, and which browsers do not send in requests that other sites begin;
* a key, which the page keeps in the storage of its origin. It is needed since browsers send cookies to every
  port of a host: another user who listens on a port of 127.0.0.1 could get the cookie. The storage belongs to
  one port.

To open the WebSocket, a page must send both. Only hashes are kept and compared, so that the duration of a
comparison reveals nothing about the secrets.
"""

from __future__ import annotations

from base64 import urlsafe_b64encode
from collections.abc import Callable
from dataclasses import dataclass
from hashlib import sha256
from hmac import compare_digest

MAX_TICKETS = 8
"""The most tickets that are not used yet. If there are more, the oldest is forgotten."""

MAX_BROWSERS = 64
"""The most browsers that are remembered. If there are more, the one that was admitted first is forgotten."""

SECRET_BYTES = 32


@dataclass(frozen=True)
class Browser:
    """The secrets that a browser gets when it is admitted."""

    cookie: str
    key: str


class BrowserAdmission:
    """
    Tickets and browsers of one process.

    :param random: returns the given number of random bytes.
    """

    def __init__(self, random: Callable[[int], bytes]) -> None:
        self._random = random
        self._tickets: dict[bytes, None] = {}
        self._browsers: dict[bytes, bytes] = {}

    def ticket(self) -> str:
        """Return a new ticket, which admits one browser."""
        ticket = self._secret()
        self._tickets[_hash(ticket)] = None
        while len(self._tickets) > MAX_TICKETS:
            del self._tickets[next(iter(self._tickets))]
        return ticket

    def admit(self, ticket: str) -> Browser | None:
        """Admit a browser. Returns None if the ticket is wrong or was used before."""
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
        """Whether this is the cookie of a browser that was admitted."""
        return _hash(cookie) in self._browsers

    def trusts(self, cookie: str, key: str) -> bool:
        """Whether these are the cookie and the key of the same browser, and it was admitted."""
        expected = self._browsers.get(_hash(cookie))
        return expected is not None and compare_digest(expected, _hash(key))

    def _secret(self) -> str:
        return urlsafe_b64encode(self._random(SECRET_BYTES)).decode("ascii").rstrip("=")


def _hash(secret: str) -> bytes:
    return sha256(secret.encode("utf-8", "surrogatepass")).digest()
