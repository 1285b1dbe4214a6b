"""
Petnames: this side's own names for peers.

A petname is usable wherever an ID is, so it is unique in the address book and can't look like an ID.
"""

from __future__ import annotations

import re
import unicodedata

from punch import names
from punch.sanitize import quoted

#: Longest petname, in characters.
MAX_NAME = 64

#: Longest claimed name that is kept, in characters.
MAX_CLAIMED = 64

#: Names that no version of Punch accepted, because they could be IDs.
_LIKE_AN_ID = re.compile("-*([a-z2-7]-*){24,}")


class BadPetname(ValueError):
    """It can't be a petname; `str()` is a sentence, `code` is for programs."""

    code = "bad-name"


def check_name(name: str) -> str:
    """
    Return a petname in its normal form, without invisible characters.

    :raise BadPetname: it can't be a petname.
    """
    seen = name if set(name) & names.REORDERING else names.without_ignorable(name)
    name = unicodedata.normalize("NFC", seen.strip())
    if not _has_form(name):
        raise BadPetname(
            f"The name {quoted(name, MAX_NAME)} can't be used: names have 1 to {MAX_NAME} letters, digits, "
            "dots, dashes and underscores, and begin with a letter or a digit.",
        )
    if names.looks_like_an_id(name):
        raise BadPetname(
            f"The name {quoted(name)} looks like a peer ID: choose one that can't be taken for one.",
        )
    return name


def _has_form(name: str) -> bool:
    return 1 <= len(name) <= MAX_NAME and all(map(_allowed, name)) and name[0].isalnum()


def check_new_name(name: str) -> str:
    """
    Return a new petname in its normal form, as `check_name`. It may not be a word of the interface.

    :raise BadPetname: it can't be a petname.
    """
    name = check_name(name)
    if key(name) in names.RESERVED:
        raise BadPetname(f"The name {quoted(name)} means something else here: choose another one.")
    return name


def _allowed(character: str) -> bool:
    return character in "._-" or unicodedata.category(character)[0] in "LMN"


def name_from(claimed: str) -> str | None:
    """A petname made from a peer's own name for itself; None if that can't be used."""
    seen = names.without_ignorable(unicodedata.normalize("NFC", claimed[:MAX_CLAIMED]))
    if names.is_misleading(seen):
        return None
    kept = "".join(c if _allowed(c) else "-" for c in seen)[:MAX_NAME].strip("-")
    try:
        name = check_new_name(kept)
    except BadPetname:
        return None
    return None if names.is_misleading(name) else name


def key(name: str) -> str:
    """What two petnames have in common that differ in upper and lower case alone."""
    folded = unicodedata.normalize("NFKC", names.without_ignorable(name)).casefold()
    return unicodedata.normalize("NFKC", folded)


def old_key(name: str) -> str:
    """As `key`, in earlier versions."""
    return unicodedata.normalize("NFKC", unicodedata.normalize("NFKC", name).casefold())


def was_possible(name: str) -> bool:
    """Whether some version of Punch gave such a name."""
    return _has_form(name) and not _LIKE_AN_ID.fullmatch(old_key(name))
