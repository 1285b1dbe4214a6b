"""
What users are told of peer IDs, names, addresses, keys and kept files that can't be used.

The errors that other modules raise have codes and fields. The sentences for them are here, and not in
`punch.ui`, because errors of the node's socket (`punch.local`) contain them, too.
"""

from __future__ import annotations

import shlex

from punch.contacts import AddressBookError, AddressBookProblem, UnknownPeer
from punch.files import unusable_sentence
from punch.identity import PIN_VERSION, IdentityError, IdentityProblem, PeerIDError
from punch.link.events import MAX_NAME as MAX_SERVICE_NAME
from punch.names import MAX_PETNAME, BadPetname, PetnameProblem
from punch.sanitize import quoted
from punch.state import MAX_NAME
from punch.state_files import IdentityInUse, StateError, StateProblem
from punch.wire.invitation import InvitationError
from punch.wire.rendezvous_address import MAX_ADDRESSES, RendezvousAddressError
from punch.wire.rendezvous_address import RendezvousAddressProblem as AddressProblem
from punch.wire.turn import TurnURIError, TurnURIProblem

Problem = (
    PeerIDError
    | UnknownPeer
    | BadPetname
    | AddressBookError
    | IdentityError
    | StateError
    | RendezvousAddressError
    | InvitationError
    | TurnURIError
)
"""The errors that this module has sentences for."""

_OTHER_DIRECTORY = "choose another directory with --state-dir"
_SHOWN = 64
"""The most characters of the name of a service that are shown."""

_PETNAMES = {
    PetnameProblem.FORM: f"The name {{name}} can't be used: names have 1 to {MAX_PETNAME} letters, digits, "
    "dots, dashes and underscores, and begin with a letter or a digit.",
    PetnameProblem.LIKE_AN_ID: "The name {name} looks like a peer ID: choose one that can't be taken for "
    "one.",
    PetnameProblem.RESERVED: "The name {name} means something else here: choose another one.",
}
_KEYS = {
    IdentityProblem.ENCRYPTED: "The private key is encrypted with a passphrase, which Punch can't ask for.",
    IdentityProblem.NO_KEY: "There is no private key in PEM form in it.",
    IdentityProblem.OTHER_KEY: "The private key in it is not an Ed25519 key.",
    IdentityProblem.VANISHED: "The key file {path} vanished while it was being read. Start again.",
    IdentityProblem.CONTENT: "The key file {path} can't be used: {cause} Move it away and a new key (a new "
    "ID) will be made.",
    IdentityProblem.MODE: "Other users can read or change the key file {path} (mode {mode:04o}). Run: chmod "
    "600 {quoted_path}",
}
_PARTS = {"@": "user name", "#": "fragment", "/": "slash", "%": "interface"}
"""For each character that neither a rendezvous address nor a TURN URI may have, what it is or begins."""
_ADDRESSES = {
    AddressProblem.TOO_MANY: f"There are {{plain}} rendezvous addresses; give at most {MAX_ADDRESSES}.",
    AddressProblem.PINS: "The rendezvous addresses have different pins, so they are of different "
    "services; give addresses of one service.",
    AddressProblem.EMPTY: "The rendezvous address is empty: the service prints it when it starts, "
    "as punch://host:port/PIN.",
    AddressProblem.SCHEME: "A rendezvous address begins with punch://, not with {short}.",
    AddressProblem.CHARACTER: "A rendezvous address has no {part} ({plain}): it is punch://host:port/PIN.",
    AddressProblem.QUERY: "After the ? of a rendezvous address comes an invitation, as in "
    "punch://host:port/PIN?token=TOKEN, not {short}.",
    AddressProblem.OTHER_INVITATION: "The invitation is for another rendezvous than the one that the "
    "address names: copy the whole address again, or ask whoever invited you for a new one.",
    AddressProblem.OPEN_BRACKET: "The ] after the IPv6 address is missing in {found}.",
    AddressProblem.IN_BRACKETS: "In brackets stands an IPv6 address, not {found}.",
    AddressProblem.AFTER_BRACKETS: "After the ] comes a colon and a port, not {short}.",
    AddressProblem.BRACKETS: "An IPv6 address stands in brackets, as in punch://[2001:db8::1]:7001, "
    "unlike {found}.",
    AddressProblem.PORT: "The port of a rendezvous address is a number from 1 to 65535, not {short}.",
    AddressProblem.NO_HOST: "The host is missing in the rendezvous address: it is punch://host:port/PIN.",
    AddressProblem.IP_ADDRESS: "{found} is no IP address.",
    AddressProblem.NOT_ONE_HOST: "{plain} is not the address of one host: give the one that the "
    "rendezvous is reached at.",
    AddressProblem.HOST: "{found} is no host name and no IP address. A rendezvous address is "
    "punch://host:port/PIN.",
    AddressProblem.PEER_ID: "This is a peer ID, not a rendezvous address: the service prints its "
    "address when it starts, as punch://host:port/PIN.",
    AddressProblem.PEER_ID_FOR_PIN: "What follows the host is a peer ID, not the pin of the "
    "rendezvous: copy the address again as the service prints it when it starts.",
    AddressProblem.PIN_VERSION: "The pin of the rendezvous has version {plain} and this Punch knows "
    f"version {PIN_VERSION}: install a newer Punch.",
}
_TURN_FORM = "it is turn:host:port?transport=udp (or tcp), or turns:host:port."
_TURN_URIS = {
    TurnURIProblem.FORM: f"{{long}} is no TURN URI: {_TURN_FORM}",
    TurnURIProblem.TLS_TRANSPORT: "turns: is TLS over TCP here, so {found} can't be its transport.",
    TurnURIProblem.TRANSPORT: "The transport of a TURN URI is udp or tcp, not {found}.",
    TurnURIProblem.CHARACTER: f"There is no {{part}} ({{plain}}) in a TURN URI: {_TURN_FORM}",
    TurnURIProblem.BRACKETS: "An IPv6 address stands in brackets, as in turn:[2001:db8::1]:3478, unlike "
    "{found}.",
    TurnURIProblem.LOCATION: f"{{found}} is not the host and port of a TURN URI: {_TURN_FORM}",
    TurnURIProblem.NO_HOST: f"The host is missing in the TURN URI: {_TURN_FORM}",
    TurnURIProblem.PORT: "The port of a TURN URI is a number from 1 to 65535, not {short}.",
    TurnURIProblem.HOST: "{found} is no DNS name and no address of one host.",
}


