"""
What a program prints about its command line: the help, or in one sentence what is wrong.

For the commands that `argparse` reads (`punch.cli.parser`), and those that Twisted reads
(`punch.cli.twistd`). Nothing heavy is imported.
"""

from __future__ import annotations

import contextlib
import io
import re
import sys
from collections.abc import Collection, Sequence

_SHOWN = 100
"""How many characters of what was typed are repeated."""

_WORDS: Sequence[tuple[str, str]] = (
    # getopt, and Twisted around it
    (r"option (\S+) not recognized", r"unknown option \1"),
    (r"option (\S+) requires argument", r"\1 needs a value"),
    (r"option (\S+) must not have an argument", r"\1 takes no value"),
    (r"option (\S+) not a unique prefix", r"\1 is short for several options"),
    (r"Parameter type enforcement failed: (.*)", r"\1"),
    # argparse
    (r"unrecognized arguments: (-\S+).*", r"unknown option \1"),
    (r"unrecognized arguments: (\S+).*", r"unexpected argument \1"),
    (r"argument (\S+): expected one argument", r"\1 needs a value"),
    (r"argument (\S+): ignored explicit argument .*", r"\1 takes no value"),
    (r"argument (\S+): invalid (.*) value: (.*)", r"\1 takes a \2, not \3"),
    (r"argument (\S+): invalid choice: (.*) \(choose from .*", r"\2 is no \1"),
)


def escape_output() -> None:
    """
    Have stdout and stderr escape from now on what their encoding can't represent, as in `\\u041e`, in any
    locale.

    Each program calls it at its start, before it prints anything.
    """
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")


def write_stderr(text: str, end: str = "\n") -> None:
    """Write a line to stderr, unless that is closed or can't be written."""
    if sys.stderr is not None:
        with contextlib.suppress(OSError, ValueError):
            print(text, file=sys.stderr, end=end, flush=True)


def show(text: str, problem: str = "punch: The output can't be written") -> None:
    """
    Print a text on stdout. If the reader has closed its end, as `| head` does, nothing happens.

    :param problem: what is said if the output can't be written, such as on a full disk. The cause is
        appended.
    :raise SystemExit: it could not be written.
    """
    try:
        print(text, flush=True)
    except OSError as error:
        # What could not be written must not be tried again when Python ends.
        sys.stdout = None
        if not isinstance(error, BrokenPipeError):
            raise SystemExit(f"{problem}: {error.strerror}.") from error


def usage_error_text(problem: str, command: str) -> str:
    """
    Return a sentence that says what is wrong with a command line.

    :param problem: the message of getopt, argparse or Twisted.
    :param command: the command, whose help the sentence refers to.
    """
    from punch.sanitize import quoted

    # What was typed may contain anything, and is written to a terminal.
    said = quoted(problem, _SHOWN)[1:-1].rstrip(".")
    for pattern, words in _WORDS:
        if re.fullmatch(pattern, said):
            said = re.sub(pattern, words, said)
            break
    return f"{said}; see {command} --help"


def visible_words(given: Sequence[str], files: Collection[str], words_name_files: bool = False) -> list[str]:
    """
    Return a command line without invisible characters (Unicode category Cf), which come along when text is
    pasted.

    :param files: the options whose values name files. Those values stay as they are.
    :param words_name_files: the same for positional arguments.
    """
    from punch.names import without_format

    kept: list[str] = []
    names_file = False
    for word in given:
        if names_file:
            kept.append(word)
            names_file = False
            continue
        option, equals, _ = without_format(word).partition("=")
        # The name of an option may be abbreviated.
        if len(option) > 2 and any(f"--{name}".startswith(option) for name in files):
            kept.append(option + equals + word.partition("=")[2])
            names_file = not equals
        else:
            kept.append(word if words_name_files and not option.startswith("-") else without_format(word))
    return kept
