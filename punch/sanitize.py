"""
Which characters of text from others are shown as they are, which are left out, and which are written as
escapes.

This is the one table for terminals and for the page: `tools/make_shown_js.py` writes it for the latter.

Escapes stand for characters that have an effect instead of being visible: controls, private characters, line
separators, characters that override the direction of the text around them or its shapes, and hidden tags.
Directional marks, and isolates that are closed, are normal in Hebrew and Arabic, which can be read without
them, so they are left out. Tags are kept where they make a flag (UTS #51, ED-14a).
"""

from __future__ import annotations

import re
import unicodedata

from punch.names import is_ignorable, script_of

#: Left out: directional marks (ALM, LRM, RLM).
DROPPED = ((0x61C, 0x61C), (0x200E, 0x200F))

#: Left out in pairs: the beginning of an isolate (LRI, RLI, FSI) and its end (PDI). An isolate ends with its
#: line as well. A beginning without an end in its line is written as an escape, and so is an end without a
#: beginning.
BEGIN_ISOLATE, END_ISOLATE = (0x2066, 0x2068), 0x2069

#: Written as escapes; a line feed and a tab are not.
ESCAPED = (
    (0x00, 0x08),
    (0x0B, 0x1F),
    (0x7F, 0x9F),
    (0x2028, 0x2029),  # line and paragraph separator
    (0x202A, 0x202E),  # directional embeddings and overrides
    (0x2066, 0x206F),  # isolates; deprecated characters that change shapes and mirroring
    (0xD800, 0xF8FF),  # surrogates and private use
    (0xFDD0, 0xFDEF),  # noncharacters
    (0xFFF9, 0xFFFB),  # interlinear annotations
    (0xFFFE, 0xFFFF),
    (0xE0000, 0xE007F),  # tags
    (0xF0000, 0x10FFFF),  # private use
)

#: The base of a flag, and the tags that follow it: a region of two letters and a part of it, and the end.
FLAG, LETTERS, DIGITS, END = 0x1F3F4, (0xE0061, 0xE007A), (0xE0030, 0xE0039), 0xE007F


def _class(*ranges: tuple[int, int]) -> str:
    return "".join(f"\\U{first:08x}-\\U{last:08x}" for first, last in ranges)


_FLAG = f"\\U{FLAG:08x}[{_class(LETTERS)}]{{2}}[{_class(LETTERS, DIGITS)}]{{1,4}}\\U{END:08x}"
_FLAGS = re.compile(_FLAG)
_ACTING = re.compile(f"({_FLAG})|[{_class(*DROPPED)}]|([{_class(*ESCAPED)}])")


_ISOLATES = re.compile(f"[{_class(BEGIN_ISOLATE)}\\U{END_ISOLATE:08x}\n]")

#: Characters that are drawn as one with the character before them, as marks are: the joiner, skin tones and
#: tags.
_JOINER, _TONES, _TAGS = "\u200d", ("\U0001f3fb", "\U0001f3ff"), ("\U000e0020", "\U000e007f")

#: Joiners are invisible, but parts of words in these scripts (UAX #31, section 2.3), and of emoji.
_JOINERS = frozenset("\u200c\u200d")
_JOINED_WORDS = """
    ARABIC SYRIAC MANDAIC MONGOLIAN NKO DEVANAGARI BENGALI GURMUKHI GUJARATI ORIYA TAMIL TELUGU KANNADA
    MALAYALAM SINHALA KHMER MYANMAR TIBETAN
"""
_JOINED = frozenset(_JOINED_WORDS.split())

#: Variation selectors, the scripts that have variants besides symbols and emoji, and the mark of a key (1️⃣).
_SELECTORS = ((0x180B, 0x180D), (0x180F, 0x180F), (0xFE00, 0xFE0F), (0xE0100, 0xE01EF))
_VARIED = frozenset(("CJK", "MONGOLIAN", "MYANMAR", "PHAGS-PA", "MANICHAEAN"))
_KEY = "\u20e3"

#: Two of these make the flag of a country.
_REGIONAL = ("\U0001f1e6", "\U0001f1ff")

#: By how many characters at most a text is cut earlier, so that nothing that is drawn as one is divided.
_MAX_EARLIER = 32


def sanitize(text: str) -> str:
    """
    Return `text` without characters that would have an effect on a terminal or a page instead of being
    visible.
    """
    if text.isascii() and text.isprintable():
        return text
    text = _without_isolates(text)

    def replace(found: re.Match[str]) -> str:
        flag, acting = found.groups()
        return flag or (escaped(acting) if acting else "")

    return _ACTING.sub(replace, text)


