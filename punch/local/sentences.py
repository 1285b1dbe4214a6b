"""What the user is told if no rendezvous, no proxy or no socket of a node can be used."""

from __future__ import annotations

from punch.local.rendezvous import BadProxy, NoRendezvous
from punch.local.socket_file import MAX_PATH, SocketError, SocketProblem

_SOCKETS = {
    SocketProblem.NO_NODE: "No node runs with the state directory {path}.",
    SocketProblem.NOBODY_LISTENS: "Nobody listens at {path}.",
    SocketProblem.NODE_ENDS: "The process of the node ends.",
    SocketProblem.NOT_A_SOCKET: "{path} is not a socket. Move it away.",
    SocketProblem.OTHER_USER: "The socket {path} belongs to another user: run this as that user.",
    SocketProblem.UNREACHABLE: "The socket {path} can't be reached: {detail}.",
    SocketProblem.STALE: "The socket {path} of an earlier process can't be removed: {detail}.",
    SocketProblem.LONG_PATH: f"The path of the socket in {{path}} is longer than {MAX_PATH} bytes, and "
    "{detail} can't be used in its place, since others may use it, too. Set XDG_RUNTIME_DIR, or choose a "
    "shorter --state-dir.",
}


def socket_sentence(error: SocketError) -> str:
    """Why the socket of a node can't be used."""
    return _SOCKETS[error.problem].format_map({"path": error.path, "detail": error.detail})


def rendezvous_sentence(error: NoRendezvous) -> str:
    """Why it is not known which rendezvous to use."""
    if error.reason == "no-rendezvous":
        return (
            "No rendezvous is known: start one with punch rendezvous (or twistd punch-rendezvous), or give "
            "the address of one with --rendezvous punch://host:port/PIN."
        )
    return f"{error.source}: {error.detail}" if error.source else error.detail


def proxy_sentence(error: BadProxy) -> str:
    """Why a proxy can't be used."""
    if error.given:
        return f"--proxy: {error.detail}."
    return f"{error.detail}; correct it, or give --proxy none."
