"""
How fast files are sent over loopback, and what it costs: `punch send` beside what people use.

    python -m benchmarks.files [--rounds 3] [--size 1024] [--files 10000] [--only punch,scp]

Two loads: one file of `--size` MiB of random bytes, and a folder with `--files` files of 1 KiB. Each program
sends them, in turn, from one folder of this machine to another, as a user would: the time is that from the
start of the sending command, when the receiving one is ready, to the end of both, so that registering,
finding a path and the key exchange count. `punch` and `wormhole` (with a mailbox server of its own, directly)
run a command on each side; `scp`, `rsync` and `tar` go through a server of OpenSSH, whose processes count.
CPU seconds are those of both sides together, and the peak is that of the resident memory of the sender and,
if the benchmark starts it, of the receiver. What is not installed is left out, and said.

Rounds are interleaved, and the median is reported. What has arrived is compared with what was sent. The
status is 1 if an aim is missed: ahead of wormhole, scp and rsync with both loads, and with small files at
most 1.2 times the time of tar.
"""

from __future__ import annotations

import argparse
import compileall
import contextlib
import filecmp
import getpass
import os
import platform
import random
import shutil
import socket
import subprocess
import sys
import tempfile
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from statistics import median

import punch

BIN = Path(sys.executable).parent
PUNCH, WORMHOLE = str(BIN / "punch"), str(BIN / "wormhole")
PEERS = ("alice", "bob")
TICKS = os.sysconf("SC_CLK_TCK")
START_TIMEOUT = 30.0
AIM_OF_TAR = 1.2


class NotInstalled(Exception):
    """There is no program of that name here."""


@dataclass(frozen=True)
class Sample:
    """One round: wall and CPU seconds, and the peak of resident memory of each side in bytes."""

    seconds: float
    cpu: float
    sender: int
    receiver: int | None


@dataclass(frozen=True)
class Usage:
    """What a process and those that it waited for have used."""

    cpu: float
    memory: int


class Command:
    """A command that is waited for, to know what it used."""

    def __init__(self, words: Sequence[str], *, ready: str | None = None, directory: Path) -> None:
        self.words = words
        self._log = tempfile.TemporaryFile()  # noqa: SIM115
        self._process = subprocess.Popen(
            words,
            cwd=directory,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE if ready else self._log,
            stderr=self._log,
            text=True,
        )
        if ready is not None:
            assert self._process.stdout is not None
            for line in self._process.stdout:
                if ready in line:
                    break
            else:
                self.end()

    def end(self) -> Usage:
        """Wait for its end, which has to be a success."""
        _, status, usage = os.wait4(self._process.pid, 0)
        self._process.returncode = os.waitstatus_to_exitcode(status)
        self._log.seek(0)
        said = self._log.read().decode(errors="replace")
        self._log.close()
        if status:
            raise SystemExit(f"{' '.join(self.words)} ended with {self._process.returncode}:\n{said}")
        return Usage(usage.ru_utime + usage.ru_stime, usage.ru_maxrss * 1024)


def free_port() -> int:
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        port: int = one.getsockname()[1]
        return port


def is_listening(port: int) -> bool:
    """
    Whether a process of this machine listens at a TCP port of IPv4, by the kernel's table. A connection that
    tries the port may go on through a tunnel to iperf3, which takes it for the one client that it serves.
    """
    rows = [line.split() for line in Path("/proc/net/tcp").read_text().splitlines()[1:]]
    return any(row[1].endswith(f":{port:04X}") and row[3] == "0A" for row in rows)


def wait_for_port(port: int, server: subprocess.Popen[bytes]) -> None:
    end = time.monotonic() + START_TIMEOUT
    while time.monotonic() < end and server.poll() is None:
        if is_listening(port):
            return
        time.sleep(0.05)
    raise SystemExit(f"{server.args!r} does not listen.")


