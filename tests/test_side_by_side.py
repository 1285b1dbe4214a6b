"""The files whose tests may run beside others are there."""

from __future__ import annotations

from pathlib import Path

from tests.side_by_side import FILES, order, runs_alone


def test_files() -> None:
    """None is listed that is not there, and the tests of all others run alone, after them."""
    folder = Path(__file__).parent
    found = {path.relative_to(folder).as_posix() for path in folder.rglob("test_*.py")}
    assert set(FILES) <= found
    assert len(FILES) == len(set(FILES))
    for name in found - set(FILES):
        assert runs_alone(f"tests/{name}::test_something")
        assert order(f"tests/{name}::test_something") > order(f"tests/{FILES[-1]}::test_something")
    assert runs_alone("tests/nat/test_netcheck.py::test_every_profile")
    assert not runs_alone(f"tests/{FILES[0]}::test_something[case]")
