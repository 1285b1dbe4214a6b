"""Sentences about forwarded ports and their addresses."""

from __future__ import annotations

from punch.apps.forward.addresses import MAX_SERVICE, MAX_SOCKET_PATH, AddressProblem, ForwardAddressError
from punch.apps.forward.messages import ForwardFailure
from punch.sanitize import cut, name_on_one_line, quoted, sanitize

_MAX_SHOWN = 60
"""The most characters of a wrong address that are shown."""
_ADDRESS_SENTENCES = {
    AddressProblem.FORM: "An address is written as localhost:80, 127.0.0.1:80, [::1]:80, 80, or "
    "/path/of/a/socket, not {text}.",
    AddressProblem.BRACKETS: "An IPv6 address stands in brackets, as [::1]:80, unlike in {text}.",
    AddressProblem.PORT: "A port is a number from 1 to 65535, unlike in {text}.",
    AddressProblem.PATH: "The path of a Unix socket can't be {text}.",
    AddressProblem.LONG_PATH: f"The path of a Unix socket has at most {MAX_SOCKET_PATH} bytes here, unlike "
    "{text}.",
    AddressProblem.UDP_PATH: "UDP has ports, such as localhost:53; {text} is a Unix socket.",
    AddressProblem.SERVICE: f"A service has a name of 1 to {MAX_SERVICE} bytes of printable characters, not "
    "{text}.",
    AddressProblem.TARGET: "A peer and what it exposes are written as bob:localhost:80, or bob:NAME, not "
    "{text}.",
}

_SENTENCES = {
    ForwardFailure.CONNECTION_REFUSED: "Nobody listens at {what} of {who}: start it there.",
    ForwardFailure.UNREACHABLE: "{who} can't reach {what}: it does not answer.",
    ForwardFailure.NO_HOST: "{who} knows no host of this name: {what}.",
    ForwardFailure.NOT_PERMITTED: "The user of {who} has no permission for {what} there.",
    ForwardFailure.BUSY: "{who} has too many connections open to {what}: close some, or try again later.",
    ForwardFailure.FAILED: "{who} can't connect to {what}; the output of punch expose there says why.",
    ForwardFailure.RESET: "{what} of {who} reset the connection.",
    ForwardFailure.NOT_LISTENING: "{who} can't listen at {what}; the output of punch expose there says why.",
}


_OWN_SENTENCES = {
    ForwardFailure.CONNECTION_REFUSED: "Nobody listens at {what}, which {who} wants to reach.",
    ForwardFailure.UNREACHABLE: "{what}, which {who} wants to reach, does not answer.",
    ForwardFailure.NO_HOST: "There is no host of this name, which {who} wants to reach: {what}.",
    ForwardFailure.NOT_PERMITTED: "You have no permission for {what}, which {who} wants to reach.",
}
"""The sentences for the user who exposes the port."""


def address_error_sentence(error: ForwardAddressError) -> str:
    """Return what is wrong with an address that was typed."""
    return _ADDRESS_SENTENCES[error.problem].format_map({"text": quoted(error.text, _MAX_SHOWN)})


def exposed_failure_text(failure: ForwardFailure, who: str, what: str, error: Exception) -> str:
    """Return a sentence for the user who exposes `what`, which the peer `who` could not reach."""
    sentence = _OWN_SENTENCES.get(failure, "{what}, which {who} wants to reach, can't be connected: {error}.")
    return sentence.format_map({"who": who, "what": what, "error": str(error).rstrip(".")})


def open_failure_text(reason: str, text: str, who: str, what: str) -> str:
    """
    Return a sentence that says why a stream to an exposed port can't be opened.

    :param reason: the code of the error.
    :param text: the sentence of the error, which is returned if there is no better one.
    :param who: the name of the peer that exposes the port.
    :param what: the port, or the name of its service.
    """
    shown = cut(name_on_one_line(what), 100)
    if reason == "no-service":
        return f"{who} exposes no {shown} now: ask for punch expose {shown} --to YOUR-ID there."
    if reason == "not-allowed":
        return f"{who} does not expose {shown} to you: ask for punch expose {shown} --to YOUR-ID there."
    return text


def reversed_failure_text(failure: ForwardFailure | None, error: Exception, address: str, who: str) -> str:
    """
    Return a sentence for a user whose own port leads to a peer: a connection to the port did not get there.

    :param failure: the reason that the peer gave; None: it gave none, and `error` is the reason.
    :param address: the port, on this machine.
    :param who: the name of the peer.
    """
    reason = failure.reason.replace("-", " ") if failure is not None else str(error).rstrip(".")
    return f"A connection to {address} did not get through to {who}: {cut(sanitize(reason), 200)}."


def unlistened_text(failure: ForwardFailure, who: str, what: str) -> str:
    """Return a sentence that says why the peer `who` does not listen for this side at its port `what`."""
    if failure is ForwardFailure.BUSY:
        return f"{cut(name_on_one_line(what), 100)} of {who} leads to somebody else now: try again later."
    return failure_text(failure, who, what)


def failure_text(failure: ForwardFailure, who: str, what: str) -> str:
    """
    Return a sentence that says why an exposed port can't be reached.

    :param who: the name of the peer that exposes it.
    :param what: the port, or the name of its service.
    """
    text = _SENTENCES[failure].format_map({"who": who, "what": cut(name_on_one_line(what), 100)})
    return text[0].upper() + text[1:]
