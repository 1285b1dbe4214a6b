"""
The garbage collector while a program loads, and at its end.

What is loaded, some hundred thousand objects, exists until the process ends. Looking through it for garbage
again and again takes a quarter of the time that a program needs from its start to its end.
"""

from __future__ import annotations

import atexit
import gc
import sys
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def loading() -> Iterator[None]:
    """
    Import what a program needs. The collector waits until that is done, and then never looks at what exists
    by now.
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
    At the end of the process, the interpreter would look for cycles in all that exists, for a tenth of a
    second. It does so in the development mode only, where it tells of what was left open in them.
    """
    if not sys.flags.dev_mode:
        atexit.register(gc.freeze)
