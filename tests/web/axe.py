"""axe-core, which finds what makes a page hard to use for some people. From npm, for tests only."""

from __future__ import annotations

import functools
import subprocess
import tempfile
from pathlib import Path
from typing import Any

from playwright.sync_api import Page

from tests.needs import missing, need

VERSION = "4"


@functools.cache
def source() -> str:
    """The program, fetched once a run."""
    need("npm")
    with tempfile.TemporaryDirectory() as directory:
        fetched = subprocess.run(
            [
                "npm",
                "install",
                "--prefix",
                directory,
                "--ignore-scripts",
                "--no-audit",
                "--no-fund",
                f"axe-core@{VERSION}",
            ],
            capture_output=True,
            text=True,
            timeout=120,
            check=False,
        )
        if fetched.returncode != 0:
            missing(f"axe-core can't be fetched from npm: {fetched.stderr[-300:]}")
        return (Path(directory) / "node_modules" / "axe-core" / "axe.min.js").read_text()


def violations(page: Page) -> list[str]:
    """What axe objects to on the page as it is now, each with the first elements concerned."""
    # Colours that are on their way are no colours of ours.
    page.evaluate(
        """Promise.allSettled(
            document.getAnimations()
                .filter(each => each.effect.getComputedTiming().endTime !== Infinity)
                .map(each => each.finished)
        )"""
    )
    if not page.evaluate("'axe' in window"):
        page.evaluate(source())
    found: list[dict[str, Any]] = page.evaluate("axe.run().then(results => results.violations)")
    return [
        f"{each['id']}: {each['help']}: "
        + "; ".join(
            f"{node['html'][:200]} ({node.get('failureSummary', '')[:300]})" for node in each["nodes"][:3]
        )
        for each in found
    ]
