"""Options of the tests that use the machine."""

from __future__ import annotations

import signal
from collections.abc import Iterator
from pathlib import Path

import pytest
from xdist.remote import Producer

from tests import side_by_side
from tests.local_peers import LocalPeers
from tests.needs import need_namespaces
from tests.netns import Namespaces
from tests.processes import Programs, programs
from tests.simulation.workers import Workers


def pytest_sessionstart() -> None:
    # Ended from outside, tests remove their namespaces and processes as after Ctrl-C.
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    # A shell starts what it puts into the background with SIGINT ignored, and nohup with SIGHUP: children
    # inherit that, but not a handler that does nothing.
    for number in (signal.SIGINT, signal.SIGHUP):
        if signal.getsignal(number) is signal.SIG_IGN:
            signal.signal(number, lambda *_: None)


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        "--nat",
        choices=["quick", "whole"],
        default="quick",
        help="how much of the grid of kernel NATs is run: a selection of its pairs, or all, five times each",
    )
    parser.addoption(
        "--browsers",
        choices=["quick", "all"],
        default="quick",
        help="run all tests of pages in Firefox, too, or those that differ most between browsers",
    )
    parser.addoption(
        "--debian",
        metavar="DIR",
        help="try the deployment on a Debian of its own (minutes), installed into DIR if it is empty",
    )
    parser.addoption(
        "--whole-transfer",
        action="store_true",
        help="send 1 GiB through kernel NATs instead of 60 MB, and let the sender sleep for a minute",
    )
    parser.addoption(
        "--screenshots",
        metavar="DIR",
        help="keep a picture of each state of the page there",
    )


def pytest_configure(config: pytest.Config) -> None:
    config.addinivalue_line("markers", "all_browsers: is run only with --browsers=all")
    if hasattr(config, "workerinput"):
        config.pluginmanager.register(side_by_side.Turn())


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    if config.getoption("--browsers") != "all":
        left_out = [item for item in items if item.get_closest_marker("all_browsers")]
        config.hook.pytest_deselected(items=left_out)
        items[:] = [item for item in items if item not in left_out]
    items.sort(key=lambda item: side_by_side.order(item.nodeid))


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: Producer) -> side_by_side.Scheduler:
    return side_by_side.Scheduler(config, log)


@pytest.fixture
def running(tmp_path: Path) -> Iterator[Programs]:
    """What a test starts is ended with it."""
    with programs(tmp_path) as running:
        yield running


@pytest.fixture
def namespaces() -> Iterator[Namespaces]:
    """Network namespaces, which end with the test."""
    need_namespaces()
    with Namespaces() as namespaces:
        yield namespaces


@pytest.fixture
def local(running: Programs) -> LocalPeers:
    return LocalPeers(running)


@pytest.fixture(scope="module")
def workers() -> Iterator[Workers]:
    """For what takes long and measures no time: no other test runs meanwhile."""
    running = Workers()
    try:
        yield running
    finally:
        running.close()
