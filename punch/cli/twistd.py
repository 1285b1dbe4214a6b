"""
Adds what `twistd` does not give to the programs that it starts: an exit status, signals that end it
cleanly at any moment, its own stdout, files of its own instead of `twistd.pid` and a log on stdout, and one
sentence about a wrong command line.

Used by the other modules of `punch.cli` only.
"""

from __future__ import annotations

import atexit
import contextlib
import getopt
import json
import os
import queue
import signal
import sys
import threading
from collections.abc import Callable, Collection, Sequence
from pathlib import Path
from types import FrameType
from typing import Any, NoReturn, Protocol, TextIO

from twisted.internet.error import ReactorNotRunning
from twisted.logger import ILogObserver, textFileLogObserver
from twisted.python import usage
from twisted.python.logfile import LogFile

from punch import __version__
from punch.cli.startup import end_quietly_on_interrupt
from punch.cli.usage import escape_output, show, usage_error_text, visible_words, write_stderr
from punch.files import check_regular, unusable_sentence

LOG_BYTES = 1_000_000
"""The size in bytes at which a log file of Punch is rotated."""
LOG_FILES = 4
"""How many rotated log files are kept. With both limits, strangers can't fill the disk by what is logged."""


class Reactor(Protocol):
    """The part of a reactor that ending a program needs."""

    def stop(self) -> None: ...

    def callWhenRunning(self, function: Callable[..., Any], /, *args: Any) -> Any: ...


# -- the end of the process --


class _ProcessExit:
    """How this process ends when the reactor has stopped: with an exit status, or by a signal."""

    def __init__(self) -> None:
        self.status = 0
        self.signal: int | None = None
        self.final_line = ""
        self._registered = False

    def register(self) -> None:
        """
        Have `finish` called when the interpreter exits. A status that is set earlier would be replaced by
        `twistd`.
        """
        if not self._registered:
            self._registered = True
            atexit.register(self.finish)

    def finish(self) -> None:
        if self.signal is None and self.status == 0:
            return
        for stream in (sys.__stdout__, sys.__stderr__):
            if stream is not None:
                with contextlib.suppress(OSError, ValueError):
                    stream.flush()
        if self.signal is not None:
            if self.final_line and os.isatty(2):
                # The terminal has just shown ^C.
                text = "\n" * (self.signal == signal.SIGINT) + self.final_line + "\n"
                _write_at_once(2, text.encode("ascii", "backslashreplace"))
            _end_by_signal(self.signal)
        os._exit(self.status)


_process_exit = _ProcessExit()


def set_exit_status(status: int) -> None:
    """
    Have the process end with `status` (1 to 255) when the reactor has stopped. Only the first call counts.
    """
    _process_exit.register()
    if _process_exit.status == 0:
        _process_exit.status = status


def end(reactor: Reactor, status: int = 0) -> None:
    """
    Stop the reactor, now or as soon as it runs, and leave with `status`. May be called any number of times.
    """
    if status:
        set_exit_status(status)
    reactor.callWhenRunning(_stop, reactor)


def _stop(reactor: Reactor) -> None:
    with contextlib.suppress(ReactorNotRunning):
        reactor.stop()


def fail(
    program: str,
    sentence: str,
    *,
    reason: str = "usage",
    as_json: bool = False,
    own_stdout: bool = True,
    status: int = 1,
) -> NoReturn:
    """
    End the process before the reactor runs, in `postOptions` or `makeService`. The sentence goes to stderr.

    :param as_json: whether a `failed` event goes to stdout, too.
    :param own_stdout: False: stdout is for data, so that with `as_json` the event goes to stderr, in place of
        the sentence.
    :param status: the exit status.
    """
    said = f"{program}: {sentence}"
    if as_json:
        event = {"event": "failed", "time": 0.0, "reason": reason, "text": sentence}
        if own_stdout:
            OutputWriter(1).event(event)
        else:
            said = json.dumps(event)
    if status == 1:
        # Python prints it
        raise SystemExit(said)
    write_stderr(said)
    raise SystemExit(status)


_END_SIGNALS = tuple(
    getattr(signal, name) for name in ("SIGINT", "SIGTERM", "SIGHUP", "SIGBREAK") if hasattr(signal, name)
)


_second_signal_calls: list[Callable[[], None]] = []


def on_second_signal(act: Callable[[], None]) -> None:
    """Have `act` called when a second signal ends the process at once. It must not wait for anything."""
    _second_signal_calls.append(act)


