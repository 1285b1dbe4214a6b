"""Which rendezvous a node of this user uses."""

from __future__ import annotations

from collections.abc import Mapping

from punch.names import without_format
from punch.state import StateDirectory, StateError
from punch.wire.rendezvous_address import RendezvousAddress, RendezvousAddressError

PROXY_VARIABLES = "https_proxy", "http_proxy", "all_proxy", "socks_proxy"
"""Variables of the environment that name proxies to other programs, in lower or upper case."""


class NoRendezvous(Exception):
    """No rendezvous is known, or its address is wrong: `reason` is a code, `str()` a sentence."""

    def __init__(self, reason: str, sentence: str) -> None:
        super().__init__(sentence)
        self.reason = reason


def choose_rendezvous(
    given: str | None, state: StateDirectory, name: str, environ: Mapping[str, str]
) -> tuple[RendezvousAddress, ...]:
    """
    Return the addresses of the rendezvous to use: those of the command line, of the environment variable
    PUNCH_RENDEZVOUS, of the last run, or the one on this machine, in this order.

    :param given: the address on the command line, several separated by commas, or None.
    :param name: the name of the identity whose last run counts.
    :raise NoRendezvous: there is none, or its address is wrong.
    """
    text, source = given, "--rendezvous"
    if text is None:
        text, source = environ.get("PUNCH_RENDEZVOUS") or None, "PUNCH_RENDEZVOUS"
    try:
        if text is None:
            text, source = state.peer(name).last_rendezvous, "the one used last"
        if text is None:
            text, source = state.rendezvous.read_address(), "the one on this machine"
    except StateError as error:
        raise NoRendezvous("state", str(error)) from error
    if text is None:
        raise NoRendezvous(
            "no-rendezvous",
            "No rendezvous is known: start one with punch rendezvous (or twistd punch-rendezvous), or give "
            "the address of one with --rendezvous punch://host:port/PIN.",
        )
    try:
        return RendezvousAddress.parse_all(without_format(text))
    except RendezvousAddressError as error:
        raise NoRendezvous("bad-address", f"{source}: {error}") from error


def proxy_variable(environ: Mapping[str, str]) -> str | None:
    """Return the variable of the environment that names a proxy, if there is one."""
    names = (each for name in PROXY_VARIABLES for each in (name, name.upper()))
    return next((name for name in names if environ.get(name, "").strip()), None)
