"""The page when something is wrong: strangers, their texts, connections that break, and time that passes."""

from __future__ import annotations

import json
import math
import os
import re
import time
from urllib.parse import urlsplit

from playwright.sync_api import Page, Route, WebSocketRoute, expect

from punch.identity import Identity

from . import axe
from .browsers import DESKTOP, PHONE
from .web_story import Story, origin, story, wait_until

__all__ = ["story"]


def test_what_a_stranger_says(story: Story) -> None:
    """Markup, controls and overrides from the other side are shown, not done; long texts stay in the box."""
    story.connect()
    alice, bob = story.alice.visitor, story.bob.visitor
    alice_id = alice.id
    page = alice.page
    page.locator(".person").click()

    def bob_says(text: str) -> None:
        story.bob.peer.command("send", peer=alice_id, text=text)
        story.bob.peer.wait("delivered")

    page.evaluate("window.harmed = false")
    markup = '<img src=x onerror="window.harmed=true"><script>window.harmed=true</script>&lt;b&gt;'
    bob_says(markup)
    expect(page.locator(".message .body").last).to_have_text(markup)
    bob_says("pay \u202eeb ot\u202c me \x1b[31mred\x07 \u2066x")
    last = page.locator(".message .body").last
    expect(last).to_have_text("pay \\u202eeb ot\\u202c me \\x1b[31mred\\x07 \\u2066x")
    assert last.locator(".escape").count() == 5
    link = "javascript:alert(1) https://evil.example/?q=1"
    bob_says(link)
    expect(page.locator(".message .body").last).to_have_text(link)
    links = page.locator(".message a").evaluate_all("links => links.map(each => [each.href, each.rel])")
    assert links == [["https://evil.example/?q=1", "noopener noreferrer"]]
    bob_says("W" * 4000)
    bob_says("e" + "\u0301" * 5000)
    expect(page.locator(".message")).to_have_count(5)
    assert page.evaluate("document.documentElement.scrollWidth") <= DESKTOP["width"]
    assert page.evaluate("window.harmed") is False

    box = page.locator("#write")
    box.fill("x" * 65536)
    expect(page.locator("#hint")).to_contain_text("65,536 bytes; a message holds 16,384.")
    expect(page.get_by_role("button", name="Send", exact=True)).to_be_disabled()
    box.press("Enter")
    assert len(box.input_value()) == 65536
    page.get_by_role("button", name="Send it in 4 parts", exact=True).click()
    expect(
        page.locator('.message.ours[data-state="delivered"], .message.ours[data-state="read"]')
    ).to_have_count(4)
    page.evaluate("navigator.clipboard.writeText('y'.repeat(10_000_000))")
    box.press("Control+v")
    expect(page.locator("#hint")).to_contain_text("10.0 MB of text, too much for a chat")
    assert box.input_value() == ""
    box.fill("   ")
    expect(page.get_by_role("button", name="Send", exact=True)).to_be_disabled()
    bob.page.locator(".person").click()
    expect(bob.page.locator(".message:not(.ours)")).to_have_count(4)

    # A name is anybody's choice, too.
    story.bob.peer.command("rename", name="<b>\u202eecilA" + "x" * 40)
    story.bob.peer.wait(("renamed", "result", "error"))
    assert page.evaluate("document.querySelectorAll('b').length") == 0

    # It does not make him one whom Alice has named herself, nor her.
    robin = str(Identity.generate(os.urandom).peer_id)
    story.alice.peer.command("name", peer=robin, name="Robin")
    story.alice.peer.command("name", peer=bob.id, name=None)
    for name in ("ROBIN", "You"):
        story.bob.peer.command("rename", name=name)
        expect(page.locator("h1.name")).to_have_text(f"{name} ({bob.id[:8]}…)")
    story.bob.peer.command("rename", name="Bob")
    expect(page.locator("h1.name")).to_have_text("Bob")
    assert alice.complaints == []


