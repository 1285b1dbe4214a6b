"""The command lines that `argparse` reads."""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from typing import TYPE_CHECKING, NoReturn

from punch.cli.usage import seen_words, show, usage_error_text, write_stderr

if TYPE_CHECKING:
    from _typeshed import SupportsWrite


class Parser(argparse.ArgumentParser):
    """
    Says what is wrong in a sentence on stderr, with `--json` also as a `failed` event on stdout; the status
    is 2.

    :param words_name_files: whether the values that belong to no option name files.
    :param own_stdout: False: stdout is for the data of the command, and the event is alone on stderr.
    """

    files = frozenset(("state-dir", "output", "as"))
    """The options of all commands whose values name files."""

    def __init__(
        self, prog: str, *, description: str, words_name_files: bool = False, own_stdout: bool = True
    ) -> None:
        super().__init__(prog, description=description)
        self.color = False  # Python 3.14 has a mind of its own about that
        self._json = False
        self._words_name_files = words_name_files
        self._own_stdout = own_stdout

    def parse(self, arguments: Sequence[str]) -> argparse.Namespace:
        """
        Read a command line.

        :raise SystemExit: it is wrong, or asks for help.
        """
        words = seen_words(arguments, self.files, self._words_name_files)
        self._json = "--json" in words
        return self.parse_args(words)

    def print_help(self, file: SupportsWrite[str] | None = None) -> None:
        """Explain everything."""
        self.print_text(self.format_help(), file)

    def print_text(self, text: str, file: SupportsWrite[str] | None) -> None:
        """Print on stdout, or into a file."""
        if file is None:
            show(text.rstrip("\n"))
        else:
            file.write(text)

    def error(self, message: str) -> NoReturn:
        """End with a sentence."""
        text = usage_error_text(message, self.prog)
        if self._json:
            say = show if self._own_stdout else write_stderr
            say(json.dumps({"event": "failed", "time": 0.0, "reason": "usage", "text": text}))
        if self._own_stdout or not self._json:
            write_stderr(f"{self.prog}: {text}")
        raise SystemExit(2)
