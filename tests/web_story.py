"""Two people with a browser each, behind two kernel NATs, and who looks at their pages from all sides."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from urllib.parse import urlsplit

import pytest
from playwright.sync_api import Page, Playwright

from . import axe
from .browsers import DESKTOP, PHONE, Visitor, chromium_in, playing
from .needs import need, need_namespaces
from .netns import Host, Lab
from .processes import JSONProcess, Programs, programs
from .test_namespaces import SERVICE, two_homes

VIEWS = [(size, theme) for size in (DESKTOP, PHONE) for theme in ("light", "dark")]


class Person:
    """Somebody with a peer and a browser."""

    def __init__(self, story: Story, name: str, host: Host) -> None:
        self._story = story
        self._name = name
        self.host = host
        self.peer = self.start()
        self.url: str = self.peer.wait("web")["url"]
        self.chromium = chromium_in(story.playwright, host.prefix, story.directory)
        self.visitor = Visitor(self.chromium, self.url)
        self.page = self.visitor.page

    def start(self, *options: str) -> JSONProcess:
        """Start the peer, anew with the same identity after `leave`."""
        return self._story.running.peer(
            self._name,
            "--web",
            *options,
            "--rendezvous",
            self._story.address,
            state=f"state-{self._name}",
            prefix=self.host.prefix,
        )

    def leave(self) -> None:
        """End the peer; the browser stays open."""
        self.peer.command("quit")
        assert self.peer.exit() == 0

    def come_back(self) -> None:
        """Start the peer again, and open what it prints."""
        self.peer = self.start()
        self.page.goto(self.peer.wait("web")["url"])


class Story:
    """Two people behind two kernel NATs, and a rendezvous between them."""

    def __init__(self, lab: Lab, running: Programs, directory: Path, playwright: Playwright) -> None:
        self.running = running
        self.directory = directory
        self.playwright = playwright
        self.service, alice, bob, _ = two_homes(lab)
        self.rendezvous = self.serve()
        self.address: str = self.rendezvous.wait("listening")["address"]
        self.alice = Person(self, "alice", alice)
        self.bob = Person(self, "bob", bob)
        (self.router,) = [host for host in lab.hosts if host.name.endswith("nat-a")]

    def serve(self) -> JSONProcess:
        """Start the rendezvous, with the key that it had before."""
        return self.running.rendezvous("--host", SERVICE, state="state-service", prefix=self.service.prefix)

    def block_direct_paths(self) -> None:
        """From now on Alice's router lets nothing through between the two homes; the relay is open."""
        self.router.nft(
            """
            table ip block {
                chain forward {
                    type filter hook forward priority -10;
                    ip daddr 198.51.100.12 drop
                    ip saddr 198.51.100.12 drop
                }
            }
            """
        )

    def unblock(self) -> None:
        self.router.run("nft", "delete", "table", "ip", "block")

    def connect(self) -> None:
        """Alice calls Bob, who accepts."""
        self.alice.visitor.call(self.bob.visitor.id)
        self.bob.page.get_by_role("button", name="Accept").click()
        self.alice.visitor.sees("Connected.")
        self.bob.visitor.sees("Connected.")


@pytest.fixture
def story(tmp_path: Path) -> Iterator[Story]:
    need_namespaces()
    need("chromium")
    with Lab() as lab, programs(tmp_path) as running, playing() as playwright:
        yield Story(lab, running, tmp_path, playwright)


class Album:
    """
    Looks at a page in both sizes and both themes: takes its picture, and checks what holds for every state.

    :param directory: where pictures are kept; None if nobody wants them.
    """

    def __init__(self, directory: Path | None) -> None:
        self.directory = directory
        self.problems: list[str] = []
        self.states = 0

    def look(self, name: str, visitor: Visitor) -> None:
        self.states += 1
        page = visitor.page
        for size, theme in VIEWS:
            visitor.show(size, theme)
            page.wait_for_timeout(250)
            where = f"{name}, {size['width']} px, {theme}"
            self.problems += [f"{where}: {each}" for each in axe.violations(page)]
            width = page.evaluate("document.documentElement.scrollWidth")
            if width > size["width"]:
                self.problems.append(f"{where}: {width} px wide")
            if self.directory is not None:
                page.screenshot(path=str(self.directory / f"{name}-{size['width']}-{theme}.png"))
        visitor.show(DESKTOP, "light")
        page.wait_for_timeout(100)


@pytest.fixture
def album(request: pytest.FixtureRequest) -> Album:
    chosen = request.config.getoption("--screenshots")
    if chosen is not None:
        Path(chosen).mkdir(parents=True, exist_ok=True)
    return Album(None if chosen is None else Path(chosen))


def origin(url: str) -> str:
    """Scheme, host and port."""
    parts = urlsplit(url)
    return f"{parts.scheme}://{parts.netloc}"


def new_url(story: Story) -> str:
    """One more address of Alice's page."""
    story.alice.peer.command("web", request=1)
    url: str = story.alice.peer.wait("result")["url"]
    return url


def wait_until(page: Page, done: Callable[[], bool]) -> None:
    """Let the page go on until something has happened."""
    for _ in range(600):
        if done():
            return
        page.wait_for_timeout(50)
    raise AssertionError("it did not happen")