def end_on_signals(
    reactor: Any,
    on_hangup: Callable[[], None] | None = None,
    *,
    hangup_of_terminal: bool = False,
    final_line: str = "",
) -> None:
    """
    SIGINT, SIGTERM and SIGHUP stop the reactor as soon as it runs; the process then ends by that signal, as
    its parent expects. A second one ends it at once. Called from the main thread, before the reactor runs.

    :param reactor: provides `IReactorCore` and `IReactorFromThreads`.
    :param on_hangup: what SIGHUP does instead, in the reactor's thread.
    :param hangup_of_terminal: whether SIGHUP ends the process all the same if it has a terminal, which may be
        gone then.
    :param final_line: a sentence that is printed in a terminal just before the process ends.
    """
    _process_exit.register()
    _process_exit.final_line = final_line

    def handle(number: int, _frame: FrameType | None) -> None:
        if _process_exit.signal is not None:
            for act in _second_signal_calls:
                act()
            _end_by_signal(number)
        _process_exit.signal = number
        reactor.callFromThread(_stop, reactor)

    def hang_up(_number: int, _frame: FrameType | None) -> None:
        assert on_hangup is not None
        reactor.callFromThread(on_hangup)

    def install() -> None:
        hangs_up = on_hangup is not None and not (hangup_of_terminal and _has_terminal())
        for number in _END_SIGNALS:
            if hangs_up and number == getattr(signal, "SIGHUP", None):
                signal.signal(number, hang_up)
                continue
            # A signal that was ignored when the process started (by nohup, or in a shell's background job)
            # stays ignored.
            if number == signal.SIGTERM or signal.getsignal(number) is not signal.SIG_IGN:
                signal.signal(number, handle)

    install()
    # The reactor puts its own SIGTERM handler in place when it starts, and a daemon has no terminal then.
    reactor.callWhenRunning(install)


def _has_terminal() -> bool:
    """Whether this process has a controlling terminal."""
    try:
        os.close(os.open("/dev/tty", os.O_RDONLY | os.O_NOCTTY))
    except OSError:
        return False
    return True


def _end_by_signal(number: int) -> None:
    signal.signal(number, signal.SIG_DFL)
    os.kill(os.getpid(), number)


# -- stdout and stderr as they were before `twistd` turned them into log streams --


class OutputWriter:
    """
    Writes lines to the process's own stdout (1) or stderr (2), whatever reads them.

    A thread writes, so a reader that stops reading cannot stop the program: beyond `limit` waiting lines, new
    ones are dropped. When the reader has closed its end, nothing more is written.
    """

    def __init__(self, fd: int = 1, *, limit: int = 10_000) -> None:
        self._fd = fd
        stream: TextIO | None = {1: sys.__stdout__, 2: sys.__stderr__}.get(fd)
        # If there was no stream at the start, another open file may have the descriptor now.
        self.broken = fd in (1, 2) and stream is None
        self._encoding = getattr(stream, "encoding", None) or "utf-8"
        self._queue: queue.Queue[bytes | None] = queue.Queue(limit)
        self._thread: threading.Thread | None = None

    def line(self, text: str) -> None:
        """Have the thread write `text` and a newline."""
        if self.broken:
            return
        if self._thread is None:
            # Not earlier, because `twistd` may fork until the first line, and threads do not survive that.
            self._thread = threading.Thread(target=self._write, name="console", daemon=True)
            self._thread.start()
        with contextlib.suppress(queue.Full):
            self._queue.put_nowait((text + "\n").encode(self._encoding, "backslashreplace"))

    def event(self, fields: dict[str, Any]) -> None:
        """Write one JSON object, at once if nothing was written before it, as `line` otherwise."""
        text = json.dumps(fields)
        if self._thread is not None:
            self.line(text)
        elif not self.broken:
            self.broken = not _write_all(self._fd, text.encode() + b"\n")

    def close(self, timeout: float = 1.0) -> None:
        """Wait until all is written, at most `timeout` seconds."""
        if self._thread is not None:
            with contextlib.suppress(queue.Full):
                self._queue.put_nowait(None)
            self._thread.join(timeout)

    def _write(self) -> None:
        while (data := self._queue.get()) is not None:
            if not self.broken:
                self.broken = not _write_all(self._fd, data)


def _write_at_once(fd: int, data: bytes) -> None:
    """Write what fits now. The process must not wait for a terminal whose output is stopped."""
    with contextlib.suppress(OSError):
        blocking = os.get_blocking(fd)
        os.set_blocking(fd, False)
        try:
            os.write(fd, data)
        finally:
            os.set_blocking(fd, blocking)


def _write_all(fd: int, data: bytes) -> bool:
    """Write all of `data`, and return whether the other end is still open."""
    view = memoryview(data)
    while view:
        try:
            view = view[os.write(fd, view) :]
        except BlockingIOError:
            _wait_writable(fd)
        except OSError:
            return False
    return True


def _wait_writable(fd: int) -> None:
    # Another process that has the terminal or pipe, too, made it non-blocking.
    import select

    select.select([], [fd], [], 1.0)


# -- files --


class _Log(LogFile):
    """Escapes parts of file names that are not UTF-8, and ignores what is written when it is closed."""

    def write(self, data: str) -> None:
        if self.closed:
            return
        super().write(data.encode("utf-8", "backslashreplace"))  # type: ignore[no-untyped-call]


