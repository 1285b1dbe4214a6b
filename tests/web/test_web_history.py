"""Many messages on the page: scrolling back, finding one, those that are too old, and the end of them."""

from __future__ import annotations

import re
import time

import pytest
from playwright.sync_api import expect

from tests.web import axe
from tests.web.browsers import DESKTOP, EITHER, PHONE
from tests.web.web_pages import LinkedPages, linked, linked_pages
from tests.web.web_pair import wait_until

__all__ = ["linked", "linked_pages"]


@pytest.mark.parametrize("name", EITHER)
def test_a_long_history(linked: LinkedPages, name: str) -> None:
    """Scrolling back loads more and stays where it was; a hit of long ago is shown among its neighbours."""
    visitor = linked.visit(name, linked.alice)
    page = visitor.page
    for number in range(130):
        linked.bob.peer.command("send", peer=linked.alice.id, text=f"Message {number:03}")
    bodies = page.locator(".message .body")
    expect(page.locator(".badge")).to_have_text("130 unread", timeout=30_000)
    expect(page).to_have_title(re.compile(r"^\(130\)"))
    page.reload()
    page.locator("a.person").click()
    expect(bodies.last).to_have_text("Message 129")
    expect(bodies).to_have_count(50)
    expect(page.locator(".badge")).to_have_count(0)

    page.locator(".log").hover()

    def back_to_the_first() -> bool:
        page.mouse.wheel(0, -400)
        return bool(
            page.locator(".log").evaluate(
                "log => !log.scrollTop && log.querySelector('.body').textContent === 'Message 000'"
            )
        )

    wait_until(page, back_to_the_first)
    expect(bodies.first).to_have_text("Message 000")
    expect(bodies).to_have_count(130)
    alike = bodies.all_inner_texts()
    assert alike == [f"Message {number:03}" for number in range(130)]
    in_view = page.get_by_text("Message 000")
    expect(in_view).to_be_in_viewport()
    linked.bob.peer.command("send", peer=linked.alice.id, text="While you read the past")
    expect(bodies.last).to_have_text("While you read the past")
    expect(in_view).to_be_in_viewport()
    expect(page.locator(".badge")).to_have_text("1 unread")
    assert axe.violations(page) == []
    page.get_by_role("button", name="1 new message below", exact=True).click()
    expect(bodies.last).to_be_in_viewport()
    expect(page.locator(".badge")).to_have_count(0)

    page.reload()
    expect(bodies.last).to_have_text("While you read the past")
    page.keyboard.press("Control+k")
    expect(page.locator("#find")).to_be_focused()
    page.keyboard.type("message 010")
    # Of the first letters alone, typed slowly, there are more.
    expect(page.locator(".hit")).to_have_count(1)
    page.locator(".hit").click()
    expect(page.locator(".message.found-one")).to_have_text(re.compile("Message 010"))
    expect(page.locator(".message.found-one")).to_be_in_viewport()
    page.keyboard.press("Escape")
    page.get_by_role("button", name="Go to the newest messages", exact=True).click()
    expect(bodies.last).to_be_in_viewport()
    expect(bodies.last).to_have_text("While you read the past")
    expect(page.locator(".badge")).to_have_count(0)
    assert visitor.complaints == []


@pytest.mark.parametrize("name", EITHER)
def test_a_click_while_messages_come(linked: LinkedPages, name: str) -> None:
    """A click counts even if its button is drawn anew between press and release."""
    page = linked.visit(name, linked.alice).page
    page.locator("a.person").hover()
    page.mouse.down()
    linked.bob.peer.command("send", peer=linked.alice.id, text="In between")
    expect(page.locator(".badge")).to_have_text("1 unread")
    page.mouse.up()
    expect(page.locator("h1.name")).to_have_text("bob")
    expect(page.locator(".message .body")).to_have_text("In between")
    expect(page.locator(".badge")).to_have_count(0)


@pytest.mark.parametrize("name", EITHER)
def test_old_messages_go(linked: LinkedPages, name: str) -> None:
    """Unread messages that were erased for their age are no longer counted, and newer ones are."""
    visitor = linked.visit(name, linked.alice)
    page = visitor.page
    for text in ("old", "older"):
        linked.bob.peer.command("send", peer=linked.alice.id, text=text)
    expect(page.locator(".badge")).to_have_text("2 unread")
    page.wait_for_timeout(6000)
    before = time.monotonic()
    linked.bob.peer.command("send", peer=linked.alice.id, text="new")
    expect(page.locator(".badge")).to_have_text("3 unread")
    # All that came up to three seconds before the new one goes, however long that took to come.
    linked.alice.ask("retention", days=(time.monotonic() - before + 3) / 86400)
    try:
        expect(page.locator(".badge")).to_have_text("1 unread")
        expect(page).to_have_title(re.compile(r"^\(1\)"))
    finally:
        linked.alice.ask("retention", days=None)
    assert visitor.complaints == []


@pytest.mark.parametrize("name", EITHER)
def test_the_end_stays_in_view(linked: LinkedPages, name: str) -> None:
    """The newest messages stay in view when the window changes its size or the picture its height."""
    alice = linked.visit(name, linked.alice)
    alice.go(f"#/chat/{linked.bob.id}")
    page = alice.page
    for number in range(12):
        alice.say(f"Message {number} is so long that it takes several lines in the window of a telephone")
    alice.mark("Message 11", "delivered")
    last = alice.message("Message 11")
    expect(last).to_be_in_viewport(ratio=1)
    page.get_by_role("button", name="How you are connected", exact=True).click()
    expect(page.locator(".diagram")).to_be_visible()
    page.wait_for_timeout(250)
    expect(last).to_be_in_viewport(ratio=1)
    for size in (PHONE, DESKTOP, PHONE):
        alice.show(size, "light")
        page.wait_for_timeout(250)
        expect(page.locator(".diagram")).to_be_visible()
        expect(last).to_be_in_viewport(ratio=1)
