"""Whom a person means: a name of the address book, or a peer ID as it was typed or pasted."""

from __future__ import annotations

from collections.abc import Iterable
from itertools import islice

from punch import names
from punch.contacts import AddressBook
from punch.identity import TEXT_LENGTH, PeerID, PeerIDError
from punch.sanitize import quoted

#: Names that are looked at for one that is near, and how many of them are told.
MAX_COMPARED, MAX_TOLD = 5000, 3

#: Longest text that may be a name.
_MAX_NAME = 40


class UnknownPeer(ValueError):
    """Nobody is meant; `str()` is a sentence for the user."""


def find_peer(book: AddressBook, text: str, others: Iterable[str] = ()) -> PeerID:
    """
    Whom `text` means. What is not seen in it (Unicode Cf) is ignored.

    :param others: names that could have been typed as well, for the sentence.
    :raise UnknownPeer: nobody; a name is called that, and an ID with a typo that.
    """
    typed = names.without_format(text).strip()
    named = book.find(typed)
    if named is not None:
        return named
    try:
        return PeerID.parse(typed)
    except PeerIDError as error:
        if not typed or "://" in typed or not is_name(typed):
            raise UnknownPeer(str(error)) from None
    near = near_names(typed, [*islice(_names(book), MAX_COMPARED), *others])
    what = " or ".join(near)
    hint = f"Did you mean {what}?" if near else "punch peers, or /peers in a chat, lists the names."
    raise UnknownPeer(f"{quoted(typed)} is neither a name in the address book nor a peer ID. {hint}")


def near_names(typed: str, known: Iterable[str]) -> list[str]:
    """Names that are written nearly so, or look so, the nearest first."""
    # Only a name that is unknown needs it, and each start would pay for it.
    from difflib import get_close_matches

    folded = {name.casefold(): name for name in known}
    alike = [name for key, name in folded.items() if names.alike(name, typed)]
    close = get_close_matches(typed.casefold(), folded, MAX_TOLD)
    begin = [name for key, name in folded.items() if key.startswith(typed.casefold())]
    found = dict.fromkeys([*alike, *(folded[key] for key in close), *begin])
    return list(found)[:MAX_TOLD]


def _names(book: AddressBook) -> Iterable[str]:
    return (name for peer in book if (name := book.name_of(peer)) is not None)


def is_name(typed: str) -> bool:
    """Whether it was rather meant as a name than as an ID."""
    compact = "".join(typed.split())
    return len(compact) <= _MAX_NAME and len(compact) < TEXT_LENGTH and not names.looks_like_an_id(compact)