class _OwnLog:
    """The log of this process, for `twistd` to open under the name `punch.cli.twistd.own_log.open`."""

    path: Path | None = None
    """The file; None stands for stdout."""
    observer: Callable[[Any], ILogObserver] = staticmethod(textFileLogObserver)
    """Makes the observer that writes to the file."""
    _file: Any = None

    def close(self) -> None:
        """Close the file, if it is open."""
        atexit.unregister(self.close)
        if self._file is not None and not self._file.closed:
            self._file.close()

    def open(self) -> ILogObserver:
        """Return the observer to which `twistd` logs until the process ends."""
        if self.path is None:
            return self.observer(sys.stdout)
        atexit.register(self.close)
        self._file = _Log(  # type: ignore[no-untyped-call]
            self.path.name, str(self.path.parent), LOG_BYTES, defaultMode=0o600, maxRotatedFiles=LOG_FILES
        )
        return self.observer(self._file)


own_log = _OwnLog()


def use_own_files(
    options: usage.Options,
    directory: Path,
    log_path: Path,
    fail: Callable[[str], NoReturn],
    observer: Callable[[Any], ILogObserver] | None = None,
) -> bool:
    """
    In `postOptions`: `twistd` logs to `log_path` and keeps its pid (as a daemon only) in `directory`, unless
    the user said otherwise, so that several programs started in one directory do not clash.
    Both directories exist. Does nothing when `options` were not parsed by `twistd`.

    :param fail: is called with a sentence if a file that the user named can't be used: `twistd` would wait
        for the other end of a named pipe, or end with a traceback.
    :param observer: makes the log's observer of a file; None lets `twistd` choose for a file that the user
        named, and writes text otherwise.
    :return: whether the log goes to stdout.
    """
    parent = options.parent
    if parent is None or "logfile" not in parent:
        return False
    end_quietly_on_interrupt()
    _process_exit.register()
    given = _given(parent)
    for option in {"logfile", "pidfile"} & given:
        if parent[option] not in ("", "-"):
            _check_given(option, parent[option], fail)
    if "pidfile" in parent and "pidfile" not in given:
        parent["pidfile"] = "" if parent.get("nodaemon") else str(directory / "twistd.pid")
    own = not given & {"logfile", "syslog", "logger"}
    if observer is not None:
        if given & {"syslog", "logger"}:
            fail("This form of the log goes to a file or to stdout, not to --syslog or --logger.")
        own_log.observer = observer
    if own:
        parent["logfile"] = str(log_path)
    if own or observer is not None:
        # By name, as on the command line. It wins over `logfile`, whose rotation has no end.
        parent["logger"] = f"{__name__}.own_log.open"
        own_log.path = None if parent["logfile"] in ("", "-") else Path(parent["logfile"]).absolute()
    return not given & {"syslog", "logger"} and parent["logfile"] in ("", "-")


def _check_given(option: str, name: str, fail: Callable[[str], NoReturn]) -> None:
    try:
        # A log may go to a device, such as /dev/null.
        if option == "pidfile" or not Path(name).is_char_device():
            check_regular(Path(name))
    except OSError as error:
        fail(unusable_sentence(f"The file {name} of --{option}", error, "name another one"))


def _given(parent: usage.Options) -> set[str]:
    """
    Return the names of `twistd`'s own options that the user gave, even with the values that they have by
    default.
    """
    given = {name for name in parent.defaults if parent.get(name) != parent.defaults[name]}
    with contextlib.suppress(getopt.GetoptError):
        for name, _value in getopt.getopt(sys.argv[1:], parent.shortOpt, parent.longOpt)[0]:
            bare = name.lstrip("-")
            given.add(parent.synonyms.get(bare, parent.synonyms.get(bare.replace("-", "_"), bare)))
    return given


_LEAST_COLUMNS = 60
"""The least width of the help: the longest options need half of it."""

commands: dict[str, str] = {}
"""The commands by which the user has started plugins in this process, if not by `twistd PLUGIN`."""


class CommandOptions(usage.Options):
    """
    Options of a plugin. A wrong command line is answered with one sentence instead of the whole help of
    `twistd`.

    Invisible characters (Unicode category Cf) in a value are ignored, unless it names a file.

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
        """The command by which the user has started this plugin."""
        return commands.get(self.plugin, f"twistd {self.plugin}")

    def parseOptions(self, options: Sequence[str] | None = None) -> None:
        """
        Read a command line.

        :raise SystemExit: it is wrong, or asks for help.
        """
        escape_output()
        given = list(sys.argv[1:] if options is None else options)
        try:
            super().parseOptions(visible_words(given, self.files))  # type: ignore[no-untyped-call]
        except usage.UsageError as problem:
            # Not `self["json"]`: options after the wrong one were not read.
            as_json = "--json" in given
            fail(self.command, usage_error_text(str(problem), self.command), as_json=as_json)

    def opt_help(self) -> NoReturn:
        """Display this help and exit."""
        show(self._help(self.rare or ("help-all",)))
        raise SystemExit(0)

    def opt_help_all(self) -> NoReturn:
        """Show all options."""
        show(self._help(()))
        raise SystemExit(0)

    def _help(self, hidden: Collection[str]) -> str:
        """Return the help without some options."""
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
