"""
Which rendezvous and which proxy a node of this user uses, and what the user is told if there is none.
"""

from __future__ import annotations

from collections.abc import Mapping

from punch.names import without_format
from punch.sentences import sentence_of
from punch.state import StateDirectory
from punch.state_files import StateError
from punch.wire.proxy import ProxyAddress, ProxySettings, proxy_of_environment
from punch.wire.rendezvous_address import RendezvousAddress, RendezvousAddressError


class NoRendezvous(Exception):
    """
    No rendezvous is known, or its address is wrong.

    :ivar reason: "no-rendezvous", "bad-address", or "state" if the state directory can't be read.
    :ivar source: what named the wrong address, or "".
    :ivar detail: what is wrong with the address or the directory, or "".
    """

    def __init__(self, reason: str, source: str = "", detail: str = "") -> None:
        super().__init__(reason, source, detail)
        self.reason = reason
        self.source = source
        self.detail = detail


def rendezvous_sentence(error: NoRendezvous) -> str:
    """Return the sentence that tells the user why it is not known which rendezvous to use."""
    if error.reason == "no-rendezvous":
        return (
            "No rendezvous is known: start one with punch rendezvous (or twistd punch-rendezvous), or give "
            "the address of one with --rendezvous punch://host:port/PIN."
        )
    return f"{error.source}: {error.detail}" if error.source else error.detail


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
        raise NoRendezvous("state", detail=sentence_of(error)) from error
    if text is None:
        raise NoRendezvous("no-rendezvous")
    try:
        return RendezvousAddress.parse_all(without_format(text))
    except RendezvousAddressError as error:
        raise NoRendezvous("bad-address", source, sentence_of(error)) from error


class BadProxy(Exception):
    """
    A proxy that is named can't be used.

    :ivar detail: what is wrong with it.
    :ivar given: whether the command line names it; False: the environment does.
    """

    def __init__(self, detail: str, *, given: bool) -> None:
        super().__init__(detail, given)
        self.detail = detail
        self.given = given


def choose_proxy(given: str | None, environ: Mapping[str, str]) -> ProxySettings | None:
    """
    Return the proxy for TCP connections: that of the command line, which is then required, or else one that
    the environment names.

    :param given: what `--proxy` says: a URL, or `none`; None: it was not given.
    :raise BadProxy: it can't be used.
    """
    try:
        if given is None:
            return proxy_of_environment(environ)
        if given.strip().lower() in ("", "none"):
            return None
        return ProxySettings(ProxyAddress.parse(given), "--proxy", required=True)
    except ValueError as error:
        raise BadProxy(str(error), given=given is not None) from None


def proxy_sentence(error: BadProxy) -> str:
    """Return the sentence that tells the user why a proxy can't be used."""
    if error.given:
        return f"--proxy: {error.detail}."
    return f"{error.detail}; correct it, or give --proxy none."
