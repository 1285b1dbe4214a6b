"""Which rendezvous a program uses that was told none: the same answer for all of them."""

from __future__ import annotations

from collections.abc import Mapping

from punch.names import without_format
from punch.state import StateDirectory, StateError
from punch.wire.rendezvous_address import RendezvousAddress, RendezvousAddressError


class NoRendezvous(Exception):
    """There is none to use: `reason` is a code, `str()` a sentence."""

    def __init__(self, reason: str, sentence: str) -> None:
        super().__init__(sentence)
        self.reason = reason


def choose_rendezvous(
    given: str | None, state: StateDirectory, name: str, environ: Mapping[str, str]
) -> RendezvousAddress:
    """
    The rendezvous: what was given, from the environment, of the last run, or the one on this machine.

    :param given: what the command line says.
    :param name: whose last run.
    :raise NoRendezvous: there is none, or it is no address.
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
        return RendezvousAddress.parse(without_format(text))
    except RendezvousAddressError as error:
        raise NoRendezvous("bad-address", f"{source}: {error}") from error
