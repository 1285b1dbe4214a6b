"""What tests of trial need that pytest runs."""

from __future__ import annotations

from pathlib import Path

import pytest
from twisted.trial.unittest import SynchronousTestCase


@pytest.fixture(autouse=True)
def in_a_directory_of_its_own(
    request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The files of `mktemp` are in the working directory, which trial makes for its tests."""
    if request.cls is not None and issubclass(request.cls, SynchronousTestCase):
        monkeypatch.chdir(tmp_path)
