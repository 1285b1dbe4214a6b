"""
What a program does while it loads, and at the end of its process; and its limit of open files.

An interrupt while a program loads ends it without a traceback. The console script and the plugins' modules
import this module before anything else, because what follows takes most of the time that a program needs to
start. So it imports nothing that takes long to load.

The garbage collector leaves alone what is loaded, some hundred thousand objects that exist until the process
ends. Searching them for garbage again and again would take a quarter of the time that a program needs from
its start to its end.
"""

from __future__ import annotations

import atexit
import gc
import os
import signal
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress


def end_quietly_on_interrupt() -> None:
    """Have SIGINT end the process without a traceback, until something else handles it."""
    if (
        threading.current_thread() is threading.main_thread()
        and signal.getsignal(signal.SIGINT) is signal.default_int_handler
    ):
        signal.signal(signal.SIGINT, signal.SIG_DFL)


def _program() -> str:
    """Return the name of the script that was started, or of the package for `python -m`."""
    name = os.path.splitext(os.path.basename(sys.argv[0]))[0]
    return os.path.basename(os.path.dirname(sys.argv[0])) if name == "__main__" else name


if _program() in ("punch", "twistd"):
    end_quietly_on_interrupt()


@contextmanager
def loading() -> Iterator[None]:
    """
    Return a context for the imports of a program. The garbage collector does not run in it, and afterwards
    ignores all objects that existed when it was left.
    """
    was_on = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        gc.freeze()
        if was_on:
            gc.enable()


def end_without_collecting() -> None:
    """
    Keep the interpreter from looking for cycles in all that exists at the end of the process, which takes a
    tenth of a second. In Python's development mode it still looks, because it then reports what was left
    open.
    """
    if not sys.flags.dev_mode:
        atexit.register(gc.freeze)


def raise_descriptor_limit(wanted: int = 65_536) -> int:
    """
    Raise the soft limit of open files towards `wanted`, as far as the system allows, and return the limit
    that is in force then.
    """
    try:
        import resource
    except ImportError:  # Windows has no such limit
        return wanted
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    unlimited = resource.RLIM_INFINITY
    target = wanted if hard == unlimited else min(wanted, hard)
    if soft != unlimited and soft < target:
        with suppress(OSError, ValueError):
            resource.setrlimit(resource.RLIMIT_NOFILE, (target, hard))
            return target
    return wanted if soft == unlimited else soft
