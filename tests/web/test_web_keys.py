"""What is typed in the page: input methods, characters that Alt makes, and drafts."""

from __future__ import annotations

import json
import re
from typing import Any

import pytest
from playwright.sync_api import Page, WebSocketRoute, expect

from tests.web.browsers import BOTH, EITHER, Visitor
from tests.web.web_pages import LinkedPages, PagePeer, linked, linked_pages

__all__ = ["linked", "linked_pages"]

#: Keys of a composition, as browsers tell of them: while it lasts, and (Safari) after its end.
COMPOSING: list[dict[str, Any]] = [
    {"isComposing": True},
    {"isComposing": True, "keyCode": 229},
    {"isComposing": False, "keyCode": 229},
]


def press(page: Page, selector: str, key: str, **more: Any) -> bool:
    """A key press that the page can't tell from a person's. Whether the page left it alone."""
    free: bool = page.locator(selector).evaluate(
        """(element, init) => element.dispatchEvent(
            new KeyboardEvent("keydown", {bubbles: true, cancelable: true, ...init}))""",
        {"key": key, "code": key, **more},
    )
    return free


def chat(linked: LinkedPages, name: str) -> Visitor:
    """Alice at her chat with Bob."""
    visitor = linked.visit(name, linked.alice)
    visitor.go(f"#/chat/{linked.bob.id}")
    expect(visitor.page.locator("#write")).to_be_focused()
    return visitor


@pytest.mark.parametrize("name", BOTH)
def test_a_key_of_a_composition_is_not_ours(linked: LinkedPages, name: str) -> None:
    """Enter that chooses a word sends and calls nothing, and Escape that takes it back leaves nothing."""
    visitor = chat(linked, name)
    page = visitor.page
    here = page.url
    page.locator("#write").fill("やま")
    for how in COMPOSING:
        for key in ("Enter", "Escape", "ArrowDown"):
            assert press(page, "#write", key, **how), (key, how)
    expect(page.locator("#write")).to_have_value("やま")
    expect(page.locator("#write")).to_be_focused()
    assert page.locator(".message").count() == 0

    # The box at the side: with a name in it, Enter calls.
    page.locator("#find").fill("bob")
    expect(page.locator(".person")).to_have_count(1)
    for how in COMPOSING:
        for key in ("Enter", "Escape", "ArrowDown"):
            assert press(page, "#find", key, **how), (key, how)
    expect(page.locator("#find")).to_have_value("bob")
    expect(page.locator("#find")).to_be_focused()
    page.locator("#find").fill("")

    # The field for codes: "-", space and Tab take the word that is completed, and Enter joins.
    visitor.go("#/you")
    page.locator("#code-typed").fill("48213-mayonnaise")
    for how in COMPOSING:
        for key in ("-", " ", "Tab", "Enter", "Escape"):
            page.locator("#code-typed").evaluate("field => field.setSelectionRange(9, field.value.length)")
            assert press(page, "#code-typed", key, **how), (key, how)
            assert page.locator("#code-typed").evaluate("field => field.selectionStart") == 9, (key, how)
    expect(page.locator("#code-typed")).to_have_value("48213-mayonnaise")
    assert not press(page, "#code-typed", "Tab")
    expect(page.locator("#code-typed")).to_have_value("48213-mayonnaise-")
    page.locator("#code-typed").fill("")

    # Anywhere else: Escape goes back, Alt and arrows to another chat, Control with a letter elsewhere.
    visitor.go("#/settings")
    for how in COMPOSING:
        assert press(page, "#main", "Escape", **how)
        assert press(page, "#main", "ArrowDown", altKey=True, **how)
        assert press(page, "#main", "k", ctrlKey=True, **how)
    assert page.url.endswith("#/settings")
    page.get_by_role("button", name="Name bob", exact=True).click()
    field = page.get_by_role("dialog").get_by_label("Name", exact=True)
    field.fill("かわ")
    field.evaluate("field => field.dispatchEvent(new CompositionEvent('compositionstart', {bubbles: true}))")
    page.keyboard.press("Escape")
    expect(field).to_have_value("かわ")
    field.evaluate("field => field.dispatchEvent(new CompositionEvent('compositionend', {bubbles: true}))")
    page.keyboard.press("Escape")
    expect(page.locator("dialog")).to_have_count(0)

    # What is nobody's but ours still works.
    page.goto(here)
    page.locator("#write").press("Enter")
    expect(page.locator(".message .body")).to_have_text("やま")
    assert visitor.complaints == []


