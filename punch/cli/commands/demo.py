"""
`punch demo`: a rendezvous and two peers, real processes on this machine, that punch and chat.

The processes are driven as any script would drive them, through `--json`. All that they keep lies in a
temporary directory, they listen on free ports, and whatever ends the demonstration ends them too.
"""

from __future__ import annotations

import contextlib
import json
import os
import queue
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections import deque
from collections.abc import Iterator, Sequence
from pathlib import Path
from types import FrameType
from typing import Any

from punch.cli.parser import Parser
from punch.cli.usage import write_stderr
from punch.sanitize import printable
from punch.ui.terminal.escapes import Style
from punch.ui.text.sentences import (
    count,
    milliseconds,
    path_in_words,
)

#: Seconds that one step may take on a slow machine.
STEP = 30.0

#: Seconds that a process has to end by itself.
END_TIME = 3.0

Event = dict[str, Any]


class DemoError(Exception):
    """The demonstration failed; `str()` is a sentence."""


class DemoOutputLost(Exception):
    """The output can't be written; `str()` is a sentence, or empty if its reader has closed it."""


class ProgramEnded(BaseException):
    """
    A signal asks the process to end. It is no `Exception`, so that nothing catches it before the programs
    have ended.
    """

    def __init__(self, number: int) -> None:
        super().__init__(number)
        self.number = number


def _environment(directory: Path) -> dict[str, str]:
    """
    Return the environment of the programs: without the user's settings for Punch, and with `directory` as the
    place of temporary files.
    """
    environment = {name: value for name, value in os.environ.items() if not name.startswith("PUNCH_")}
    here = str(Path(__file__).resolve().parent.parent)
    environment["PYTHONPATH"] = os.pathsep.join(filter(None, [here, environment.get("PYTHONPATH")]))
    environment["TMPDIR"] = environment["XDG_RUNTIME_DIR"] = str(directory)
    return environment


#: The Python code of each program.
_PROGRAM_CODE = "from punch.cli.commands.demo import run_until_parent_ends; run_until_parent_ends()"


def run_until_parent_ends() -> None:
    """
    Run the `punch` command until the process that started this one ends, even if that is killed: then the
    other end of a pipe is closed. The descriptor of our end is the first argument.
    """
    pipe = int(sys.argv.pop(1))
    threading.Thread(target=_end_after, args=(pipe,), name="parent watch", daemon=True).start()
    from punch.cli.main import main as punch

    sys.exit(punch())


def _end_after(pipe: int) -> None:
    os.read(pipe, 1)
    os.kill(os.getpid(), signal.SIGTERM)


def _command(pipe: int) -> list[str]:
    if os.name == "posix":
        return [sys.executable, "-c", _PROGRAM_CODE, str(pipe)]
    return [sys.executable, "-m", "punch"]  # Windows passes no descriptors on


class Program:
    """A running program. Its events go into a queue that all programs share."""

    def __init__(
        self, name: str, arguments: Sequence[str], directory: Path, events: queue.Queue[tuple[str, Event]]
    ) -> None:
        self.name = name
        self._events = events
        self._stderr = directory / f"{name}.stderr"
        pipe, self._pipe = os.pipe()
        # In a session of its own: input and interrupts from the terminal are for the demonstration alone.
        with self._stderr.open("wb") as stderr:
            self._process = subprocess.Popen(
                [
                    *_command(pipe),
                    *arguments,
                    "--json",
                    "--state-dir",
                    str(directory / "state"),
                ],
                cwd=directory,
                env=_environment(directory),
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=stderr,
                start_new_session=True,
                pass_fds=[pipe] if os.name == "posix" else [],
            )
        os.close(pipe)
        self._reader = threading.Thread(target=self._read, name=f"read {name}", daemon=True)
        self._reader.start()

    def _read(self) -> None:
        assert self._process.stdout is not None
        with self._process.stdout as stdout:
            for line in stdout:
                with contextlib.suppress(ValueError):
                    self._events.put((self.name, json.loads(line)))
        self._process.wait()
        self._events.put((self.name, {"event": "ended", "status": self._process.returncode}))

    def command(self, command: str, **fields: Any) -> None:
        """Send it a command. If it has ended, nothing is sent; `ended` is in the queue of events."""
        assert self._process.stdin is not None
        with contextlib.suppress(OSError):
            self._process.stdin.write(json.dumps({"command": command, **fields}).encode() + b"\n")
            self._process.stdin.flush()

    def last_error_line(self) -> str:
        """The last line that it wrote to stderr."""
        lines = self._stderr.read_text("utf-8", "replace").strip().splitlines()
        return lines[-1] if lines else ""

    def terminate(self) -> None:
        """Ask it to end."""
        with contextlib.suppress(OSError):
            self._process.terminate()

    def end(self, until: float) -> None:
        """Wait for its end, at most until a time of `time.monotonic()`. If it runs then, kill it."""
        try:
            self._process.wait(max(0.05, until - time.monotonic()))
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        os.close(self._pipe)
        assert self._process.stdin is not None
        with contextlib.suppress(OSError):  # nobody may read what was written last
            self._process.stdin.close()
        self._reader.join()