def sentence_of(error: Problem) -> str:
    """Return what the user is told of an error: what can't be used, why, and what to do."""
    match error:
        case UnknownPeer():
            return _unknown_peer(error)
        case BadPetname():
            return _PETNAMES[error.problem].format(name=quoted(error.name, MAX_PETNAME))
        case AddressBookError():
            return _address_book(error)
        case IdentityError():
            return _identity(error)
        case StateError():
            return _state(error)
        case RendezvousAddressError():
            if error.cause is not None:
                return sentence_of(error.cause)
            return _ADDRESSES[error.problem].format_map(_parts_of(error.found))
        case TurnURIError():
            return _TURN_URIS[error.problem].format_map(_parts_of(error.found))
    # The texts of `PeerIDError`, which a rendezvous sends to peers, and of `InvitationError` are sentences
    return str(error)


def _parts_of(found: str) -> dict[str, str]:
    """Return the fields of the sentences about the part of a text that is wrong."""
    return {
        "plain": found,
        "short": repr(found[:20]),
        "found": repr(found[:60]),
        "long": repr(found[:80]),
        "part": _PARTS.get(found, ""),
    }


def _unknown_peer(error: UnknownPeer) -> str:
    if error.cause is not None:
        return str(error.cause)
    near = " or ".join(error.near)
    hint = f"Did you mean {near}?" if near else "punch peers, or /peers in a chat, lists the names."
    return f"{quoted(error.name)} is neither a name in the address book nor a peer ID. {hint}"


def _address_book(error: AddressBookError) -> str:
    path, name, peer = error.path, error.name, "" if error.peer is None else error.peer.short
    match error.problem, error.cause:
        case AddressBookProblem.FILE, OSError() as cause:
            # The file that can't be used may be the lock, which is beside the book
            return unusable_sentence(
                f"The address book's file {cause.filename or path}", cause, _OTHER_DIRECTORY
            )
        case AddressBookProblem.NAME, BadPetname() as cause:
            return sentence_of(cause)
        case AddressBookProblem.STATE, StateError() as cause:
            return sentence_of(cause)
        case AddressBookProblem.HELD, _:
            return f"The address book {path} is held by another process: try again."
        case AddressBookProblem.NEWER, _:
            return (
                f"The address book {path} was written by a newer version of Punch: use that one, or "
                f"{_OTHER_DIRECTORY}."
            )
        case AddressBookProblem.NAME_TAKEN, _:
            return f"The name {quoted(name)} is {peer}'s already: choose another one."
        case AddressBookProblem.SERVICE, _:
            return (
                f"{quoted(name, _SHOWN)} is no name of a service: such names, as echo/1, have 1 to "
                f"{MAX_SERVICE_NAME} bytes of printable characters."
            )
        case AddressBookProblem.OPEN_SERVICE, _:
            return f"The service {quoted(name)} needs no grant: every peer with a link may open it."
        case AddressBookProblem.NOT_GRANTED, _:
            return f"The service {quoted(name, _SHOWN)} is not granted to {peer}."
        case AddressBookProblem.OPEN_NOT_GRANTED, _:
            return (
                f"The service {quoted(name, _SHOWN)} is not granted to {peer}. To keep a peer from opening "
                "it, block the peer."
            )
        case AddressBookProblem.UNKNOWN_PEER, _:
            return f"{peer} is not in the address book."
    return f"The address book {path} is damaged. Repair it, or move it away and it will be begun anew."


def _identity(error: IdentityError) -> str:
    if isinstance(error.cause, OSError):
        return unusable_sentence(f"The key file {error.path}", error.cause, _OTHER_DIRECTORY)
    return _KEYS[error.problem].format(
        path=error.path,
        quoted_path=shlex.quote(str(error.path)),
        mode=error.mode,
        cause="" if error.cause is None else sentence_of(error.cause),
    )


def _state(error: StateError) -> str:
    path, name = error.path, error.name
    match error.cause:
        case OSError() as cause:
            return unusable_sentence(f"The state file {path}", cause, _OTHER_DIRECTORY)
        case IdentityError() | AddressBookError() as cause:
            return sentence_of(cause)
    if isinstance(error, IdentityInUse):
        return _in_use(name, error.holder)
    if error.problem is StateProblem.NO_IDENTITY:
        return f"There is no identity {quoted(name)} in {path}."
    if error.problem is StateProblem.HOME:
        return (
            f"The state directory {path} can't be found: there is no such user, or no home. Choose another "
            "directory with --state-dir."
        )
    return (
        f"The name {quoted(name, MAX_NAME)} can't be used: --name takes 1 to {MAX_NAME} letters, "
        "digits, dots, dashes and underscores, and does not begin with a dot."
    )


def _in_use(name: str, holder: str) -> str:
    if not holder:
        return (
            f"Another process already runs with the identity {name!r}. End that one, or give this one an "
            "identity of its own with --name."
        )
    return (
        f"{holder} already runs with the identity {name!r}. End it, start this first, and then the other one "
        "again, which will use the node of this one. Or give this one an identity of its own with --name."
    )
