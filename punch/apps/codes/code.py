"""
Codes, such as 48213-mayonnaise-coyote-tulip: a number and three words. Also what codes are used for, and how
an exchange by a code can end.

The number says where the other side waits: it is registered with the rendezvous under a key that is derived
from the number. The words are secret, and never leave this machine: see `punch.apps.codes.exchange`.
"""

from __future__ import annotations

import os
import re
import unicodedata
from dataclasses import dataclass
from enum import Enum
from functools import cache
from hashlib import sha256

from punch.contacts import near_names
from punch.identity import Identity, PeerID, RandomBytes
from punch.names import without_format

FIRST_NUMBER, LAST_NUMBER = 10_000, 99_999
"""All numbers have five digits."""
WORDS = 3
"""Words of a code, each one of 1,295: 31 bits."""

LIFE = 600.0
"""Seconds for which a code is good."""
REGISTERED_NAME = "code"
"""What both sides call themselves at the rendezvous, which learns no other name."""

_LABEL = b"punch/1 code number\0"
_LONGEST_TYPED = 40
"""Characters of a typed word that are compared with words of codes."""


class CodeProblem(str, Enum):
    """What is wrong with a text that should be a code."""

    EMPTY = "empty"
    NUMBER = "number"
    """It does not begin with a number of five digits; `found` is what it begins with."""
    WORD = "word"
    """It has a word that is in no code, `found`; `near` is one that is like it, or ""."""
    LENGTH = "length"
    """It has another number of words, `found`."""


class CodeError(ValueError):
    """
    A text is no code.

    :ivar problem: what is wrong.
    :ivar found: the part of the text that is wrong, never the whole code.
    :ivar near: a word of codes that is like `found`, or "".
    """

    def __init__(self, problem: CodeProblem, found: str = "", near: str = "") -> None:
        super().__init__(problem.value)
        self.problem = problem
        self.found = found
        self.near = near


@cache
def words() -> tuple[str, ...]:
    """
    The words that codes are made of: those of the EFF's second short list that have no dash. No two begin
    with the same three letters.
    """
    from importlib.resources import files

    text = files("punch.apps.codes").joinpath("words.txt").read_text("ascii")
    return tuple(word for word in text.split() if word.isalpha())


@dataclass(frozen=True)
class Code:
    """A code. `str()` is what the user passes on."""

    number: int
    words: tuple[str, ...]

    @classmethod
    def generate(cls, random: RandomBytes = os.urandom) -> Code:
        """Make a new code."""
        number = FIRST_NUMBER + _below(LAST_NUMBER + 1 - FIRST_NUMBER, random)
        return cls(number, tuple(words()[_below(len(words()), random)] for _ in range(WORDS)))

    @classmethod
    def parse(cls, text: str) -> Code:
        """
        Read a code that a person typed or pasted: in upper or lower case, with any dashes or spaces.
        Letters and digits of an input method (full width) are those that they stand for.

        :raise CodeError: the text is no code.
        """
        plain = unicodedata.normalize("NFKC", without_format(text)).lower()
        number, *typed = [part for part in re.split(r"[\W_]+", plain) if part] or [plain.strip(" -")]
        if not number:
            raise CodeError(CodeProblem.EMPTY)
        if re.fullmatch(f"[1-9][0-9]{{{len(str(LAST_NUMBER)) - 1}}}", number) is None:
            raise CodeError(CodeProblem.NUMBER, number)
        for word in typed:
            if word not in words():
                near = near_names(word[:_LONGEST_TYPED], words())
                raise CodeError(CodeProblem.WORD, word, near[0] if near else "")
        if len(typed) != WORDS:
            raise CodeError(CodeProblem.LENGTH, str(len(typed)))
        return cls(int(number), tuple(typed))

    def __str__(self) -> str:
        return "-".join((str(self.number), *self.words))

    @property
    def password(self) -> bytes:
        """What both sides prove to know."""
        return str(self).encode("ascii")

    @property
    def identity(self) -> Identity:
        """
        The key under which the side that made the code waits. Everybody can derive it from the number, so it
        proves nothing.
        """
        seed = sha256(_LABEL + str(self.number).encode("ascii")).digest()
        return Identity.generate(lambda size: seed[:size])


def completions(text: str) -> tuple[str, list[str]]:
    """
    Return the part of a word with which a code that is being typed ends, and the words that begin so; none
    before the number is there, and none behind the last word.
    """
    number, *typed = re.split(r"[\W_]+", text.lstrip().lower())
    if not number.isdecimal() or not 1 <= len(typed) <= WORDS or not typed[-1]:
        return "", []
    return typed[-1], [word for word in words() if word.startswith(typed[-1])]


def _below(limit: int, random: RandomBytes) -> int:
    """A random number below `limit`, each with the same probability."""
    size = 4
    usable = (1 << 8 * size) // limit * limit
    while True:
        value = int.from_bytes(random(size), "big")
        if value < usable:
            return value % limit


class CodePurpose(str, Enum):
    """What a code is for. Both sides have to mean the same."""

    CONTACT = "contact"
    """`punch invite` and `punch join`: each gets into the other's address book."""
    FILES = "files"
    """`punch send` without a peer, and `punch receive CODE`."""


@dataclass(frozen=True)
class Card:
    """The identity of one side: a peer ID, whose key has signed this exchange, and its own name."""

    peer: PeerID
    name: str
    purpose: CodePurpose


class CodeFailure(str, Enum):
    """Why an exchange failed, a code for programs."""

    WRONG = "wrong-code"
    """The other side has another code. This one is void."""
    EXPIRED = "code-expired"
    """Nobody has used the code in time."""
    NOBODY = "no-such-code"
    """Nobody waits under the number."""
    NUMBER_TAKEN = "number-taken"
    """Somebody else has registered under the number."""
    TOO_MANY = "too-many"
    """Too many exchanges were begun and not finished."""
    BUSY = "busy"
    """The rendezvous lets nobody call the number now."""
    LOST = "lost"
    """The other side, or the rendezvous, was lost during the exchange."""
    OTHER_PURPOSE = "other-purpose"
    """The code is for another command."""
    OTHER_VERSION = "version"
    """The other side knows another version of this exchange."""
    MALFORMED = "malformed"
    """The other side knows the code, but what it says makes no sense."""


class CodeFailed(Exception):
    """An exchange failed. `card` is that of the other side, if it has proved to know the code."""

    def __init__(self, failure: CodeFailure, card: Card | None = None) -> None:
        super().__init__(failure.value)
        self.failure = failure
        self.card = card