def printable(text: str, newline: str = "\\n") -> str:
    """
    Return `text` with escapes for all characters that could have an effect on a terminal.

    :param newline: what a line feed becomes; `"\\n    "` shows further lines indented.
    """
    return sanitize(text.replace("\r\n", "\n")).replace("\n", newline)


def _without_isolates(text: str) -> str:
    """Return `text` without the isolates that begin and end in one line."""
    open_ones: list[int] = []
    paired: set[int] = set()
    for found in _ISOLATES.finditer(text):
        character = found[0]
        if character == "\n":
            open_ones.clear()
        elif ord(character) != END_ISOLATE:
            open_ones.append(found.start())
        elif open_ones:
            paired |= {open_ones.pop(), found.start()}
    return "".join(c for index, c in enumerate(text) if index not in paired) if paired else text


def escaped(character: str) -> str:
    """Return a character as Python writes it in ASCII: `\\x1b`, `\\u202e`, `\\U000e0041`."""
    code = ord(character)
    return f"\\x{code:02x}" if code < 256 else f"\\u{code:04x}" if code < 65536 else f"\\U{code:08x}"


def quoted(text: str, length: int = 4096) -> str:
    """
    Return what the user typed, or the name of a file, in quotes for a sentence: in its own script, on one
    line.

    Invisible characters become escapes, since they may be what is wrong, unless they are parts of words or
    emoji.

    :param length: how many characters are shown at most.
    """
    return f"'{name_on_one_line(cut(text, length))}'"


def name_on_one_line(text: str) -> str:
    """
    Return the name of something on one line. Characters that have an effect instead of being visible, or are
    `unseen`, become escapes.
    """
    hidden = unseen(text)

    def seen(index: int, character: str) -> str:
        # Characters that `sanitize` changes are left to it, since it has to know those around them.
        return escaped(character) if index in hidden and sanitize(character) == character else character

    shown = sanitize("".join(seen(index, character) for index, character in enumerate(text)))
    return shown.replace("\n", "\\n").replace("\t", "\\t")


def unseen(text: str) -> frozenset[int]:
    """
    Return where `text` has invisible characters that are not part of a word, an emoji or a flag: without them
    it looks the same.
    """
    if text.isascii():
        return frozenset()
    in_flags = {index for first, end in flags(text) for index in range(first, end)}
    return frozenset(
        index
        for index, character in enumerate(text)
        if is_ignorable(character) and index not in in_flags and not _is_part(text, index)
    )


def _is_part(text: str, index: int) -> bool:
    """Whether an invisible character changes how the one before it is shown."""
    character, before = text[index], text[max(0, index - 1) : index]
    if character in _JOINERS:
        # Some emoji have a variation selector before it
        before = text[:index].rstrip("\ufe0e\ufe0f")[-1:]
        return before != "" and (script_of(before) in _JOINED or _is_symbol(before))
    if not any(first <= ord(character) <= last for first, last in _SELECTORS) or not before:
        return False
    return script_of(before) in _VARIED or _is_symbol(before) or text[index + 1 : index + 2] == _KEY


def _is_symbol(character: str) -> bool:
    """Whether a character may be an emoji or another symbol that has variants."""
    return not character.isascii() and unicodedata.category(character)[0] in "SP"


def flags(text: str) -> list[tuple[int, int]]:
    """
    Return where flags that are made of tags are in `text`: the index of the first character of each, and the
    index after its last one.
    """
    return [found.span() for found in _FLAGS.finditer(text)]


def cut(text: str, length: int) -> str:
    """
    Return `text`, or, if it is longer than `length` characters, its beginning and an ellipsis. What is drawn
    as one (a flag, an emoji of several characters, a letter with its accents) is kept or left out as a whole.
    """
    if len(text) <= length:
        return text
    latest = length - 1
    for end in range(latest, max(0, latest - _MAX_EARLIER), -1):
        if not _is_drawn_as_one(text, end):
            return text[:end] + "…"
    return text[:latest] + "…"


def _is_drawn_as_one(text: str, index: int) -> bool:
    """Whether the characters before and at an index are drawn as one."""
    before, character = text[index - 1], text[index]
    if character == _JOINER or before == _JOINER or unicodedata.category(character)[0] == "M":
        return True
    if any(first <= character <= last for first, last in (_TONES, _TAGS)):
        return True
    if not _REGIONAL[0] <= character <= _REGIONAL[1]:
        return False
    flags_begin = index
    while flags_begin and _REGIONAL[0] <= text[flags_begin - 1] <= _REGIONAL[1]:
        flags_begin -= 1
    return (index - flags_begin) % 2 == 1
