"""
Names of peers: invisible characters, names that look alike or like a peer ID, and what a petname may be.

Two names look alike if their skeletons are the same (UTS #39, section 4), in whatever case each is written.
So do names that differ only in accents that any letter may carry (U+0300 to U+036F and such).

Petnames are this side's own names for peers. One is usable wherever an ID is, so it is unique in the address
book and can't look like an ID.
"""

from __future__ import annotations

import re
import unicodedata
from enum import Enum
from functools import cache, lru_cache

_WORDS = """
    you me myself all everything everyone everybody nobody anyone off never forever ever punch system y yes n
    no to help chats list nick clear msg whois who id q exit
    call accept reject send hangup quit read history search export erase retention peers name block unblock
    grant revoke forget rename status netcheck conversations web
    invite uninvite join transfers send-files accept-files refuse-files stop-files dismiss-files open-folder
"""

RESERVED = frozenset(_WORDS.split())
"""
Words that mean something else in the interface, and its commands. No peer gets such a name automatically.
"""

_ID_LIKE = 24
"""A name looks like an ID if it has so many letters that may be in IDs, and little else."""
_ID_LETTERS = frozenset("abcdefghijklmnopqrstuvwxyz234567")

_LIKE_LATIN = frozenset(("LATIN", "CYRILLIC", "GREEK", "COPTIC", "ARMENIAN", "CHEROKEE", "LISU", "DESERET"))
"""Scripts with many letters that look like those of the others."""

_WITH_LOOSE_MARKS = _LIKE_LATIN | {"DIGIT"}
"""The same scripts, and digits: accents and strokes on their characters do not make another word."""

_BLANK = frozenset("\u2800\U00013441\U00013442\U00016fe4\U0001d159")
"""Letters and marks that are blank, though Unicode does not call them ignorable."""

REORDERING = frozenset("\u202a\u202b\u202c\u202d\u202e\u2066\u2067\u2068\u2069")
"""Characters that reorder the text around them, so that it reads as something else."""

_KANA_MARKS = frozenset("\u3099\u309a")
"""The marks that make another letter of a kana."""
_KANA = frozenset(("HIRAGANA", "KATAKANA", "HALFWIDTH"))
"""The scripts that kana belong to."""

_LOOSE_MARKS = ((0x300, 0x36F), (0x1AB0, 0x1AFF), (0x1DC0, 0x1DFF), (0x20D0, 0x20FF), (0xFE20, 0xFE2F))
"""Marks that can stand over any letter: blocks of combining diacritical marks."""


def is_ignorable(character: str) -> bool:
    """Whether a character is invisible: Default_Ignorable_Code_Point, category Cf, or a blank letter."""
    return not character.isascii() and (
        character in _ignorable() or character in _BLANK or unicodedata.category(character) == "Cf"
    )


def without_ignorable(text: str) -> str:
    """Return `text` without invisible characters."""
    return text if text.isascii() else "".join(c for c in text if not is_ignorable(c))


def without_format(text: str) -> str:
    """Return `text` without format characters (Cf), such as zero-width spaces and soft hyphens."""
    return text if text.isascii() else "".join(c for c in text if unicodedata.category(c) != "Cf")


def without_leading_format(text: str) -> str:
    """Return `text` without the format characters at its start."""
    for index, character in enumerate(text):
        if unicodedata.category(character) != "Cf":
            return text[index:]
    return text


def skeleton(text: str) -> str:
    """The skeleton of `text`: texts with the same skeleton look alike (UTS #39, section 4)."""
    table = _prototypes()
    seen = without_ignorable(unicodedata.normalize("NFD", text))
    return unicodedata.normalize("NFD", "".join(table.get(c, c) for c in seen))