def test_a_real_composition(linked: LinkedPages) -> None:
    """Chromium's own input method: a word is composed, and the keys that end it are not ours."""
    visitor = chat(linked, "chromium")
    page = visitor.page
    devtools = page.context.new_cdp_session(page)
    for selector in ("#write", "#find"):
        page.locator(selector).focus()
        devtools.send("Input.imeSetComposition", {"text": "やま", "selectionStart": 2, "selectionEnd": 2})
        for key in ("Enter", "Escape"):
            devtools.send(
                "Input.dispatchKeyEvent", {"type": "rawKeyDown", "key": key, "windowsVirtualKeyCode": 229}
            )
            devtools.send("Input.dispatchKeyEvent", {"type": "keyUp", "key": key})
        devtools.send("Input.insertText", {"text": "山"})
        expect(page.locator(selector)).to_have_value("山")
        expect(page.locator(selector)).to_be_focused()
    assert page.locator(".message").count() == 0
    assert visitor.complaints == []


@pytest.mark.parametrize("name", BOTH)
def test_a_character_that_alt_makes(linked: LinkedPages, name: str) -> None:
    """Option and AltGr make letters: those do nothing else, nor does Alt in a field, while a call waits."""
    visitor = chat(linked, name)
    page = visitor.page
    caller = linked.running.peer("dora", "--rendezvous", linked.address, state=f"state-dora-{name}")
    caller.wait("registered")
    caller.command("call", peer=linked.alice.id)
    card = page.get_by_role("region", name="Incoming calls").locator(".call")
    expect(card).to_have_count(1)
    page.locator("#write").fill("dzie")
    shown = page.locator(".diagram").is_visible()
    for selector in ("#write", "#find", "#main"):
        for key, code, more in (
            ("ń", "KeyN", {}),
            ("¥", "KeyY", {}),
            ("π", "KeyP", {}),
            ("Dead", "KeyN", {}),
            ("þ", "KeyP", {"ctrlKey": True}),
            ("n", "KeyN", {"modifierAltGraph": True}),
        ):
            assert press(page, selector, key, code=code, altKey=True, **more), (selector, key)
    for selector in ("#write", "#find"):
        for key in ("y", "n", "p"):
            assert press(page, selector, key, code=f"Key{key.upper()}", altKey=True), (selector, key)
    # In a text, Option and an arrow move by a paragraph.
    assert press(page, "#write", "ArrowDown", altKey=True)
    assert page.locator(".diagram").is_visible() == shown
    # A letter that a browser makes of such a key stands in the text, and the call still waits.
    page.locator("#write").focus()
    for letter in "ń¥π":
        assert press(page, "#write", letter, code="KeyN", altKey=True), letter
        page.keyboard.insert_text(letter)
    expect(page.locator("#write")).to_have_value("dzień¥π")
    expect(card).to_have_count(1)
    assert not any(event["event"] == "failed" for event in caller.settle())
    assert not press(page, "#main", "p", code="KeyP", altKey=True)
    assert page.locator(".diagram").is_visible() != shown
    press(page, "#main", "P", code="KeyP", altKey=True)
    # Where nothing is typed, Alt and N alone refuse the call.
    assert not press(page, "#main", "n", code="KeyN", altKey=True)
    assert caller.wait("failed")["reason"] == "refused"
    expect(card).to_have_count(0)
    linked.running.end(caller)
    assert visitor.complaints == []


@pytest.mark.parametrize("name", EITHER)
def test_a_key_for_a_call_that_has_just_ended(linked: LinkedPages, name: str) -> None:
    """It does not answer the call that takes its place: that is somebody else's."""
    visitor = chat(linked, name)
    page = visitor.page
    first, second = callers = [
        linked.running.peer(who, "--rendezvous", linked.address, state=f"state-{who}-{name}")
        for who in ("emma", "finn")
    ]
    cards = page.get_by_role("region", name="Incoming calls").locator(".call")
    for number, caller in enumerate(callers, 1):
        caller.wait("registered")
        caller.command("call", peer=linked.alice.id)
        expect(cards).to_have_count(number)
    # The key comes in the moment in which the first card has gone.
    page.evaluate(
        """() => new MutationObserver((changes, observer) => {
            observer.disconnect();
            document.getElementById("main").dispatchEvent(
                new KeyboardEvent("keydown", {key: "y", code: "KeyY", altKey: true, bubbles: true}));
        }).observe(document.getElementById("calls"), {childList: true})"""
    )
    first.command("hangup", peer=linked.alice.id)
    expect(cards).to_have_count(1)
    assert not any(event["event"] in ("introduced", "connected") for event in second.settle())
    page.wait_for_timeout(1100)
    expect(cards).to_have_count(1)
    assert not press(page, "#main", "n", code="KeyN", altKey=True)
    assert second.wait("failed")["reason"] == "refused"
    for caller in callers:
        linked.running.end(caller)
    assert visitor.complaints == []


def drafts(page: Page) -> list[str]:
    """What the browser keeps of what is not said."""
    found: list[str] = page.evaluate(
        "Object.keys(localStorage).filter(key => key.startsWith('punch-draft')).map(key => localStorage[key])"
    )
    return found