@contextlib.contextmanager
def running(words: Sequence[str], port: int, directory: Path) -> Iterator[subprocess.Popen[bytes]]:
    """A server on a port of loopback, for as long as the context lasts."""
    log = (directory / f"log-{port}").open("wb")
    with log, subprocess.Popen(words, cwd=directory, stdout=log, stderr=log) as server:
        try:
            wait_for_port(port, server)
            yield server
        finally:
            server.terminate()


class Punch:
    """A rendezvous and two identities that know each other."""

    title = "punch send"

    def __init__(self, directory: Path, stack: contextlib.ExitStack) -> None:
        self._directory = directory
        port, state = free_port(), directory / "state"
        words = [str(BIN / "twistd"), "-n", "--pidfile=", "punch-rendezvous", "--state-dir", str(state)]
        words += ["--control", f"tcp:{port}:interface=127.0.0.1", "--reflector-port", "127.0.0.1:0"]
        stack.enter_context(running(words, port, directory))
        written = state / "rendezvous" / "public-address"
        end = time.monotonic() + START_TIMEOUT
        while not written.exists() and time.monotonic() < end:
            time.sleep(0.05)
        self._address = written.read_text().strip()
        ids = {name: self._run("id", *self._who(name)).split()[0] for name in PEERS}
        for name, other in (PEERS, PEERS[::-1]):
            self._run("peers", "add", *self._who(name), ids[other], other)

    def options(self, name: str) -> list[str]:
        """Return the options of commands that use the node of an identity."""
        return [*self._who(name), "--rendezvous", self._address]

    def _who(self, name: str) -> list[str]:
        return ["--state-dir", str(self._directory / "state"), "--name", name]

    def _run(self, *words: str) -> str:
        return subprocess.run([PUNCH, *words], check=True, capture_output=True, text=True).stdout

    def send(self, source: Path, target: Path) -> Sample:
        receive = [PUNCH, "receive", "--json", "--once", "--yes", "--output", str(target)]
        receive += self.options("bob")
        receiver = Command(receive, ready='"ready"', directory=self._directory)
        began = time.monotonic()
        send = [PUNCH, "send", "--json", "--wait", *self.options("alice"), str(source), "bob"]
        sent = Command(send, directory=self._directory).end()
        received = receiver.end()
        return Sample(time.monotonic() - began, sent.cpu + received.cpu, sent.memory, received.memory)


class Wormhole:
    """magic-wormhole with a mailbox server on this machine; the bytes go directly."""

    title = "wormhole send"

    def __init__(self, directory: Path, stack: contextlib.ExitStack) -> None:
        if not Path(WORMHOLE).exists():
            raise NotInstalled("wormhole")
        self._directory = directory
        port = free_port()
        self._mailbox = f"ws://127.0.0.1:{port}/v1"
        words = [str(BIN / "twistd"), "-n", "--pidfile=", "wormhole-mailbox", f"--port=tcp:{port}"]
        stack.enter_context(running(words, port, directory))
        self._number = 0

    def send(self, source: Path, target: Path) -> Sample:
        self._number += 1
        code = f"{self._number}-purple-sausages"
        words = [WORMHOLE, "--relay-url", self._mailbox, "--transit-helper", ""]
        receive = [*words, "receive", "--accept-file", "--hide-progress", "--output-file"]
        began = time.monotonic()
        sender = Command(
            [*words, "send", "--hide-progress", "--code", code, str(source)], directory=self._directory
        )
        received = Command([*receive, str(target / source.name), code], directory=self._directory).end()
        sent = sender.end()
        return Sample(time.monotonic() - began, sent.cpu + received.cpu, sent.memory, received.memory)


