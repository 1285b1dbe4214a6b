"""What is unusual about the names of files. Pure."""

from __future__ import annotations

import os
import re
from collections import Counter
from enum import Enum

from punch.apps.files.final_names import ACTING
from punch.sanitize import unseen

_WINDOWS = re.compile(r"(?i)(con|prn|aux|nul|com[0-9¹²³]|lpt[0-9¹²³])(\..*)?")
_NOT_IN_WINDOWS = re.compile(r'[<>:"\\|?*]|[. ]$')


class Oddity(Enum):
    """What is unusual about a name."""

    CONTROL = "control"
    """It has control characters, or characters that change the direction of text. They become "_"."""
    INVISIBLE = "invisible"
    """It has characters that are not seen, so that it looks like another name. They become "_"."""
    HIDDEN = "hidden"
    """It begins with a dot."""
    WINDOWS = "windows"
    """Windows can't have it."""
    SPACE = "space"
    """It begins or ends with a space."""


def oddities(name: str) -> list[Oddity]:
    """What is unusual about a name."""
    found = []
    if ACTING.search(name):
        found.append(Oddity.CONTROL)
    if not all(ACTING.match(name, index) for index in unseen(name)):
        found.append(Oddity.INVISIBLE)
    if name.startswith("."):
        found.append(Oddity.HIDDEN)
    if _WINDOWS.fullmatch(name) or _NOT_IN_WINDOWS.search(name):
        found.append(Oddity.WINDOWS)
    if name != name.strip():
        found.append(Oddity.SPACE)
    return found


class OddNames:
    """
    How many names in the folders of a transfer are unusual. Hidden ones are not counted: they are usual
    there.

    :ivar counts: by what is unusual.
    :ivar examples: a name for each.
    """

    def __init__(self) -> None:
        self.counts: Counter[Oddity] = Counter()
        self.examples: dict[Oddity, str] = {}

    def add(self, path: bytes) -> None:
        """Look at a path of a transfer; what has no folder is shown in its offer."""
        _, inside, name = path.rpartition(b"/")
        if not inside:
            return
        text = os.fsdecode(name)
        for oddity in oddities(text):
            if oddity is not Oddity.HIDDEN:
                self.counts[oddity] += 1
                self.examples.setdefault(oddity, text)
