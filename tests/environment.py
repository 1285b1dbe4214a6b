"""The environment of the programs that tests start."""

from __future__ import annotations

import os

_PROXIES = ("https_proxy", "http_proxy", "all_proxy", "socks_proxy", "no_proxy")


def plain_environment(**extra: str) -> dict[str, str]:
    """Ours, without the user's own Punch and without proxies, which lead out of no namespace."""
    kept = {
        name: value
        for name, value in os.environ.items()
        if not name.startswith("PUNCH_") and name.lower() not in _PROXIES
    }
    return kept | extra
