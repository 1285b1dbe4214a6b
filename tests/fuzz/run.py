"""
Fuzz targets with atheris.

    python tests/fuzz/run.py --list
    python tests/fuzz/run.py wire-stun turn-server --seconds 600 --keep
    python tests/fuzz/run.py wire-stun --input wire-stun-crash-…

An input that ends with an exception, takes too long or too much memory is written to the current directory as
TARGET-crash-…, TARGET-timeout-… or TARGET-oom-….
"""

from __future__ import annotations

import argparse
import contextlib
import importlib
import io
import os
import random
import re
import sys
import tempfile
import time
import traceback
from collections.abc import Iterable
from hashlib import sha1
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent.parent
MEMORY = 1024
"""MiB that a target may use."""
TIMEOUT = 10
"""Seconds that one input may take."""
GROUPS = ("wire", "turn", "ice", "link", "rendezvous", "node", "apps", "chat", "ui", "state")
"""The modules of the targets."""


def main() -> int:
    """Returns the exit status: 0, or 1 if a target has failed."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("targets", nargs="*", metavar="TARGET", help="all, if none is named")
    parser.add_argument("--list", action="store_true", help="list the targets")
    parser.add_argument("--seconds", type=int, default=0, help="how long to fuzz each target; 0: without end")
    parser.add_argument("--runs", type=int, default=-1, help="how many inputs to try, the corpus included")
    parser.add_argument("--seed", type=int, default=0, help="of the random numbers; 0: another one each time")
    parser.add_argument("--keep", action="store_true", help="add inputs that reach more to the corpus")
    parser.add_argument("--findings", type=Path, default=Path(), help="where inputs that fail are written")
    parser.add_argument("--input", type=Path, help="run one target on this file, without atheris")
    parser.add_argument(
        "--smoke",
        type=float,
        metavar="SECONDS",
        help="run the corpus and random changes of it, without atheris",
    )
    options = parser.parse_args()
    # Not this directory, whose modules would hide others
    sys.path[0] = str(ROOT)
    groups = dict.fromkeys(name.partition("-")[0] for name in options.targets) or GROUPS
    if unknown := [group for group in groups if group not in GROUPS]:
        parser.error(f"there are no targets that begin with {unknown[0]!r}: --list names them")
    if options.list or options.input is not None or options.smoke is not None:
        load(groups)
    else:
        load_instrumented(groups)
    from tests.fuzz.target import TARGETS

    if options.list:
        print("\n".join(TARGETS))
        return 0
    if unknown := [name for name in options.targets if name not in TARGETS]:
        parser.error(f"there is no target {unknown[0]!r}: --list names them")
    names = options.targets or list(TARGETS)
    if options.input is not None:
        if len(names) != 1:
            parser.error("an input is for one target: name it")
        TARGETS[names[0]].run(options.input.read_bytes())
        return 0
    if options.smoke is not None:
        for name in names:
            smoke(name, options.smoke, options.seed)
        return 0
    failed = [name for name in names if not fuzz(name, options)]
    if failed:
        print("failed:", *failed)
    return 1 if failed else 0


def load(groups: Iterable[str]) -> None:
    """Import the targets of these groups."""
    for group in groups:
        importlib.import_module(f"tests.fuzz.{group}")


def load_instrumented(groups: Iterable[str]) -> None:
    """Import the targets so that atheris sees which code of ours they reach."""
    try:
        import atheris
    except ImportError:
        raise SystemExit(
            "atheris is not installed: pip install atheris (CPython from 3.11 on, Linux)"
        ) from None
    helpers = [
        ".".join(path.relative_to(ROOT).with_suffix("").parts) for path in ROOT.glob("punch/test/**/*.py")
    ]
    quiet = contextlib.redirect_stderr(io.StringIO())
    with quiet, atheris.instrument_imports(include=["punch"], exclude=helpers):
        load(groups)


def smoke(name: str, seconds: float, seed: int) -> None:
    """
    Run a target on the corpus, and for some processor seconds on inputs made of it at random.

    :raise Exception: the target failed; the input was printed.
    """
    from tests.fuzz.target import TARGETS

    target = TARGETS[name]
    inputs = target.inputs() or [b""]
    chance = random.Random(f"{name} {seed}")
    count, end = 0, time.process_time() + seconds
    while count < len(inputs) or time.process_time() < end:
        data = inputs[count] if count < len(inputs) else changed(inputs, chance)[: target.longest]
        count += 1
        try:
            target.run(data)
        except BaseException:
            print(f"{name} fails with {data!r}", flush=True)
            raise
    print(f"{name}: ok, {count} inputs", flush=True)


def changed(inputs: list[bytes], chance: random.Random) -> bytes:
    """One of the inputs with some changes."""
    data = bytearray(chance.choice(inputs))
    for _ in range(chance.randint(1, 4)):
        at = chance.randint(0, len(data))
        kind = chance.randrange(4)
        if kind == 0:
            data[at : at + 1] = chance.choice((b"\0", b"\xff", b"\x80", chance.randbytes(1)))
        elif kind == 1:
            del data[at : at + chance.randint(1, 8)]
        elif kind == 2:
            other = chance.choice(inputs)
            start = chance.randint(0, len(other))
            data[at:at] = other[start : start + chance.randint(1, 64)]
        elif data:
            data[at % len(data)] ^= 1 << chance.randrange(8)
    return bytes(data)


def fuzz(name: str, options: argparse.Namespace) -> bool:
    """
    Fuzz one target, and print how far it came.

    It is done in a process of its own, since atheris ends the process that it fuzzes in.
    """
    began = time.monotonic()
    with tempfile.TemporaryDirectory() as directory:
        log = Path(directory, "log")
        sys.stdout.flush()
        child = os.fork()
        if child == 0:
            try:
                _fuzz(name, options, Path(directory), log)
            except BaseException:  # of any kind: what the parent shows is the log, where this is written
                traceback.print_exc()
            finally:
                # What follows is for the parent alone
                os._exit(1)
        _, status = os.waitpid(child, 0)
        text = log.read_text("utf-8", "replace")
        passed = os.waitstatus_to_exitcode(status) == 0
        if passed and options.keep:
            keep(name, Path(directory, "found"))
    progress = re.findall(r"^#(\d+)\s+\w+\s+cov: (\d+) ft: \d+ corp: (\d+)", text, re.MULTILINE)
    runs, coverage, inputs = progress[-1] if progress else ("0", "0", "0")
    if not passed:
        print(re.sub(r"^#\d.*\n", "", text, flags=re.MULTILINE)[-20_000:])
    print(
        f"{name}: {'ok' if passed else 'FAILED'}, {time.monotonic() - began:.0f} s, {runs} inputs, "
        f"{coverage} branches reached, {inputs} inputs kept",
        flush=True,
    )
    return passed


def keep(name: str, found: Path) -> None:
    """Add to the corpus of a target what reaches more than it does."""
    from tests.fuzz import corpus
    from tests.fuzz.target import TARGETS

    target = TARGETS[name]
    inputs = [*corpus.read(name), *(path.read_bytes() for path in found.iterdir())]
    corpus.write(name, corpus.minimised(target.run, target.seeds(), inputs))


def _fuzz(name: str, options: argparse.Namespace, directory: Path, log: Path) -> None:
    import atheris

    from tests.fuzz.target import TARGETS

    descriptor = os.open(log, os.O_WRONLY | os.O_CREAT)
    for stream in (1, 2):
        os.dup2(descriptor, stream)
    target = TARGETS[name]
    seeds, found = directory / "seeds", directory / "found"
    seeds.mkdir()
    found.mkdir()
    for number, data in enumerate(target.inputs()):
        (seeds / f"{number:04}").write_bytes(data)
    arguments = [
        f"-max_len={target.longest}",
        f"-timeout={TIMEOUT}",
        f"-rss_limit_mb={MEMORY}",
        f"-seed={options.seed}",
        f"-artifact_prefix={options.findings}/{name}-",
    ]
    if options.seconds:
        arguments.append(f"-max_total_time={options.seconds}")
    if options.runs >= 0:
        arguments.append(f"-runs={options.runs}")

    def run(data: bytes) -> None:
        try:
            target.run(data)
        except BaseException:
            # Atheris itself writes only those that take too long or too much memory
            (options.findings / f"{name}-crash-{sha1(data).hexdigest()[:16]}").write_bytes(data)
            raise

    atheris.Setup([name, *arguments, str(found), str(seeds)], run)
    atheris.Fuzz()


if __name__ == "__main__":
    sys.exit(main())