class Demo:
    """
    The demonstration: its programs, and what it shows of them.

    :param directory: where everything is kept that the programs write.
    :param as_json: show the events of the programs, as JSON lines, and no sentences.
    """

    def __init__(self, directory: Path, style: Style, *, as_json: bool = False) -> None:
        self._directory = directory
        self._as_json = as_json
        self._style = style
        self._events: queue.Queue[tuple[str, Event]] = queue.Queue()
        self._unread: dict[str, deque[Event]] = {}
        self._programs: dict[str, Program] = {}
        self._ids: dict[str, str] = {}
        self._urls: dict[str, str] = {}
        self._starting = False
        self._ignores_failures = False
        self._signal: int | None = None

    # -- the programs --

    def receive_signal(self, number: int, _frame: FrameType | None) -> None:
        """Raise `ProgramEnded`; while a program is being started, `start` does it, to have it ended too."""
        self._signal = number
        if not self._starting:
            raise ProgramEnded(number)

    def start(self, name: str, *arguments: str) -> None:
        """Start one of the programs."""
        self._starting = True
        self._unread[name] = deque()
        self._programs[name] = Program(name, arguments, self._directory, self._events)
        self._starting = False
        if self._signal is not None:
            raise ProgramEnded(self._signal)

    def stop(self) -> None:
        """End all programs."""
        until = time.monotonic() + END_TIME
        programs = list(self._programs.values())
        for program in programs:
            program.terminate()
        for program in programs:
            program.end(until)

    def wait(self, name: str, event: str) -> Event:
        """
        The next such event of that program.

        :raise DemoError: it does not come.
        """
        end = time.monotonic() + STEP
        unread = self._unread[name]
        while True:
            while unread:
                if (got := unread.popleft())["event"] == event:
                    return got
            left = end - time.monotonic()
            if left <= 0:
                raise DemoError(
                    f"{name} reported no {event!r} within {STEP:.0f} seconds: "
                    "run punch demo --keep and look at its log."
                )
            self._pump(left)

    def _pump(self, timeout: float) -> None:
        """Handle the next event of any program, if one comes within `timeout` seconds."""
        with contextlib.suppress(queue.Empty):
            name, event = self._events.get(timeout=timeout)
            self.tell({"program": name, **event})
            if event["event"] == "ended":
                words = self._programs[name].last_error_line() or f"exit status {event['status']}"
                raise DemoError(f"The program {name} ended too early: {printable(words)}")
            if event["event"] in ("failed", "error") and not self._ignores_failures:
                raise DemoError(f"The program {name} failed: {printable(event['text'])}")
            if event["event"] == "web":
                self._urls[name] = event["url"]
            self._unread[name].append(event)

    # -- what is shown --

    def tell(self, event: Event) -> None:
        """With `--json`, print an event."""
        if self._as_json:
            self._print(json.dumps(event, separators=(",", ":")))

    def say(self, text: str) -> None:
        """Without `--json`, print a line."""
        if not self._as_json:
            self._print(text)

    def _print(self, text: str) -> None:
        try:
            print(text, flush=True)
        except OSError as error:
            # What could not be written must not be tried again when Python ends.
            sys.stdout = None
            reason = f"The output can't be written: {error.strerror}."
            raise DemoOutputLost("" if isinstance(error, BrokenPipeError) else reason) from error

    def step(self, text: str) -> None:
        """Print a line for the step that begins."""
        self.say(f"{self._style.good('•')} {text}")

    # -- the steps --

    def _start_all(self, *peers: tuple[str, ...]) -> None:
        """
        Start a rendezvous and two peers, and wait until they are registered.

        :param peers: of each peer its name and its options.
        """
        self.step("Starting a rendezvous, as a server on the internet would run it")
        here = (
            "--control",
            "tcp:0:interface=127.0.0.1",
            "--reflector-port",
            "127.0.0.1:0",
            "--host",
            "127.0.0.1",
        )
        self.start("rendezvous", "rendezvous", *here)
        address = self.wait("rendezvous", "listening")["address"]
        self.say(f"    address: {address}")
        self.step("Starting two peers, Alice and Bob")
        for name, *options in peers:
            self.start(name, "peer", "--name", name, *options, "--rendezvous", address)
        for name in ("alice", "bob"):
            self._ids[name] = self.wait(name, "ready")["id"]
            self.say(f"    {name}'s ID: {self._ids[name]}")
        for name in ("alice", "bob"):
            self.wait(name, "registered")
        self.step("Registered: the rendezvous knows that they are there, and can introduce them")

    def pages(self) -> None:
        """Have two peers serve pages that know each other's names, until a signal comes."""
        self._start_all(("bob", "--web"), ("alice", "--web"))
        for name, other in (("alice", "bob"), ("bob", "alice")):
            self._programs[name].command("rename", name=name.title())
            self._programs[name].command("name", peer=self._ids[other], name=other.title(), request=1)
            self.wait(name, "result")
        self.step("Open these two addresses, each in a window of its own; each works once")
        for name in ("alice", "bob"):
            self.say(f"    {self._style.bold(name.title() + ':')} {self._urls[name]}")
        self.step("Let one of them call the other. Ctrl-C ends the demonstration")
        # From now on, the pages show failures.
        self._ignores_failures = True
        while True:
            self._pump(3600.0)
            for unread in self._unread.values():
                unread.clear()

    def connect(self) -> None:
        """Start all, and connect the two peers."""
        self._start_all(("bob", "--accept", "anyone"), ("alice", "--accept", "known"))
        self.step("Alice calls Bob, who lets anyone in")
        self._programs["alice"].command("call", peer=self._ids["bob"])
        self.wait("alice", "introduced")
        self.step("Introduced: each has the other's addresses, sealed so that nobody in between reads them")
        pairs = self.wait("alice", "checking")["pairs"]
        self.step(f"Punching: checking {count(pairs, 'pair')} of addresses")
        link = self.wait("alice", "connected")
        self.wait("bob", "connected")
        self.step(self._style.bold(f"Connected {path_in_words(link['path'], link['protocol'])}"))
        self.say(
            f"    path: {link['path']}, {link['local']} → {link['remote']} over {link['protocol'].upper()}"
        )
        self.say(f"    round trip: {milliseconds(link['rtt'])}, encrypted to Bob's ID")

    def exchange(self) -> None:
        """Send a message each way, and wait until it is delivered."""
        for sender, receiver, text in (
            ("alice", "bob", "Hello Bob, can you read me?"),
            ("bob", "alice", "Loud and clear, Alice, and nobody else can."),
        ):
            self._programs[sender].command("send", text=text)
            shown = self.wait(receiver, "message")["text"]
            self.wait(sender, "delivered")
            name = self._style.bold(f"{sender}:")
            self.say(f"    {name} {printable(shown)}  {self._style.good('✓ delivered')}")

    def chat(self) -> None:
        """Let the user chat as Alice, while Bob answers, until the end of stdin or /quit."""
        self.step("Now you are Alice: type a line and press Enter; /quit or Ctrl-D ends the demonstration")
        threading.Thread(target=self._read_lines, name="read stdin", daemon=True).start()
        self._unread["you"] = deque()
        while True:
            self._pump(3600.0)
            for typed in self._take("you"):
                if typed["event"] == "end" or typed["text"].strip() == "/quit":
                    return
                if typed["text"].strip():
                    self._programs["alice"].command("send", text=typed["text"][:4000])
            for event in self._take("bob"):
                if event["event"] == "message":
                    text = f"You said {event['text'][:1000]!r}, over a direct link."
                    self._programs["bob"].command("send", text=text)
            for event in self._take("alice"):
                if event["event"] == "message":
                    self.say(f"{self._style.bold('bob:')} {printable(event['text'])}")
                elif event["event"] == "delivered":
                    self.say(self._style.good("✓ delivered"))
                elif event["event"] == "disconnected":
                    raise DemoError(printable(event["text"]))

    def _take(self, name: str) -> Iterator[Event]:
        while self._unread[name]:
            yield self._unread[name].popleft()

    def _read_lines(self) -> None:
        with contextlib.suppress(OSError, ValueError):
            for line in sys.stdin:
                self._events.put(("you", {"event": "typed", "text": line.rstrip("\r\n")}))
        self._events.put(("you", {"event": "end"}))


