"""The page says before it sends files which can't be sent at once."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path

import pytest
from playwright._impl._driver import compute_driver_executable

import punch.ui.web
from punch.apps.files.messages import MAX_ITEMS

MODULE = Path(punch.ui.web.__file__).parent / "static" / "uploadable.js"


@pytest.fixture(scope="module")
def answers() -> dict[str, str]:
    """What the module says of each case, asked of one process."""
    cases = {
        "one": ["photo.jpg"],
        "a folder": ["photos/1.jpg", "photos/2.jpg", "photos/more/1.jpg", "1.jpg"],
        "as many as may be": [f"{number}.jpg" for number in range(MAX_ITEMS)],
        "many in a folder": [f"photos/{number}.jpg" for number in range(MAX_ITEMS + 1)],
        "too many": [f"{number}/x" for number in range(MAX_ITEMS + 1)],
        "one name twice": ["a.jpg", "photo.jpg", "photo.jpg"],
        "twice in a folder": ["photos/1.jpg", "photos/1.jpg"],
        "a file like a folder": ["photos", "photos/1.jpg"],
        "a folder like a file": ["photos/1/x", "photos/1"],
    }
    asked = json.dumps({name: [{"path": path} for path in paths] for name, paths in cases.items()})
    script = f"""{MODULE.read_text()}
        const said = {{}};
        for (const [name, files] of Object.entries({asked}))
            said[name] = whyNot(files, (path) => `<${{path}}>`);
        console.log(JSON.stringify(said));"""
    node = compute_driver_executable()[0]
    done = subprocess.run(
        [node, "--input-type=module", "-"],
        input=script,
        capture_output=True,
        text=True,
        check=True,
        timeout=60,
    )
    said: dict[str, str] = json.loads(done.stdout)
    return said


def test_what_can_be_sent(answers: dict[str, str]) -> None:
    for name in ("one", "a folder", "as many as may be", "many in a folder"):
        assert answers[name] == ""


def test_too_many(answers: dict[str, str]) -> None:
    assert f"{MAX_ITEMS + 1} files and folders, and {MAX_ITEMS} can" in answers["too many"]


def test_two_of_one_name(answers: dict[str, str]) -> None:
    assert "<photo.jpg>" in answers["one name twice"]
    assert "<photos/1.jpg>" in answers["twice in a folder"]
    assert "<photos>" in answers["a file like a folder"]
    assert "<photos/1>" in answers["a folder like a file"]