class OpenSSH:
    """A server of OpenSSH for this user, and what its clients need; subclasses say what goes through it."""

    title = ""
    program = ""

    def __init__(self, directory: Path, stack: contextlib.ExitStack) -> None:
        server = shutil.which("sshd", path=f"{os.environ.get('PATH', '')}:/usr/sbin")
        for needed in (server, shutil.which(self.program), shutil.which("ssh-keygen")):
            if needed is None:
                raise NotInstalled(f"{self.program} with OpenSSH")
        assert server is not None
        self._directory = directory
        port = free_port()
        for key in ("host", "user"):
            words = ["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", str(directory / key)]
            subprocess.run(words, check=True)
        settings = {
            "Port": port,
            "ListenAddress": "127.0.0.1",
            "HostKey": directory / "host",
            "AuthorizedKeysFile": directory / "user.pub",
            "PidFile": "none",
            "StrictModes": "no",
            "UsePAM": "no",
            "Subsystem": "sftp internal-sftp",
        }
        config = directory / "sshd_config"
        config.write_text("".join(f"{key} {value}\n" for key, value in settings.items()))
        if os.geteuid() == 0:
            Path("/run/sshd").mkdir(exist_ok=True)
        self._server = stack.enter_context(running([server, "-D", "-e", "-f", str(config)], port, directory))
        self.host = f"{getpass.getuser()}@127.0.0.1"
        self.options = [
            *("-i", str(directory / "user"), "-o", f"Port={port}"),
            *("-o", "StrictHostKeyChecking=no", "-o", "UserKnownHostsFile=/dev/null", "-o", "LogLevel=ERROR"),
        ]


class SentOverSSH(OpenSSH, ABC):
    """A program that sends files through OpenSSH."""

    @abstractmethod
    def words(self, source: Path, target: Path) -> list[str]:
        """Return the command that sends."""

    def send(self, source: Path, target: Path) -> Sample:
        before = self._server_cpu()
        began = time.monotonic()
        sent = Command(self.words(source, target), directory=source.parent).end()
        seconds = time.monotonic() - began
        # The server waits for the processes of a connection a moment later.
        time.sleep(0.3)
        return Sample(seconds, sent.cpu + self._server_cpu() - before, sent.memory, None)

    def _server_cpu(self) -> float:
        """The CPU seconds of the server and of the processes that it has waited for."""
        fields = Path(f"/proc/{self._server.pid}/stat").read_text().rpartition(")")[2].split()
        return sum(map(int, fields[11:15])) / TICKS


class Scp(SentOverSSH):
    title = program = "scp"

    def words(self, source: Path, target: Path) -> list[str]:
        return ["scp", "-q", "-r", *self.options, str(source), f"{self.host}:{target}"]


class Rsync(SentOverSSH):
    title = program = "rsync"

    def words(self, source: Path, target: Path) -> list[str]:
        return ["rsync", "-a", "-e", " ".join(["ssh", *self.options]), str(source), f"{self.host}:{target}/"]


class Tar(SentOverSSH):
    title = "tar \\| ssh"
    program = "tar"

    def words(self, source: Path, target: Path) -> list[str]:
        ssh = " ".join(["ssh", *self.options, self.host])
        return ["sh", "-c", f"tar cf - {source.name} | {ssh} tar xf - -C {target}"]


PROGRAMS: dict[str, Callable[[Path, contextlib.ExitStack], Punch | Wormhole | SentOverSSH]] = {
    "punch": Punch,
    "wormhole": Wormhole,
    "scp": Scp,
    "rsync": Rsync,
    "tar": Tar,
}


