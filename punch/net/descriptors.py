"""How many descriptors this process may still open."""

from __future__ import annotations

import os

try:
    import resource
except ImportError:  # Windows
    resource = None  # type: ignore[assignment]

_FOLDERS = ("/proc/self/fd", "/dev/fd")


def free_descriptors() -> int:
    """Return how many more descriptors the limit of the process allows; 0 if that is not known."""
    if resource is None:
        return 0
    limit, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    for folder in _FOLDERS:
        try:
            used = len(os.listdir(folder))
        except OSError:
            continue
        return 1 << 16 if limit == resource.RLIM_INFINITY else max(0, limit - used)
    return 0
