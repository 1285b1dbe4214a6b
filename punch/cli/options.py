"""What the options of our `twistd` plugins have in common."""

from __future__ import annotations

import re
import sys
from collections.abc import Callable, Collection, Sequence
from typing import NoReturn

from twisted.python import usage

from punch import __version__
from punch.cli import twistd
from punch.cli.usage import escape_output, seen_words, show, usage_error_text

_LEAST_COLUMNS = 60
"""Help is never narrower: the longest options need half of that."""

commands: dict[str, str] = {}
"""What the user calls a plugin by in this process, where that is not `twistd PLUGIN`."""


class CommandOptions(usage.Options):
    """
    Options of a plugin: a wrong command line gets one sentence instead of all that `twistd` knows to say.

    What is not seen (Unicode Cf) in a value is ignored, unless it names a file.

    :cvar plugin: its name.
    :cvar files: the options whose values name files.
    :cvar rare: options that few users need: `--help`, which fits on one screen, leaves them out, and
        `--help-all` shows them.
    """

    plugin: str
    files: frozenset[str] = frozenset()
    rare: Collection[str] = frozenset()

    @property
    def command(self) -> str:
        """What the user calls this by."""
        return commands.get(self.plugin, f"twistd {self.plugin}")

    def parseOptions(self, options: Sequence[str] | None = None) -> None:
        """
        Read a command line.

        :raise SystemExit: it is wrong, or asks for help.
        """
        escape_output()
        given = list(sys.argv[1:] if options is None else options)
        try:
            super().parseOptions(seen_words(given, self.files))  # type: ignore[no-untyped-call]
        except usage.UsageError as problem:
            # Not `self["json"]`: options after the wrong one were not read.
            as_json = "--json" in given
            twistd.fail(self.command, usage_error_text(str(problem), self.command), as_json=as_json)

    def opt_help(self) -> NoReturn:
        """Display this help and exit."""
        show(self._help(self.rare or ("help-all",)))
        raise SystemExit(0)

    def opt_help_all(self) -> NoReturn:
        """Show all options."""
        show(self._help(()))
        raise SystemExit(0)

    def _help(self, hidden: Collection[str]) -> str:
        """The help without some options."""
        # Twisted's `getUsage` has no parameter for that
        all_options = self.longOpt
        try:
            self.longOpt = [option for option in all_options if option.rstrip("=") not in hidden]
            return str(self).rstrip("\n")
        finally:
            self.longOpt = all_options

    def opt_version(self) -> NoReturn:
        """Display the version of Punch and exit."""
        show(f"Punch {__version__}")
        raise SystemExit(0)

    def parseArgs(self, *arguments: str) -> None:
        """Refuse arguments that are no options."""
        if arguments:
            raise usage.UsageError(f"unexpected argument {arguments[0]}")

    def getUsage(self, width: int | None = None) -> str:
        """The help, as wide as the terminal. Twisted takes any `COLUMNS`, and fails if there is no room."""
        from shutil import get_terminal_size

        return super().getUsage(width or max(_LEAST_COLUMNS, get_terminal_size().columns))

    def getSynopsis(self) -> str:
        """The first line of the help."""
        return f"Usage: {self.command} [options]"


def whole_number(option: str) -> Callable[[str], int]:
    """What reads the value of an option that is a whole number of one or more."""

    def read(text: str) -> int:
        if re.fullmatch(r"[1-9][0-9]{0,8}", text) is None:
            raise ValueError(f"--{option} takes a whole number of one or more, not {text[:50]}")
        return int(text)

    read.coerceDoc = "Must be a whole number of one or more."  # type: ignore[attr-defined]
    return read
