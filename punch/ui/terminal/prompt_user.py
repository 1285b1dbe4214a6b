"""What a prompt and whoever uses it say to each other. Nothing here needs prompt_toolkit."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Protocol

from twisted.python.failure import Failure

Fragments = Sequence[tuple[str, str]]
"""Text in parts, each with the name of its look: "", "good", "bad" or "dim"."""


@dataclass(frozen=True)
class Suggestion:
    """What a completion offers: `text` for the last `replaces` characters before the cursor."""

    text: str
    replaces: int
    meaning: str = ""


Complete = Callable[[str], Iterable[Suggestion]]


class PromptUser(Protocol):
    """Who is told what happens at the prompt, in the reactor's thread."""

    def entered(self, text: str, seen: int) -> None:
        """A line; when its first character was typed, `Prompt.show` number `seen` was the last one shown."""

    def ended(self) -> None:
        """Ctrl-D on an empty line."""

    def interrupted(self) -> None:
        """Ctrl-C on an empty line."""

    def suspended(self) -> None:
        """Ctrl-Z: stop the process, and call `Prompt.refresh` when it goes on."""

    def noticed(self, seen: int) -> None:
        """A person did something after `Prompt.show` number `seen` had been shown."""

    def lost(self, failure: Failure | None) -> None:
        """The terminal is gone, or (`failure`) the prompt can't go on."""
