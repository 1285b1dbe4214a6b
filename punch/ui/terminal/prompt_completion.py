"""What a typed line may go on with, as prompt_toolkit asks for it."""

from __future__ import annotations

from collections.abc import Iterator

from prompt_toolkit.completion import CompleteEvent, Completer, Completion
from prompt_toolkit.document import Document

from punch.ui.terminal.prompt_user import Complete


class Suggestions(Completer):
    """What `complete` says, for prompt_toolkit's menu."""

    def __init__(self, complete: Complete) -> None:
        self._complete = complete

    def get_completions(self, document: Document, complete_event: CompleteEvent) -> Iterator[Completion]:
        for suggestion in self._complete(document.text_before_cursor):
            yield Completion(
                suggestion.text,
                start_position=-suggestion.replaces,
                display_meta=suggestion.meaning,
            )


def common_start(texts: list[str]) -> str:
    """What all of them begin with."""
    first, last = min(texts), max(texts)
    length = next((i for i, (a, b) in enumerate(zip(first, last, strict=False)) if a != b), len(first))
    return first[:length]