def main(arguments: Sequence[str]) -> int:
    """
    Run the demonstration.

    :return: the exit status. After a signal the process dies of it instead.
    """
    parser = Parser(
        "punch demo",
        description="Start a rendezvous and two peers on this machine, let them connect and chat, and in a "
        "terminal chat along. Everything is in a temporary directory and ends with the demonstration.",
    )
    parser.add_argument(
        "--keep", action="store_true", help="keep the directory with logs and keys [default: no]"
    )
    parser.add_argument(
        "--web",
        action="store_true",
        help="serve two pages instead, one for each of two people to chat in a browser [default: no]",
    )
    parser.add_argument(
        "--json",
        action="store_true",
        help="print the events of all three programs as JSON lines, and end without a chat; see docs/json.md",
    )
    options = parser.parse(arguments)
    directory = Path(tempfile.mkdtemp(prefix="punch-demo-"))
    terminal = sys.stdout is not None and sys.stdout.isatty()
    demo = Demo(directory, Style.choose(os.environ, terminal), as_json=options.json)
    numbers = [getattr(signal, name) for name in ("SIGINT", "SIGTERM", "SIGHUP") if hasattr(signal, name)]
    for number in numbers:
        if signal.getsignal(number) is not signal.SIG_IGN:
            signal.signal(number, demo.receive_signal)
    died_of: int | None = None
    try:
        return _tell(demo, options.web, options.json)
    except ProgramEnded as ended:
        died_of = ended.number
    finally:
        for number in numbers:
            signal.signal(number, signal.SIG_IGN)
        demo.stop()
        if options.keep:
            write_stderr(f"Logs and keys are in {directory}")
        else:
            shutil.rmtree(directory, ignore_errors=True)
        if died_of is not None:
            signal.signal(died_of, signal.SIG_DFL)
            os.kill(os.getpid(), died_of)
    return 1


def _tell(demo: Demo, web: bool, as_json: bool) -> int:
    try:
        if web:
            demo.pages()
        demo.connect()
        demo.exchange()
        if sys.stdin is not None and sys.stdin.isatty() and not as_json:
            demo.chat()
        else:
            demo.step("That was all; in a terminal you could chat on")
    except DemoError as error:
        write_stderr(f"punch demo: {error}")
        with contextlib.suppress(DemoOutputLost):
            demo.tell({"event": "failed", "reason": "demo", "text": str(error)})
        return 1
    except DemoOutputLost as lost:
        if str(lost):
            write_stderr(f"punch demo: {lost}")
        return 1
    return 0