@pytest.mark.parametrize("name", BOTH)
def test_a_draft_is_kept(linked: LinkedPages, name: str) -> None:
    """Over another chat, Back and a reload; until it is sent, or the history is erased."""
    visitor = chat(linked, name)
    page = visitor.page
    box = page.locator("#write")
    text = "Not <b>said</b> yet: 山 \n\n and a second line"
    box.fill(text)
    page.reload()
    expect(box).to_have_value(text)
    visitor.go("#/settings")
    page.go_back()
    expect(box).to_have_value(text)
    visitor.go(f"#/chat/{linked.alice.id[:-1]}b")
    expect(box).to_have_value("")
    visitor.go(f"#/chat/{linked.bob.id}")
    expect(box).to_have_value(text)

    # Another tab has it, and shows what becomes of it.
    other = visitor.tab()
    other.goto(page.url)
    expect(other.locator("#write")).to_have_value(text)
    page.bring_to_front()
    box.fill("Short")
    expect(other.locator("#write")).to_have_value("Short")
    box.press("Enter")
    expect(page.locator(".message .body")).to_have_text("Short")
    expect(other.locator("#write")).to_have_value("")
    assert drafts(page) == []
    page.reload()
    expect(page.locator(".message .body")).to_have_text("Short")
    expect(box).to_have_value("")

    # Erased with the history: before one's eyes, and while no page is open.
    for options in ({"peer": linked.bob.id}, {"all": True}):
        box.fill("To be erased")
        assert drafts(page)
        linked.alice.ask("erase", **options)
        expect(box).to_have_value("")
        assert drafts(page) == []
        box.fill("To be erased later")
        page.goto("about:blank")
        other.goto("about:blank")
        linked.alice.ask("erase", **options)
        page.goto(f"{linked.alice.origin}/#/chat/{linked.bob.id}")
        expect(page.locator("h1.name")).to_have_text("bob")
        expect(box).to_have_value("")
        assert drafts(page) == []
    box.fill("After all that")
    page.reload()
    expect(box).to_have_value("After all that")
    assert visitor.complaints == []


@pytest.mark.parametrize("name", BOTH)
def test_a_restart_of_punch(linked: LinkedPages, name: str) -> None:
    """The page says what to do, and has the draft again; without a history, no draft is kept either."""
    carol = PagePeer(linked.running, "carol", linked.address)
    visitor = linked.visit(name, carol)
    page = visitor.page
    box = page.locator("#write")

    def restart(*options: str) -> None:
        carol.peer.command("quit")
        assert carol.peer.exit() == 0
        expect(page.locator(".banner")).to_contain_text("if you have started Punch anew, open the address")
        carol.options = options
        carol.peer = carol.start()
        url = carol.peer.wait("web")["url"]
        expect(page.locator("main.card")).to_contain_text("Open the address that Punch printed last")
        # It goes on by itself when that is opened, be it in another tab.
        another = visitor.tab()
        another.goto(url)
        another.locator(".me").wait_for()
        another.close()
        page.locator(".me").wait_for()
        visitor.go(f"#/chat/{linked.bob.id}")

    visitor.go(f"#/chat/{linked.bob.id}")
    box.fill("When you are back")
    restart()
    expect(box).to_have_value("When you are back")
    restart("--no-history")
    expect(box).to_have_value("")
    assert drafts(page) == []
    box.fill("For this page only")
    visitor.go("#/settings")
    page.go_back()
    expect(box).to_have_value("For this page only")
    assert drafts(page) == []
    page.close()
    carol.peer.close()


@pytest.mark.parametrize("name", EITHER)
def test_what_is_said_while_the_page_goes(linked: LinkedPages, name: str) -> None:
    """A message whose answer no page has heard is neither lost nor offered again when it was taken."""
    visitor = linked.visit(name, linked.alice)
    page = visitor.tab()
    reaches_punch = [False]

    def between(socket: WebSocketRoute) -> None:
        server = socket.connect_to_server()

        def from_page(text: str | bytes) -> None:
            if reaches_punch[0] or json.loads(text)["command"] != "send":
                server.send(text)

        def to_page(text: str | bytes) -> None:
            if json.loads(text).get("command") != "send" and json.loads(text)["event"] != "added":
                socket.send(text)

        socket.on_message(from_page)
        server.on_message(to_page)

    page.route_web_socket(re.compile("/ws"), between)
    page.goto(f"{linked.alice.origin}/#/chat/{linked.bob.id}")
    box = page.locator("#write")
    box.fill("On its way")
    box.press("Enter")
    expect(box).to_have_value("")
    page.reload()
    expect(box).to_have_value("On its way")
    assert linked.alice.ask("history", peer=linked.bob.id)["messages"] == []

    reaches_punch[0] = True
    box.press("Enter")
    expect(box).to_have_value("")
    linked.alice.peer.wait("delivered")
    page.reload()
    expect(page.locator(".message .body")).to_have_text("On its way")
    expect(box).to_have_value("")
    assert drafts(page) == []