@lru_cache(maxsize=4096)
def skeletons(name: str) -> frozenset[str]:
    """The skeletons of a name in each case. Two names look alike if they have one in common."""
    if name.isascii():
        table = _ascii_prototypes()
        return frozenset(
            form.translate(table).casefold() for form in (name, name.lower(), name.upper()) if form
        )
    plain = without_ignorable(unicodedata.normalize("NFKC", name))
    bare = _without_foreign_marks(unicodedata.normalize("NFD", plain))
    forms = {bare, bare.casefold(), bare.upper()}
    return frozenset(found for form in forms if (found := _bare_skeleton(form)))


def alike(one: str, other: str) -> bool:
    """Whether two names look alike."""
    return not skeletons(one).isdisjoint(skeletons(other))


def runs(name: str, size: int) -> frozenset[str]:
    """All runs of `size` letters and digits in a name, whatever else stands between them."""
    letters = [c for c in without_ignorable(unicodedata.normalize("NFKC", name)) if c.isalnum()]
    return frozenset("".join(letters[at : at + size]) for at in range(len(letters) - size + 1))


def mentions(name: str, short: str) -> bool:
    """Whether a part of a name looks like `short`, the beginning of an ID as it is shown beside names."""
    return any(alike(run, short) for run in runs(name, len(short)))


def is_reserved(name: str) -> bool:
    """Whether a name looks like a word that the interface uses itself."""
    return not skeletons(name).isdisjoint(_reserved_skeletons())


def is_mixed(name: str) -> bool:
    """Whether a name mixes letters of scripts that look alike, which hardly any real name does."""
    plain = without_ignorable(unicodedata.normalize("NFKC", name))
    found = {script_of(c) for c in plain if c.isalpha()}
    return len(found & _LIKE_LATIN) > 1


def is_misleading(name: str) -> bool:
    """Whether a name looks like a word of the interface or an ID, or mixes scripts that look alike."""
    return is_reserved(name) or is_mixed(name) or looks_like_an_id(name)


def looks_like_an_id(name: str) -> bool:
    """Whether a name looks like a peer ID or the start of one."""
    for form in (name, name.casefold(), name.upper()):
        plain = _without_foreign_marks(unicodedata.normalize("NFKC", form))
        shown = "".join(c if c.isascii() else skeleton(c) for c in plain).casefold()
        letters = [character for character in shown if character.isalnum()]
        marks = sum(map(_is_mark, shown))
        of_an_id = sum(letter in _ID_LETTERS for letter in letters)
        if of_an_id >= _ID_LIKE and of_an_id >= 0.75 * len(letters) and marks <= 0.25 * len(letters):
            return True
    return False


def _bare_skeleton(form: str) -> str:
    # A prototype may contain a mark, such as a stroke through a letter. In other scripts marks are vowels.
    kept, base = [], ""
    for character in skeleton(form):
        if not _is_mark(character):
            base = script_of(character)
        elif _is_loose_mark(character) and base in _WITH_LOOSE_MARKS:
            continue
        kept.append(character)
    return "".join(kept).casefold()


def _is_mark(character: str) -> bool:
    return unicodedata.category(character)[0] == "M"


def _is_loose_mark(character: str) -> bool:
    return any(first <= ord(character) <= last for first, last in _LOOSE_MARKS)


def _without_foreign_marks(text: str) -> str:
    """
    Return `text` without marks that can stand over any letter, and without marks of one script over a letter
    of another one, which are not part of any word.
    """
    kept, base = [], ""
    for character in text:
        if not _is_mark(character):
            base = script_of(character)
        elif character in _KANA_MARKS:
            if base not in _KANA:
                continue
        elif _is_loose_mark(character) or script_of(character) != base:
            continue
        kept.append(character)
    return "".join(kept)


def script_of(character: str) -> str:
    """The first word of a character's Unicode name, which is the script of letters and most marks."""
    return unicodedata.name(character, "").partition(" ")[0]


@cache
def _reserved_skeletons() -> frozenset[str]:
    return frozenset(found for word in RESERVED for found in skeletons(word))


@cache
def _ignorable() -> frozenset[str]:
    from punch.unicode_tables import DEFAULT_IGNORABLE

    return frozenset(chr(code) for first, last in DEFAULT_IGNORABLE for code in range(first, last + 1))


