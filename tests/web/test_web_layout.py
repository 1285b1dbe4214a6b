"""The page fits its window: whatever is on it, and however small the window is."""

from __future__ import annotations

import pytest
from playwright.sync_api import expect

from tests.web.browsers import BOTH, layout_problems
from tests.web.web_pages import LinkedPages, linked, linked_pages

__all__ = ["linked", "linked_pages"]


@pytest.mark.parametrize("name", BOTH)
def test_the_document_is_as_high_as_the_window(linked: LinkedPages, name: str) -> None:
    """With 60 messages, on every page, with the picture and its table, a dialog, a menu and a banner."""
    alice, bob = linked.alice, linked.bob
    for number in range(60):
        alice.ask("send", peer=bob.id, text=f"Message {number}: " + "word " * (number % 40))
    visitor = linked.visit(name, alice)
    page = visitor.page
    problems: list[str] = []

    def look() -> None:
        problems.extend(layout_problems(page))

    for where in ("#/you", "#/settings", "#/network", f"#/chat/{bob.id}", "#/"):
        visitor.go(where)
        look()
    visitor.go(f"#/chat/{bob.id}")
    expect(page.locator(".message")).to_have_count(50)
    page.set_viewport_size({"width": 1180, "height": 800})
    page.get_by_role("button", name="How you are connected", exact=True).click()
    look()
    page.set_viewport_size({"width": 1180, "height": 800})
    page.get_by_role("button", name="More", exact=True).click()
    look()
    page.keyboard.press("Escape")
    page.keyboard.press("Control+/")
    expect(page.locator("dialog")).to_be_visible()
    look()
    page.keyboard.press("Escape")
    page.locator("#write").fill("A long draft. " * 200)
    look()
    stranger = linked.browser(name).new_context().new_page()
    stranger.goto(alice.origin)
    problems += layout_problems(stranger)
    assert problems == []
