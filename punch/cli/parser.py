"""The command lines that `argparse` reads."""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, NoReturn

from punch.cli.usage import show, usage_error_text, visible_words, write_stderr

if TYPE_CHECKING:
    from _typeshed import SupportsWrite


PROXY_HELP = (
    "HTTP or SOCKS5 proxy for TCP connections, or none [default: what https_proxy or all_proxy of the "
    "environment says, and directly where that fails]"
)
"""The help of the option --proxy of commands that have no node."""


class Parser(argparse.ArgumentParser):
    """
    An `ArgumentParser` that says in one sentence on stderr what is wrong with a command line, with `--json`
    also as a `failed` event on stdout. The exit status is then 2.

    `--help` fits on one screen: it leaves out the options that `add_rare_argument` adds, which `--help-all`
    shows, too.

    :param words_name_files: whether the positional arguments name files.
    :param own_stdout: False: stdout is for the data of the command, and the event is alone on stderr.
    """

    files = frozenset(("state-dir", "output", "as"))
    """Options, of any command, whose values name files."""

    def __init__(
        self, prog: str, *, description: str, words_name_files: bool = False, own_stdout: bool = True
    ) -> None:
        super().__init__(prog, description=description)
        self.color = False  # Python 3.14 would use colors
        self._json = False
        self._words_name_files = words_name_files
        self._own_stdout = own_stdout
        self._rare: list[argparse.Action] = []
        self._help_all = self.add_argument(
            "--help-all", action=_HelpAll, nargs=0, dest=argparse.SUPPRESS, help=argparse.SUPPRESS
        )

    def add_rare_argument(self, *names: str, **options: Any) -> None:
        """Add an option that few users need, as `add_argument` does others."""
        self._rare.append(self.add_argument(*names, **options))
        self._help_all.help = "show all options"

    def parse(self, arguments: Sequence[str]) -> argparse.Namespace:
        """
        Read a command line.

        :raise SystemExit: it is wrong, or asks for help.
        """
        words = visible_words(arguments, self.files, self._words_name_files)
        self._json = "--json" in words
        return self.parse_args(words)

    def print_help(self, file: SupportsWrite[str] | None = None) -> None:
        """Print the help without rare options."""
        self.print_text(self.format_help(), file)

    def format_help(self) -> str:
        """The help without rare options."""
        texts = [(action, action.help) for action in self._rare]
        try:
            for action, _ in texts:
                action.help = argparse.SUPPRESS
            return super().format_help()
        finally:
            for action, text in texts:
                action.help = text

    def format_help_of_all(self) -> str:
        """The help with all options."""
        return super().format_help()

    def print_text(self, text: str, file: SupportsWrite[str] | None) -> None:
        """Write a text to a file; None is stdout."""
        if file is None:
            show(text.rstrip("\n"))
        else:
            file.write(text)

    def error(self, message: str) -> NoReturn:
        """End the process with a sentence about the command line."""
        text = usage_error_text(message, self.prog)
        if self._json:
            say = show if self._own_stdout else write_stderr
            say(json.dumps({"event": "failed", "time": 0.0, "reason": "usage", "text": text}))
        if self._own_stdout or not self._json:
            write_stderr(f"{self.prog}: {text}")
        raise SystemExit(2)


class _HelpAll(argparse.Action):
    """Explains all options, and ends the process."""

    def __call__(
        self,
        parser: argparse.ArgumentParser,
        namespace: argparse.Namespace,
        values: object,
        option_string: str | None = None,
    ) -> NoReturn:
        """Print the help, and end the process."""
        assert isinstance(parser, Parser)
        parser.print_text(parser.format_help_of_all(), None)
        raise SystemExit(0)