def test_tabs_and_strangers(story: Story) -> None:
    """A second tab shows the same; whoever has no key sees nothing; a new address lets another browser in."""
    story.connect()
    alice = story.alice.visitor
    first = alice.page
    second = alice.tab()
    second.goto(f"{origin(story.alice.url)}/#/chat/{story.bob.visitor.id}")
    alice.say("From one tab")
    expect(second.locator(".message .body").last).to_have_text("From one tab")
    second.locator("#write").fill("From the other")
    second.locator("#write").press("Enter")
    expect(first.locator(".message .body").last).to_have_text("From the other")
    second.goto(story.alice.url)
    expect(second.locator(".me")).to_contain_text("alice")

    stranger = story.alice.chromium.new_context().new_page()
    for url in (story.alice.url, origin(story.alice.url)):
        answer = stranger.goto(url)
        assert answer is not None
        assert answer.status == 403
        expect(stranger.locator("h1")).to_have_text("This browser has no key")
        assert axe.violations(stranger) == []

    second.goto(f"{origin(story.alice.url)}/#/settings")
    second.get_by_role("button", name="Make an address", exact=True).click()
    expect(second.locator(".mono[role=status]")).to_contain_text("token=")
    stranger.goto(second.locator(".mono[role=status]").inner_text())
    expect(stranger.locator(".me")).to_contain_text("alice")
    assert "token" not in stranger.url
    assert "key" not in stranger.url

    # The cookie alone does not open the WebSocket.
    thief = story.alice.chromium.new_context()
    thief.add_cookies([dict(each) for each in first.context.cookies()])  # type: ignore[misc]
    page = thief.new_page()
    page.goto(origin(story.alice.url))
    expect(page.locator("h1")).to_have_text("This browser has no key")
    expect(page.locator("#app")).to_be_hidden()


def test_a_long_history(story: Story) -> None:
    """Scrolling back loads more and stays where it was; a hit of long ago is shown among its neighbours."""
    story.connect()
    page, alice_id = story.alice.page, story.alice.visitor.id
    for number in range(130):
        story.bob.peer.command("send", peer=alice_id, text=f"Message {number:03}")
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
    story.bob.peer.command("send", peer=alice_id, text="While you read the past")
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
    assert story.alice.visitor.complaints == []


def test_a_click_while_messages_come(story: Story) -> None:
    """What is drawn anew between press and release of the button does not lose the click."""
    story.connect()
    page, alice_id = story.alice.page, story.alice.visitor.id
    page.locator("a.person").hover()
    page.mouse.down()
    story.bob.peer.command("send", peer=alice_id, text="In between")
    expect(page.locator(".badge")).to_have_text("1 unread")
    page.mouse.up()
    expect(page.locator("h1.name")).to_have_text("bob")
    expect(page.locator(".message .body")).to_have_text("In between")
    expect(page.locator(".badge")).to_have_count(0)


def test_a_connection_that_breaks(story: Story) -> None:
    """What was typed meanwhile is not lost, and the page comes back by itself."""
    story.connect()
    alice, page = story.alice.visitor, story.alice.page
    port = urlsplit(story.alice.url).port
    story.alice.host.nft(
        f"""
        table inet cut {{
            chain input {{
                type filter hook input priority 0;
                iifname "lo" tcp dport {port} reject with tcp reset
            }}
        }}
        """
    )
    box = page.locator("#write")
    box.fill("Into the void")
    box.press("Enter")
    expect(page.locator(".banner")).to_contain_text("Punch does not answer")
    expect(box).to_have_value("Into the void")
    expect(page.get_by_role("button", name="Send", exact=True)).to_be_disabled()
    assert axe.violations(page) == []
    story.alice.host.run("nft", "delete", "table", "inet", "cut")
    expect(page.locator(".banner")).to_have_count(0, timeout=20_000)
    box.press("Enter")
    alice.mark("Into the void", "read")
    story.bob.visitor.sees("Into the void")
    assert page.locator(".message").count() == 1

    # Only the answer is lost: the message was taken, and is not to be said twice.
    story.alice.host.nft(
        f"""
        table inet cut {{
            chain input {{
                type filter hook input priority 0;
                iifname "lo" tcp sport {port} reject with tcp reset
            }}
        }}
        """
    )
    box.fill("Once and no more")
    box.press("Enter")
    story.bob.visitor.sees("Once and no more")
    story.alice.host.run("nft", "delete", "table", "inet", "cut")
    alice.mark("Once and no more", "read")
    expect(box).to_have_value("")
    assert page.locator(".message").count() == 2


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


def test_a_page_that_does_not_come_whole(story: Story) -> None:
    """Chromium drops what it is fetching when the network changes; the page loads again by itself."""
    for part in ("main.js", "store.js", "frame.css"):
        page = story.alice.visitor.tab()
        dropped = drop(page, part, 2)
        page.goto(origin(story.alice.url))
        expect(page.locator("#app")).to_have_css("display", "grid")
        expect(page.locator(".me")).to_contain_text("alice")
        assert len(dropped) == 2, part
        # It has come whole now, and is left alone.
        page.evaluate("window.untouched = true")
        page.wait_for_timeout(1500)
        assert page.evaluate("window.untouched") is True
        expect(page.get_by_text("did not come whole")).to_be_hidden()


