"""The question for a code, with its words completed by the Tab key where prompt_toolkit is installed."""

from __future__ import annotations

import signal
import sys
from collections.abc import Iterator

from punch.apps.codes.code import completions
from punch.cli.usage import write_stderr

_QUESTION = "Code: "


def can_ask() -> bool:
    """Whether there is a terminal to ask in."""
    return all(stream is not None and stream.isatty() for stream in (sys.stdin, sys.stderr))


def ask_code() -> str:
    """Return what the user types; nothing, at the end of the input. Ctrl-C ends the process."""
    try:
        return _ask_with_completion()
    except EOFError:
        return ""
    except ModuleNotFoundError:
        write_stderr(_QUESTION, end="")
        return sys.stdin.readline()


def _ask_with_completion() -> str:
    from prompt_toolkit import PromptSession
    from prompt_toolkit.completion import CompleteEvent, Completer, Completion
    from prompt_toolkit.document import Document
    from prompt_toolkit.output import create_output
    from prompt_toolkit.output.vt100 import Vt100_Output

    class Words(Completer):
        def get_completions(self, document: Document, complete_event: CompleteEvent) -> Iterator[Completion]:
            typed, found = completions(document.text_before_cursor)
            return (Completion(word, -len(typed)) for word in found)

    output = create_output(sys.stderr)
    if isinstance(output, Vt100_Output):
        output.enable_cpr = False  # It would ask the terminal where the cursor is, and wait for the answer
    session: PromptSession[str] = PromptSession(completer=Words(), complete_while_typing=False, output=output)
    try:
        return session.prompt(_QUESTION)
    except KeyboardInterrupt:
        signal.signal(signal.SIGINT, signal.SIG_DFL)
        signal.raise_signal(signal.SIGINT)
        raise
