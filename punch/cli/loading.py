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
    Around the imports of a program: the collector waits until they are done, and afterwards never looks at
    what exists then.
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
    tenth of a second. In the development mode it still does, since it then tells what was left open in them.
    """
    if not sys.flags.dev_mode:
        atexit.register(gc.freeze)