@cache
def _ascii_prototypes() -> dict[int, str]:
    return {ord(c): prototype for c, prototype in _prototypes().items() if c.isascii()}


@cache
def _prototypes() -> dict[str, str]:
    # Not at the top, because only comparing names needs it.
    from punch.unicode_tables import CONFUSABLES

    table: dict[str, str] = {}
    for line in CONFUSABLES.split("\n"):
        prototype, _, sources = line.partition(" ")
        if prototype:
            text = "".join(chr(int(code, 16)) for code in prototype.split("+"))
            table.update((chr(int(code, 16)), text) for code in sources.split())
    return table


# -- petnames: this side's own names for peers --

MAX_PETNAME = 64
"""The longest petname, in characters."""

MAX_CLAIMED = 64
"""The longest name of a peer for itself that is kept, in characters."""

_LIKE_AN_ID = re.compile("-*([a-z2-7]-*){24,}")
"""Names that no version of Punch accepted, because they could be IDs."""


class PetnameProblem(str, Enum):
    """Why a text can't be a petname."""

    FORM = "form"
    """It is too long or too short, or has other characters than petnames have."""
    LIKE_AN_ID = "like-an-id"
    """It looks like a peer ID."""
    RESERVED = "reserved"
    """It is a word of the interface."""


class BadPetname(ValueError):
    """
    A text can't be a petname.

    :ivar problem: why not.
    :ivar name: the text.
    """

    code = "bad-name"
    """What programs are told."""

    def __init__(self, problem: PetnameProblem, name: str) -> None:
        super().__init__(problem.value, name)
        self.problem = problem
        self.name = name


def check_petname(name: str) -> str:
    """
    Return a petname in its normal form, without invisible characters.

    :raise BadPetname: it can't be a petname.
    """
    seen = name if set(name) & REORDERING else without_ignorable(name)
    name = unicodedata.normalize("NFC", seen.strip())
    if not _has_form(name):
        raise BadPetname(PetnameProblem.FORM, name)
    if looks_like_an_id(name):
        raise BadPetname(PetnameProblem.LIKE_AN_ID, name)
    return name


def _has_form(name: str) -> bool:
    return 1 <= len(name) <= MAX_PETNAME and all(map(_allowed, name)) and name[0].isalnum()


def check_new_petname(name: str) -> str:
    """
    Return a new petname in its normal form, as `check_petname`. It may not be a word of the interface.

    :raise BadPetname: it can't be a petname.
    """
    name = check_petname(name)
    if petname_key(name) in RESERVED:
        raise BadPetname(PetnameProblem.RESERVED, name)
    return name


def _allowed(character: str) -> bool:
    return character in "._-" or unicodedata.category(character)[0] in "LMN"


def petname_from(claimed: str) -> str | None:
    """Return a petname made from a peer's own name for itself; None if that can't be used."""
    seen = without_ignorable(unicodedata.normalize("NFC", claimed[:MAX_CLAIMED]))
    if is_misleading(seen):
        return None
    kept = "".join(c if _allowed(c) else "-" for c in seen)[:MAX_PETNAME].strip("-")
    try:
        name = check_new_petname(kept)
    except BadPetname:
        return None
    return None if is_misleading(name) else name


def petname_key(name: str) -> str:
    """Return a key that is the same for petnames which differ in upper and lower case alone."""
    folded = unicodedata.normalize("NFKC", without_ignorable(name)).casefold()
    return unicodedata.normalize("NFKC", folded)


def old_petname_key(name: str) -> str:
    """Return the key that earlier versions had in place of `petname_key`."""
    return unicodedata.normalize("NFKC", unicodedata.normalize("NFKC", name).casefold())


def was_petname(name: str) -> bool:
    """Whether some version of Punch accepted such a petname."""
    return _has_form(name) and not _LIKE_AN_ID.fullmatch(old_petname_key(name))
