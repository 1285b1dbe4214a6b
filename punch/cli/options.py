"""What the options of our `twistd` plugins have in common."""

from __future__ import annotations

import re
import sys
from collections.abc import Callable, Mapping, Sequence
from typing import NoReturn

from twisted.python import usage

from punch import __version__
from punch.cli import twistd
from punch.cli.usage import escape_output, show, usage_error_text
from punch.names import without_format
from punch.state import StateDirectory, StateError
from punch.wire.rendezvous_address import RendezvousAddress, RendezvousAddressError

PROXY_VARIABLES = "https_proxy", "http_proxy", "all_proxy", "socks_proxy"
"""Variables of the environment that name proxies to other programs, in lower or upper case."""

commands: dict[str, str] = {}
"""What the user calls a plugin by in this process, where that is not `twistd PLUGIN`."""


class CommandOptions(usage.Options):
    """
    Options of a plugin: a wrong command line gets one sentence instead of all that `twistd` knows to say.

    What is not seen (Unicode Cf) in a value is ignored, unless it names a file.

    :cvar plugin: its name.
    :cvar files: the options whose values name files.
    """

    plugin: str
    files: frozenset[str] = frozenset()

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
            super().parseOptions(self._seen(given))  # type: ignore[no-untyped-call]
        except usage.UsageError as problem:
            # Not `self["json"]`: options after the wrong one were not read.
            as_json = "--json" in given
            twistd.fail(self.command, usage_error_text(str(problem), self.command), as_json=as_json)

    def _seen(self, given: Sequence[str]) -> list[str]:
        kept: list[str] = []
        names_file = False
        for word in given:
            if names_file:
                kept.append(word)
                names_file = False
                continue
            option, equals, _ = without_format(word).partition("=")
            # An option may be shortened.
            if len(option) > 2 and any(f"--{name}".startswith(option) for name in self.files):
                kept.append(option + equals + word.partition("=")[2])
                names_file = not equals
            else:
                kept.append(without_format(word))
        return kept

    def opt_help(self) -> NoReturn:
        """Display this help and exit."""
        show(str(self))
        raise SystemExit(0)

    def opt_version(self) -> NoReturn:
        """Display the version of Punch and exit."""
        show(f"Punch {__version__}")
        raise SystemExit(0)

    def parseArgs(self, *arguments: str) -> None:
        """Refuse arguments that are no options."""
        if arguments:
            raise usage.UsageError(f"unexpected argument {arguments[0]}")

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


class NoRendezvous(Exception):
    """No rendezvous is known, or its address is wrong: `reason` is a code, `str()` a sentence."""

    def __init__(self, reason: str, sentence: str) -> None:
        super().__init__(sentence)
        self.reason = reason


def choose_rendezvous(
    given: str | None, state: StateDirectory, name: str, environ: Mapping[str, str]
) -> tuple[RendezvousAddress, ...]:
    """
    Return the addresses of the rendezvous to use: those of the command line, of the environment variable
    PUNCH_RENDEZVOUS, of the last run, or the one on this machine, in this order.

    :param given: the address on the command line, several separated by commas, or None.
    :param name: the name of the identity whose last run counts.
    :raise NoRendezvous: there is none, or its address is wrong.
    """
    text, source = given, "--rendezvous"
    if text is None:
        text, source = environ.get("PUNCH_RENDEZVOUS") or None, "PUNCH_RENDEZVOUS"
    try:
        if text is None:
            text, source = state.peer(name).last_rendezvous, "the one used last"
        if text is None:
            text, source = state.rendezvous.read_address(), "the one on this machine"
    except StateError as error:
        raise NoRendezvous("state", str(error)) from error
    if text is None:
        raise NoRendezvous(
            "no-rendezvous",
            "No rendezvous is known: start one with punch rendezvous (or twistd punch-rendezvous), or give "
            "the address of one with --rendezvous punch://host:port/PIN.",
        )
    try:
        return RendezvousAddress.parse_all(without_format(text))
    except RendezvousAddressError as error:
        raise NoRendezvous("bad-address", f"{source}: {error}") from error


def proxy_variable(environ: Mapping[str, str]) -> str | None:
    """Return the variable of the environment that names a proxy, if there is one."""
    names = (each for name in PROXY_VARIABLES for each in (name, name.upper()))
    return next((name for name in names if environ.get(name, "").strip()), None)
