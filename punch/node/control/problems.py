"""
Why there is no usable connection to the rendezvous: each cause told apart, in a sentence that says what to
do.
"""

from __future__ import annotations

from collections.abc import Mapping

from twisted.internet import error
from twisted.python.failure import Failure

from punch.node.events import Reason
from punch.wire.control import Error, ErrorCode
from punch.wire.rendezvous_address import RendezvousAddress
from punch.wire.special_addresses import Scope, scope_of


class ControlProblem(Exception):
    """
    Why there is no usable connection to the rendezvous.

    :ivar reason: a code (`Reason` or `ErrorCode` value).
    :ivar text: one sentence for a person.
    :ivar fatal: trying again cannot help until somebody changes something.
    """

    def __init__(self, reason: str, text: str, *, fatal: bool = False) -> None:
        super().__init__(text)
        self.reason = str(reason)
        self.text = text
        self.fatal = fatal


def place(address: RendezvousAddress) -> str:
    """`host:port` for messages, without the pin."""
    host = f"[{address.host}]" if ":" in address.host else address.host
    return f"{host}:{address.port}"


def not_a_rendezvous(address: RendezvousAddress) -> ControlProblem:
    """Whatever answers at the address is something else."""
    return ControlProblem(
        Reason.PROTOCOL,
        f"What answers at {place(address)} is not a Punch rendezvous; check host and port of the address.",
        fatal=True,
    )


def certificate_refused(address: RendezvousAddress) -> ControlProblem:
    """The server refused our certificate: under TLS 1.3, seen only after our handshake is done."""
    return ControlProblem(
        Reason.CERTIFICATE,
        f"The rendezvous at {place(address)} refused this peer's certificate; "
        "check that both run the same version of Punch, then start again.",
        fatal=True,
    )


def problem_of_error(address: RendezvousAddress, reply: Error) -> ControlProblem:
    """The sentence for an error after which the rendezvous closed the connection."""
    where = place(address)
    if reply.code is ErrorCode.BAD_CERTIFICATE:
        return certificate_refused(address)
    if reply.code is ErrorCode.REPLACED:
        return ControlProblem(
            ErrorCode.REPLACED.value,
            "Another process registered with this same identity and replaced this one; "
            "stop one of the two, or give one another --name or --state-dir.",
            fatal=True,
        )
    if reply.code is ErrorCode.VERSION:
        return ControlProblem(
            ErrorCode.VERSION.value,
            f"The rendezvous at {where} speaks another version of the protocol; update the older of the two.",
            fatal=True,
        )
    if reply.code is ErrorCode.SHUTDOWN:
        text = f"The rendezvous at {where} is shutting down; it is tried again by itself."
    elif reply.code is ErrorCode.DENIED:
        text = f"The operator of the rendezvous at {where} refuses this peer or its network; ask there why."
    elif reply.code in (ErrorCode.TOO_MANY, ErrorCode.RATE):
        said = reply.text.rstrip(".")
        text = f"The rendezvous at {where} takes no more from this peer now ({said}); it is tried again."
    else:
        text = f"The rendezvous at {where} closed the connection ({reply.code.value}); it is tried again."
    return ControlProblem(reply.code.value, text)


PROXY_VARIABLES = "https_proxy", "http_proxy", "all_proxy", "socks_proxy"
"""Variables of the environment that name proxies to other programs, in lower or upper case."""


def proxy_variable(environ: Mapping[str, str]) -> str | None:
    """The variable of the environment that names a proxy, if there is one."""
    names = (each for name in PROXY_VARIABLES for each in (name, name.upper()))
    return next((name for name in names if environ.get(name, "").strip()), None)


def problem_of_failure(
    address: RendezvousAddress, failure: Failure, proxy: str | None = None
) -> ControlProblem:
    """
    The sentence for a TCP connection that never was.

    :param proxy: the variable of the environment that names a proxy, if there is one.
    """
    if isinstance(failure.value, ControlProblem):
        return failure.value
    where = place(address)
    if isinstance(failure.value, (error.DNSLookupError, ValueError)):
        text = (
            f"The name {address.host} of the rendezvous is not known here, or no name server answers; "
            "check the address, and that this machine is online."
        )
    elif isinstance(failure.value, error.ConnectionRefusedError):
        text = (
            f"Nothing listens at {where}; check that the rendezvous runs there and that the address is right."
        )
    elif isinstance(failure.value, error.TimeoutError):
        text = (
            f"Nothing answers at {where}; check the address, the firewall, and that this machine is online."
        )
    else:
        text = (
            f"The rendezvous at {where} cannot be reached; check the address and that this machine is online."
        )
    answered = isinstance(failure.value, error.ConnectionRefusedError)
    if not _is_here(address.host) and (proxy is not None or not answered):
        text = f"{text} {_about_proxies(proxy)}"
    return ControlProblem(Reason.RENDEZVOUS_UNREACHABLE, text)


def _is_here(host: str) -> bool:
    """Whether it is this machine, to which no proxy leads."""
    try:
        return scope_of(host) is Scope.LOOPBACK
    except ValueError:
        return host.rstrip(".").lower() == "localhost"


def _about_proxies(proxy: str | None) -> str:
    if proxy is None:
        return "Punch uses no proxy: where only a proxy leads out, the rendezvous can't be reached."
    return (
        f"The environment names a proxy ({proxy}), but Punch uses none: it needs a TCP connection of its own "
        "to the rendezvous, so use a network where that is allowed, or have it allowed in this one."
    )
