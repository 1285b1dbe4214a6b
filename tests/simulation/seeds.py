"""
How many seeds the tests on the simulated internet run: some of them, or all.

    PUNCH_SEEDS=all pytest tests/simulation/test_roaming_seeds.py tests/simulation/test_chat_faults.py \\
        tests/simulation/test_simulated_grid.py tests/simulation/test_directory_seeds.py
"""

from __future__ import annotations

import os

ALL = os.environ.get("PUNCH_SEEDS") == "all"


def seeds(usual: int, most: int) -> range:
    """Those from 1 on: `usual` of them, or with `PUNCH_SEEDS=all` as many as `most`."""
    return range(1, (most if ALL else usual) + 1)
