"""How the page comes to a browser: who gets it, what it loads, and what it does when a part is missing."""

from __future__ import annotations

import math
import re
from typing import Any
from urllib.parse import urlsplit

import pytest
from playwright.sync_api import Page, Route, expect

from tests.web import axe
from tests.web.browsers import EITHER, Visitor
from tests.web.web_pages import LinkedPages, linked, linked_pages
from tests.web.web_pair import wait_until

__all__ = ["linked", "linked_pages"]

#: What opening the page may load, in bytes.
MAX_PAGE = 200_000


@pytest.mark.parametrize("name", EITHER)
def test_what_the_page_loads(linked: LinkedPages, name: str) -> None:
    """Under 200 KB, from its own origin alone; and it says what it does without JavaScript's help."""
    visitor = Visitor(linked.browser(name), url := linked.alice.new_url())
    visitor.page.locator("#my-id").wait_for()
    visitor.page.wait_for_load_state("networkidle")
    here = urlsplit(url).netloc
    assert {urlsplit(request.url).netloc for request in visitor.requests} == {here}
    if name == "chromium":  # Firefox tells nothing of WebSockets
        assert {urlsplit(each).netloc for each in visitor.sockets} == {here}
    total = sum(sum(size(request)) for request in visitor.requests)
    assert 50_000 < total < MAX_PAGE, total
    assert not [request.url for request in visitor.requests if request.failure]
    assert visitor.complaints == []


def size(request: Any) -> tuple[int, int]:
    """Bytes of an answer: head and body."""
    sizes = request.sizes()
    return sizes["responseHeadersSize"], sizes["responseBodySize"]


@pytest.mark.parametrize("name", EITHER)
def test_tabs_and_strangers(linked: LinkedPages, name: str) -> None:
    """A second tab shows the same; whoever has no key sees nothing; a new address lets another browser in."""
    used = linked.alice.new_url()
    alice = Visitor(linked.browser(name), used)
    alice.go(f"#/chat/{linked.bob.id}")
    first = alice.page
    second = alice.tab()
    second.goto(f"{linked.alice.origin}/#/chat/{linked.bob.id}")
    alice.say("From one tab")
    expect(second.locator(".message .body").last).to_have_text("From one tab")
    second.locator("#write").fill("From the other")
    second.locator("#write").press("Enter")
    expect(first.locator(".message .body").last).to_have_text("From the other")
    second.goto(used)
    expect(second.locator(".me")).to_contain_text("alice")

    stranger = linked.browser(name).new_context().new_page()
    for url in (used, linked.alice.origin):
        answer = stranger.goto(url)
        assert answer is not None
        assert answer.status == 403
        expect(stranger.locator("h1")).to_have_text("This browser has no key")
        assert axe.violations(stranger) == []

    second.goto(f"{linked.alice.origin}/#/settings")
    second.get_by_role("button", name="Make an address", exact=True).click()
    expect(second.locator(".mono[role=status]")).to_contain_text("token=")
    stranger.goto(second.locator(".mono[role=status]").inner_text())
    expect(stranger.locator(".me")).to_contain_text("alice")
    assert "token" not in stranger.url
    assert "key" not in stranger.url

    # The cookie alone does not open the WebSocket.
    thief = linked.browser(name).new_context()
    thief.add_cookies([dict(each) for each in first.context.cookies()])  # type: ignore[misc]
    page = thief.new_page()
    page.goto(linked.alice.origin)
    expect(page.locator("h1")).to_have_text("This browser has no key")
    expect(page.locator("#app")).to_be_hidden()


def drop(page: Page, part: str, times: float) -> list[str]:
    """A part of the page does not come the first so many times, which are listed in the answer."""
    dropped: list[str] = []

    def answer(route: Route) -> None:
        if len(dropped) < times:
            dropped.append(route.request.url)
            route.abort("connectionfailed")
        else:
            route.continue_()

    page.route(f"**/{part}", answer)
    return dropped


@pytest.mark.parametrize("name", EITHER)
def test_a_page_that_does_not_come_whole(linked: LinkedPages, name: str) -> None:
    """Chromium drops what it is fetching when the network changes; the page loads again by itself."""
    visitor = linked.visit(name, linked.alice)
    for part in ("main.js", "store.js", "frame.css"):
        page = visitor.tab()
        dropped = drop(page, part, 2)
        page.goto(linked.alice.origin)
        expect(page.locator("#app")).to_have_css("display", "grid")
        expect(page.locator(".me")).to_contain_text("alice")
        assert len(dropped) == 2, part
        # It has come whole now, and is left alone.
        page.evaluate("window.untouched = true")
        page.wait_for_timeout(1500)
        assert page.evaluate("window.untouched") is True
        expect(page.get_by_text("did not come whole")).to_be_hidden()


@pytest.mark.parametrize("name", EITHER)
def test_when_nothing_comes(linked: LinkedPages, name: str) -> None:
    """If not even the script that reloads the page is loaded, the page says so."""
    page = linked.visit(name, linked.alice).tab()
    page.route(re.compile(r"\.js$"), lambda route: route.abort("connectionfailed"))
    page.goto(linked.alice.origin)
    text = page.get_by_text("This page did not come whole. Load it again.")
    expect(text).to_be_visible()
    page.unroute(re.compile(r"\.js$"))
    page.reload()
    expect(page.locator(".me")).to_contain_text("alice")
    expect(text).to_be_hidden()


@pytest.mark.parametrize("name", EITHER)
def test_a_part_that_never_comes(linked: LinkedPages, name: str) -> None:
    """Something in the browser blocks it: the page is not loaded again for ever."""
    page = linked.visit(name, linked.alice).tab()
    page.clock.install()
    drop(page, "store.js", math.inf)
    loads: list[str] = []
    page.on("load", lambda loaded: loads.append(loaded.url))
    page.goto(linked.alice.origin)

    def time_passes() -> int:
        page.clock.run_for(15_000)
        return len(loads)

    wait_until(page, lambda: time_passes() == 9)
    for _ in range(10):
        page.wait_for_timeout(100)
        assert time_passes() == 9