def test_when_nothing_comes(story: Story) -> None:
    """Not even what would load it again: the page says so."""
    page = story.alice.visitor.tab()
    page.route(re.compile(r"\.js$"), lambda route: route.abort("connectionfailed"))
    page.goto(origin(story.alice.url))
    text = page.get_by_text("This page did not come whole. Load it again.")
    expect(text).to_be_visible()
    page.unroute(re.compile(r"\.js$"))
    page.reload()
    expect(page.locator(".me")).to_contain_text("alice")
    expect(text).to_be_hidden()


def test_a_part_that_never_comes(story: Story) -> None:
    """Something in the browser blocks it: the page is not loaded again for ever."""
    page = story.alice.visitor.tab()
    page.clock.install()
    drop(page, "store.js", math.inf)
    loads: list[str] = []
    page.on("load", lambda loaded: loads.append(loaded.url))
    page.goto(origin(story.alice.url))

    def time_passes() -> int:
        page.clock.run_for(15_000)
        return len(loads)

    wait_until(page, lambda: time_passes() == 9)
    for _ in range(10):
        page.wait_for_timeout(100)
        assert time_passes() == 9


def test_what_nobody_has_seen_is_not_called_read(story: Story) -> None:
    """A message that comes between the look at the page and what the page says of it."""
    story.connect()
    alice, bob = story.alice, story.bob
    alice_id, bob_id = alice.visitor.id, bob.visitor.id
    page = alice.visitor.tab()
    held: list[str] = []
    holding = [False]

    def between(socket: WebSocketRoute) -> None:
        server = socket.connect_to_server()

        def from_page(text: str | bytes) -> None:
            assert isinstance(text, str)
            holding[0] |= json.loads(text)["command"] == "read"
            (held.append if holding[0] else server.send)(text)

        def to_page(text: str | bytes) -> None:
            if not holding[0]:
                socket.send(text)

        socket.on_message(from_page)
        server.on_message(to_page)
        servers.append(server)

    servers: list[WebSocketRoute] = []
    page.route_web_socket(re.compile("/ws"), between)
    page.goto(f"{origin(alice.url)}/#/chat/{bob_id}")
    page.bring_to_front()
    expect(page.locator("h1.name")).to_have_text("bob")
    bob.peer.command("send", peer=alice_id, text="Seen")
    expect(page.locator(".message .body").last).to_have_text("Seen")
    wait_until(page, lambda: bool(held))
    bob.peer.command("send", peer=alice_id, text="Not seen")
    bob.peer.wait("delivered")
    bob.peer.wait("delivered")
    servers[-1].send(held[0])
    page.title()  # Playwright has sent it when it answers.
    assert bob.peer.wait("read")["number"] == 1
    alice.peer.command("conversations", request="how many")
    assert alice.peer.wait("result")["conversations"][0]["unread"] == 1


def test_old_messages_go(story: Story) -> None:
    """What was never read and has become too old is not counted any more; what is newer is."""
    story.connect()
    alice, page = story.alice, story.alice.page
    alice_id = alice.visitor.id
    for text in ("old", "older"):
        story.bob.peer.command("send", peer=alice_id, text=text)
    expect(page.locator(".badge")).to_have_text("2 unread")
    page.wait_for_timeout(6000)
    before = time.monotonic()
    story.bob.peer.command("send", peer=alice_id, text="new")
    expect(page.locator(".badge")).to_have_text("3 unread")
    # All that came up to three seconds before the new one goes, however long that took to come.
    alice.peer.command("retention", days=(time.monotonic() - before + 3) / 86400)
    expect(page.locator(".badge")).to_have_text("1 unread")
    expect(page).to_have_title(re.compile(r"^\(1\)"))
    assert alice.visitor.complaints == []


def test_the_end_stays_in_view(story: Story) -> None:
    """Who looks at the newest messages still does in a window of another size, whatever the picture does."""
    story.connect()
    alice = story.alice.visitor
    page = alice.page
    for number in range(12):
        alice.say(f"Message {number} is so long that it takes several lines in the window of a telephone")
    alice.mark("Message 11", "read")
    last = alice.message("Message 11")
    expect(last).to_be_in_viewport(ratio=1)
    page.get_by_role("button", name="How you are connected", exact=True).click()
    expect(page.locator(".scene")).to_be_visible()
    page.wait_for_timeout(250)
    expect(last).to_be_in_viewport(ratio=1)
    for size in (PHONE, DESKTOP, PHONE):
        alice.show(size, "light")
        page.wait_for_timeout(250)
        expect(page.locator(".scene")).to_be_visible()
        expect(last).to_be_in_viewport(ratio=1)
