"""
An interrupt while a program still loads ends it without a traceback.

The plugins' modules import this before anything else, because what follows takes most of the time that a
program needs to start. So it imports nothing heavy itself.
"""

import os
import signal
import sys
import threading


def quiet_interrupt() -> None:
    """Until something else handles SIGINT, the process just dies of it."""
    if (
        threading.current_thread() is threading.main_thread()
        and signal.getsignal(signal.SIGINT) is signal.default_int_handler
    ):
        signal.signal(signal.SIGINT, signal.SIG_DFL)


if os.path.splitext(os.path.basename(sys.argv[0]))[0] == "twistd":
    quiet_interrupt()
