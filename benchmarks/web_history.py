"""
What a long history costs in the browser: opening the page at a chat, and searching, with 100,000 messages on
the disk.

A peer that finds no rendezvous serves its page to headless Chromium. Opening is from the navigation to the
first message that is painted, by the page's own clock; searching is from the last letter to the first hit,
without the pause in which the page waits for more letters.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

from playwright.sync_api import Page, sync_playwright

from benchmarks.chat_history import NAME, NOWHERE, fill, peer
from punch.state import StateDirectory

ROUNDS = 7

#: Seconds that are to be kept below.
OPENING, SEARCHING = 0.3, 0.2

#: What the page waits for more letters, in milliseconds (`TYPING` of sidebar.js).
TYPING = 200

#: When something is there and painted, by the page's clock. (Our policy lets Playwright wait for no strings.)
PAINTED = """
chosen => new Promise(resolve => {
  const look = () => {
    if (document.querySelector(chosen)) requestAnimationFrame(() => resolve(performance.now()));
    else requestAnimationFrame(look);
  };
  look();
})
"""


def opening(page: Page) -> float:
    """Load the page at its chat; seconds until the messages are there."""
    page.reload(wait_until="commit")
    return float(page.evaluate(PAINTED, ".message")) / 1000


def searching(page: Page, word: str) -> float:
    """Seconds until there are hits, without the pause for more letters."""
    field = page.locator("#find")
    field.fill("")
    page.locator(".hit").first.wait_for(state="detached")
    begun = page.evaluate("performance.now()")
    field.fill(word)
    return float(page.evaluate(PAINTED, ".hit") - begun - TYPING) / 1000


def main() -> int:
    """Measure, print a table, and say whether the bounds hold."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--messages", type=int, default=100_000, help="[default: %(default)s]")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as directory:
        state = StateDirectory(Path(directory)).peer(NAME)
        state.identity()
        fill(state.history_path, options.messages, 3)
        environment = {name: value for name, value in os.environ.items() if not name.startswith("PUNCH_")}
        process = subprocess.Popen(
            [
                *(str(Path(sys.executable).with_name("twistd")), "-n", "punch-peer", "--json", "--web"),
                *("--state-dir", directory, "--name", NAME, "--rendezvous", NOWHERE),
            ],
            cwd=directory,
            env=environment,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
        )
        assert process.stdout is not None
        url = next(event["url"] for event in map(json.loads, process.stdout) if event["event"] == "web")
        try:
            with sync_playwright() as playwright:
                chromium = playwright.chromium.launch(
                    executable_path=shutil.which("chromium"), args=["--no-sandbox"]
                )
                page = chromium.new_page()
                page.goto(url)
                page.locator("a.person").first.wait_for()
                page.evaluate(f"location.hash = '#/chat/{peer(1).peer_id}'")
                page.locator(".message").first.wait_for()
                opened = [opening(page) for _ in range(ROUNDS)]
                page.locator("#find").wait_for()
                words = page.locator(".message .body").last.inner_text().split()
                found = [searching(page, word) for word in words[:ROUNDS] if len(word) > 2]
        finally:
            process.kill()
            process.wait()
    kept = True
    for what, times, bound in (("opening the page", opened, OPENING), ("searching", found, SEARCHING)):
        median = statistics.median(times)
        kept = kept and median < bound
        shown = ", ".join(f"{each * 1000:.0f}" for each in times)
        print(f"{what:<18} {median * 1000:6.0f} ms (bound {bound * 1000:.0f} ms; all: {shown})")
    return 0 if kept else 1


if __name__ == "__main__":
    sys.exit(main())