def make_loads(directory: Path, mebibytes: int, files: int) -> dict[str, Path]:
    generator = random.Random(1)
    large = directory / "large"
    with large.open("wb") as file:
        for _ in range(mebibytes):
            file.write(generator.randbytes(1 << 20))
    small = directory / "small"
    small.mkdir()
    for number in range(files):
        folder = small / str(number // 1000)
        folder.mkdir(exist_ok=True)
        (folder / f"{number}").write_bytes(generator.randbytes(1024))
    return {f"one file of {mebibytes} MiB": large, f"{files:,} files of 1 KiB": small}


def same(one: Path, other: Path) -> bool:
    if one.is_file():
        return filecmp.cmp(one, other, shallow=False)
    names = sorted(path.relative_to(one) for path in one.rglob("*"))
    if names != sorted(path.relative_to(other) for path in other.rglob("*")):
        return False
    return all((other / name).is_dir() or filecmp.cmp(one / name, other / name, False) for name in names)


def run(arguments: argparse.Namespace, directory: Path, stack: contextlib.ExitStack) -> bool:
    """Measure and print; return whether all aims are met."""
    wanted = arguments.only.split(",") if arguments.only else list(PROGRAMS)
    programs = {}
    for name in wanted:
        own = directory / name
        own.mkdir()
        try:
            programs[name] = PROGRAMS[name](own, stack)
        except NotInstalled as error:
            print(f"{name}: left out, as {error} is not installed.")
    met = True
    for load, source in make_loads(directory, arguments.size, arguments.files).items():
        samples: dict[str, list[Sample]] = {name: [] for name in programs}
        for _ in range(arguments.rounds):
            for name, program in programs.items():
                target = directory / "target"
                target.mkdir()
                samples[name].append(program.send(source, target))
                if not same(source, target / source.name):
                    raise SystemExit(f"{name}: what has arrived is not what was sent.")
                shutil.rmtree(target)
        print(f"\n{load}\n\n| | seconds | of punch | CPU s | peak MB, sender / receiver |")
        print("|---|--:|--:|--:|--:|")
        seconds = {name: median(sample.seconds for sample in each) for name, each in samples.items()}
        for name, each in samples.items():
            peaks = [max(sample.sender for sample in each) / 1e6]
            peaks += [max(found) / 1e6] if (found := [s.receiver for s in each if s.receiver]) else []
            ratio = f"{seconds[name] / seconds['punch']:.2f}" if "punch" in seconds else ""
            shown = " / ".join(f"{peak:.0f}" for peak in peaks)
            cpu = median(sample.cpu for sample in each)
            print(f"| {programs[name].title} | {seconds[name]:.2f} | {ratio} | {cpu:.2f} | {shown} |")
        if "punch" in seconds:
            ahead = {name for name in ("wormhole", "scp", "rsync") if name in seconds}
            met &= all(seconds["punch"] < seconds[name] for name in ahead)
            if source.is_dir() and "tar" in seconds:
                met &= seconds["punch"] <= AIM_OF_TAR * seconds["tar"]
    return met


def versions() -> str:
    shown = [f"Python {platform.python_version()}"]
    for name in ("txpunch", "qh3", "magic-wormhole"):
        with contextlib.suppress(PackageNotFoundError):
            shown.append(f"{name} {version(name)}")
    for words in (["ssh", "-V"], ["rsync", "--version"]):
        with contextlib.suppress(OSError):
            done = subprocess.run(words, capture_output=True, text=True, check=False)
            shown.append((done.stdout or done.stderr).split("\n")[0].strip())
    return ", ".join(shown)


def main() -> int:
    assert __doc__ is not None
    parser = argparse.ArgumentParser(description=__doc__.strip().split("\n")[0])
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--size", type=int, default=1024, metavar="MIB")
    parser.add_argument("--files", type=int, default=10_000)
    parser.add_argument("--only", help=f"of {','.join(PROGRAMS)}")
    parser.add_argument("--directory", type=Path, help="where the files are [default: a temporary one]")
    arguments = parser.parse_args()
    print(f"{platform.platform()}, {os.cpu_count()} processors; {versions()}")
    # As pip does when it installs: with PYTHONDONTWRITEBYTECODE, modules would be compiled at each start
    compileall.compile_dir(Path(punch.__file__).parent, quiet=1)
    with tempfile.TemporaryDirectory(dir=arguments.directory) as name, contextlib.ExitStack() as stack:
        return 0 if run(arguments, Path(name), stack) else 1


if __name__ == "__main__":
    sys.exit(main())
