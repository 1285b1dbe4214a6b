"""
An interrupt while a program still loads ends it without a traceback.

The console script and the plugins' modules import this before anything else, because what follows takes most
of the time that a program needs to start. So it imports nothing heavy itself.
"""

import os
import signal
import sys
import threading


def end_quietly_on_interrupt() -> None:
    """Until something else handles SIGINT, it ends the process without a traceback."""
    if (
        threading.current_thread() is threading.main_thread()
        and signal.getsignal(signal.SIGINT) is signal.default_int_handler
    ):
        signal.signal(signal.SIGINT, signal.SIG_DFL)


def _program() -> str:
    """What was started: a script's name, or for `python -m` that of the package."""
    name = os.path.splitext(os.path.basename(sys.argv[0]))[0]
    return os.path.basename(os.path.dirname(sys.argv[0])) if name == "__main__" else name


if _program() in ("punch", "twistd"):
    end_quietly_on_interrupt()
