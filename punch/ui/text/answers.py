"""The answers of commands as lines for a person. All text that comes from other peers is sanitized here."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping
from typing import Any

from punch.amounts import format_bytes
from punch.identity import PeerID
from punch.sanitize import cut, printable
from punch.ui.text.nat import cost_in_words, nat_in_words, requests_in_words
from punch.ui.text.sentences import (
    count,
    milliseconds,
    path_in_words,
    shown_name,
)
from punch.ui.text.transfers import name_text, progress_text
from punch.wire.peers.nat_profile import NatProfile

Answer = Mapping[str, Any]

#: The text beside a message of this side, by its state.
STATES = {"waiting": "· waiting", "sent": "· sent", "delivered": "✓ delivered", "read": "✓✓ read"}

#: The most characters of a message that are shown in a list of messages.
MAX_SHOWN = 500


def clock(when: float, now: float) -> str:
    """
    Return a local time as text: with the date unless it is today, and with the year unless it is this one.

    :param when: the time, and `now` the present, in seconds since 1970.
    """
    then, today = time.localtime(when), time.localtime(now)
    if then[:3] == today[:3]:
        return time.strftime("%H:%M", then)
    if then[0] == today[0]:
        return time.strftime("%d %b %H:%M", then)
    return time.strftime("%Y-%m-%d %H:%M", then)


def message_line(message: Answer, name: Callable[[PeerID], str], now: float, whom: bool = False) -> str:
    """
    Return a message of the history as text, of several lines if it has some.

    :param message: the fields of `punch.ui.json.events.message_fields`.
    :param name: returns the name of a peer, sanitized.
    :param now: seconds since 1970.
    :param whom: whether to name the peer of a message from this side.
    """
    other = name(PeerID.parse(message["peer"]))
    who = (f"you to {other}" if whom else "you") if message["outgoing"] else other
    text = message["text"]
    shown = _shortened(text, newline="\n    ")
    state = f"  {STATES.get(message['state'], '')}" if message["outgoing"] else ""
    new = "  (new)" if message["state"] == "unread" else ""
    return f"{clock(message['time'], now)} {who}: {shown}{state}{new}"


def _shortened(text: str, newline: str = "\\n") -> str:
    # It is cut last, since a part of a flag or of a pair of isolates is shown as escapes.
    return cut(printable(text, newline), MAX_SHOWN)


def lines(command: str, answer: Answer, name: Callable[[PeerID], str], now: float) -> Iterator[str]:
    """
    Return the lines for the answer of a command; none for a command without any.

    :param command: the name of the command.
    :param name: returns the name of a peer, sanitized.
    :param now: seconds since 1970.
    """
    teller = _TELLERS.get(command)
    if teller is not None:
        yield from teller(answer, name, now)


def _history(answer: Answer, name: Callable[[PeerID], str], now: float) -> Iterator[str]:
    for message in answer["messages"]:
        yield message_line(message, name, now)
    if not answer["messages"]:
        yield "There are no messages."


def _search(answer: Answer, name: Callable[[PeerID], str], now: float) -> Iterator[str]:
    for message in reversed(answer["messages"]):
        yield message_line(message, name, now, whom=True)
    found = len(answer["messages"])
    yield count(found, "message") + " found" if found else "Nothing was found."


def _invite(answer: Answer, name: Callable[[PeerID], str], now: float) -> Iterator[str]:
    minutes = max(1, round(answer["expires"] / 60))
    yield (
        f"The code is {answer['code']}. Have the other side use it within {count(minutes, 'minute')}, with "
        "punch join, /join or its page; it works once."
    )


def _join(answer: Answer, name: Callable[[PeerID], str], now: float) -> Iterator[str]:
    yield met_line(answer)


def met_line(answer: Answer) -> str:
    """
    Return a line that says that a code was used, so that both peers have each other in their address book.

    :param answer: the fields of the event `code-used`, or the answer of `join`.
    """
    problem = f" {printable(answer['problem'])}" if answer["problem"] else ""
    return f"You know each other now: {contact_line(answer)}.{problem}"


def transfer_line(answer: Answer, who: str) -> str:
    """
    Return one line for a transfer.

    :param answer: the fields of `punch.ui.json.events.transfer_fields`.
    :param who: the name of the peer, sanitized.
    """
    items = answer["items"]
    if answer["is_text"]:
        items = [{"name": "a text"}]
    what = name_text(items[0]["name"]) if len(items) == 1 else f"{len(items)} items"
    size = answer["size"]
    state = {
        "offered": "waits for an answer",
        "running": progress_text(answer["position"], size, 0.0),
        "done": "complete",
    }.get(answer["stage"], printable(answer["text"] or answer["stage"]))
    where = f", in {printable(answer['folder'])}" if answer["folder"] else ""
    size_text = "" if size is None else f" ({format_bytes(size)})"
    way = "to" if answer["outgoing"] else "from"
    return f"{answer['transfer']}: {what}{size_text} {way} {who}: {state}{where}"


def _transfer(answer: Answer, name: Callable[[PeerID], str], now: float) -> Iterator[str]:
    yield transfer_line(answer, name(PeerID.parse(answer["peer"])))


def _transfer_list(answer: Answer, name: Callable[[PeerID], str], now: float) -> Iterator[str]:
    for transfer in answer["transfers"]:
        yield from _transfer(transfer, name, now)
    if not answer["transfers"]:
        yield "No files are sent or received."


def _web(answer: Answer, name: Callable[[PeerID], str], now: float) -> Iterator[str]:
    yield f"Open this in a browser on this machine, it works once: {answer['url']}"


def _export(answer: Answer, name: Callable[[PeerID], str], now: float) -> Iterator[str]:
    yield f"{count(answer['messages'], 'message')} written to {printable(answer['file'])}"


def _erase(answer: Answer, name: Callable[[PeerID], str], now: float) -> Iterator[str]:
    yield f"{count(answer['messages'], 'message')} erased here; what the other side keeps is theirs."


def _retention(answer: Answer, name: Callable[[PeerID], str], now: float) -> Iterator[str]:
    days = answer["days"]
    yield (
        "Messages are kept until you erase them." if days is None else f"Messages are kept for {days:g} days."
    )


def contact_line(answer: Answer) -> str:
    """Return one line for a contact, from the fields of `punch.ui.json.events.contact_fields`."""
    peer = PeerID.parse(answer["peer"])
    shown = shown_name(answer["petname"] or answer["name"], peer, bool(answer.get("alike")))
    calls = ""
    if answer["petname"] and answer["name"] and answer["name"] != answer["petname"]:
        calls = f", calls itself {shown_name(answer['name'], peer)}"
    kind = "blocked" if answer["blocked"] else "known" if answer["known"] else "not known"
    services = ", ".join(answer.get("services", ()))
    opens = f", may open {_shortened(services)}" if services else ""
    return f"{shown:<16} {peer}  {kind}{calls}{opens}"


def who_lines(contact: Answer, link: Answer | None) -> Iterator[str]:
    """
    Return the lines of `/whois`.

    :param contact: the fields of `punch.ui.json.events.contact_fields`.
    :param link: the fields of `punch.ui.json.events.link_fields`; None: there is no link.
    """
    yield contact_line(contact)
    if contact["alike"]:
        yield "Somebody else has a name that looks like this one, or it is a word of Punch: compare the IDs."
    yield "Not connected" if link is None else f"Connected {link_in_words(link)}"


def _peers(answer: Answer, name: Callable[[PeerID], str], now: float) -> Iterator[str]:
    for contact in answer["peers"]:
        yield contact_line(contact)
    if not answer["peers"]:
        yield "Nobody is in the address book yet: whom you call or let in is known from then on."


def _one_contact(answer: Answer, name: Callable[[PeerID], str], now: float) -> Iterator[str]:
    yield contact_line(answer)


def _rename(answer: Answer, name: Callable[[PeerID], str], now: float) -> Iterator[str]:
    yield f"You call yourself {printable(answer['name'])} from now on."


def _conversations(answer: Answer, name: Callable[[PeerID], str], now: float) -> Iterator[str]:
    for chat in answer["conversations"]:
        peer = PeerID.parse(chat["peer"])
        facts = [link_in_words(chat["link"]) if chat["link"] else chat["stage"] or "away"]
        if chat["unread"]:
            facts.append(f"{chat['unread']:,} unread")
        if chat["waiting"]:
            facts.append(f"{chat['waiting']:,} waiting")
        yield f"{name(peer):<16} {', '.join(facts)}"
    if not answer["conversations"]:
        yield "There are no chats yet."


def link_in_words(link: Answer) -> str:
    """Return a link in words, from the fields of `punch.ui.json.events.link_fields`."""
    if link["dark"]:
        return "path lost, looking for another"
    keys = ", post-quantum key exchange" if link.get("post_quantum") else ""
    if link.get("post_quantum_offers"):
        keys += ", post-quantum offers"
    slowed = ", slowed down by it" if link.get("slowed") else ""
    path = path_in_words(link["path"], link["protocol"])
    return f"{path}{slowed}, round trip {milliseconds(link['rtt'])}{keys}"


def _unregistered(answer: Answer) -> str:
    problem = answer.get("problem")
    why = "" if problem is None else f" {printable(problem['text'])}"
    return f"Not registered: nobody can call.{why}" if why else "Not registered: nobody can call"


def _status(answer: Answer, name: Callable[[PeerID], str], now: float) -> Iterator[str]:
    yield f"Your ID: {answer['id']} ({printable(answer['name'])})"
    where = answer.get("rendezvous")
    keys = ", post-quantum key exchange" if answer.get("post_quantum") else ""
    yield f"Registered at {printable(where)}{keys}" if where else _unregistered(answer)
    for link in answer.get("links", ()):
        peer = PeerID.parse(link["peer"])
        yield f"{name(peer)}: {peer}, {link_in_words(link)}"
        if cost := cost_in_words(link.get("techniques", {})):
            yield f"{name(peer)}: sent for a direct path: {cost}"
    for mapping in answer.get("port_mappings", ()):
        external, local = printable(mapping["external"]), printable(mapping["local"])
        what = "TCP connections to " if mapping.get("protocol") == "tcp" else ""
        yield f"The router passes {what}{external} on to {local} ({printable(mapping['method'])})"
    if asked := requests_in_words(answer.get("port_mapping_requests", {})):
        yield f"Sent to routers for ports: {asked}"
    for nat in answer.get("nats", ()):
        yield nat_in_words(NatProfile.from_json(nat))
    for text in answer.get("calling", ()):
        yield f"Calling {name(PeerID.parse(text))}"
    for service in answer.get("services", ()):
        yield f"Service {printable(service['service'])}{_allowed(service['allow'], name)}"
    for transfer in answer.get("transfers", ()):
        yield f"Transfer {transfer_line(transfer, name(PeerID.parse(transfer['peer'])))}"
    for report in answer.get("program_transfers", ()):
        yield _reported(report, name(PeerID.parse(report["peer"])))
    if answer.get("connections"):
        yield f"{count(answer['connections'], 'connection')} of programs that share this node"
    for text in answer.get("questions", ()):
        yield f"{name(PeerID.parse(text))} is calling: /accept or /reject"
    for text, number in answer.get("waiting", {}).items():
        yield f"{count(number, 'message')} waiting for {name(PeerID.parse(text))}"
    if not answer.get("history", True):
        yield "Nothing is kept on disk (--no-history)"


def _reported(report: Answer, who: str) -> str:
    """Return one line for a transfer of another program that shares the node (`punch.local.access`)."""
    name, size = name_text(report["name"]), report["size"]
    what = name if report["items"] == 1 else f"{name} and {report['items'] - 1:,} more"
    size_text = "" if size is None else f" ({format_bytes(size)})"
    way = "to" if report["outgoing"] else "from"
    state = {
        "offered": "waits for an answer",
        "waiting": "has no link now, is tried again",
    }.get(report["stage"]) or progress_text(report["position"], size, 0.0)
    return f"Transfer of {printable(report['program'])}: {what}{size_text} {way} {who}: {state}"


def _allowed(allow: str | list[str] | None, name: Callable[[PeerID], str]) -> str:
    """Return who may open a service, to be written behind its name; "" if its program decides that."""
    if allow is None:
        return ""
    if isinstance(allow, str):
        return " for anyone" if allow == "anyone" else " for peers that were granted it"
    return " for " + ", ".join(name(PeerID.parse(peer)) for peer in allow)


def _netcheck(answer: Answer, name: Callable[[PeerID], str], now: float) -> Iterator[str]:
    told = [str(sentence) for sentence in (answer.get("problem"), *answer.get("conclusions", ())) if sentence]
    for sentence in dict.fromkeys(told):
        yield printable(sentence)


_TELLERS: Mapping[str, Callable[[Answer, Callable[[PeerID], str], float], Iterator[str]]] = {
    "invite": _invite,
    "transfers": _transfer_list,
    "send-files": _transfer,
    "accept-files": _transfer,
    "refuse-files": _transfer,
    "stop-files": _transfer,
    "dismiss-files": _transfer,
    "open-folder": _transfer,
    "join": _join,
    "history": _history,
    "search": _search,
    "export": _export,
    "erase": _erase,
    "retention": _retention,
    "peers": _peers,
    "name": _one_contact,
    "block": _one_contact,
    "unblock": _one_contact,
    "grant": _one_contact,
    "revoke": _one_contact,
    "rename": _rename,
    "conversations": _conversations,
    "status": _status,
    "netcheck": _netcheck,
    "web": _web,
}
