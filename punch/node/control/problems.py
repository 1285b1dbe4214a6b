"""What a failed or closed connection to the rendezvous says about its cause."""

from __future__ import annotations

from collections.abc import Mapping

from twisted.internet import error
from twisted.python.failure import Failure

from punch.node.causes import ControlProblem, ProblemCode
from punch.wire.control import Error, ErrorCode
from punch.wire.rendezvous_address import RendezvousAddress

PROXY_VARIABLES = "https_proxy", "http_proxy", "all_proxy", "socks_proxy"
"""Variables of the environment that name proxies to other programs, in lower or upper case."""


def proxy_variable(environ: Mapping[str, str]) -> str | None:
    """Return the variable of the environment that names a proxy, if there is one."""
    names = (each for name in PROXY_VARIABLES for each in (name, name.upper()))
    return next((name for name in names if environ.get(name, "").strip()), None)


def problem_of_error(address: RendezvousAddress, reply: Error) -> ControlProblem:
    """Return the problem for an error message after which the rendezvous closed the connection."""
    if reply.code is ErrorCode.BAD_CERTIFICATE:
        return ControlProblem(ProblemCode.OUR_CERTIFICATE, address)
    return ControlProblem(
        ProblemCode.ERROR, address, reply.code, reply.text, refusal=reply.refusal, contact=reply.contact
    )


def problem_of_failure(
    address: RendezvousAddress, failure: Failure, proxy: str | None = None
) -> ControlProblem:
    """
    Return the problem for a TCP connection that could not be made.

    :param proxy: the variable of the environment that names a proxy, if there is one.
    """
    if isinstance(failure.value, ControlProblem):
        return failure.value
    if isinstance(failure.value, (error.DNSLookupError, ValueError)):
        code = ProblemCode.NAME_UNKNOWN
    elif isinstance(failure.value, error.ConnectionRefusedError):
        code = ProblemCode.REFUSED
    elif isinstance(failure.value, error.TimeoutError):
        code = ProblemCode.TIMEOUT
    else:
        code = ProblemCode.UNREACHABLE
    return ControlProblem(code, address, proxy=proxy)
