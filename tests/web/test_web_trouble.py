"""The page when something is wrong: what strangers say, and connections that break or are slow."""

from __future__ import annotations

import json
import os
import re
from urllib.parse import urlsplit

from playwright.sync_api import WebSocketRoute, expect

from punch.identity import Identity
from tests.web import axe
from tests.web.browsers import DESKTOP
from tests.web.web_pair import BrowserPair, origin, pair, wait_until

__all__ = ["pair"]


def test_what_a_stranger_says(pair: BrowserPair) -> None:
    """Markup, controls and overrides from the other side are shown, not done; long texts stay in the box."""
    pair.connect()
    alice, bob = pair.alice.visitor, pair.bob.visitor
    alice_id = alice.id
    page = alice.page
    page.locator(".person").click()

    def bob_says(text: str) -> None:
        pair.bob.peer.command("send", peer=alice_id, text=text)
        pair.bob.peer.wait("delivered")

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
    pair.bob.peer.command("rename", name="<b>\u202eecilA" + "x" * 40)
    pair.bob.peer.wait(("renamed", "result", "error"))
    assert page.evaluate("document.querySelectorAll('b').length") == 0

    # It does not make him one whom Alice has named herself, nor her.
    robin = str(Identity.generate(os.urandom).peer_id)
    pair.alice.peer.command("name", peer=robin, name="Robin")
    pair.alice.peer.command("name", peer=bob.id, name=None)
    for name in ("ROBIN", "You", "R\u043ebin", f"Robin ({robin[:8]}…)"):
        pair.bob.peer.command("rename", name=name)
        expect(page.locator("h1.name")).to_have_text(f"{name} ({bob.id[:8]}…)")
    pair.bob.peer.command("rename", name="Bob")
    expect(page.locator("h1.name")).to_have_text("Bob")
    assert alice.complaints == []


def test_a_connection_that_breaks(pair: BrowserPair) -> None:
    """What is typed while the connection is broken is not lost, and the page connects again by itself."""
    pair.connect()
    alice, page = pair.alice.visitor, pair.alice.page
    port = urlsplit(pair.alice.url).port
    pair.alice.host.nft(
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
    pair.alice.host.run("nft", "delete", "table", "inet", "cut")
    expect(page.locator(".banner")).to_have_count(0, timeout=20_000)
    box.press("Enter")
    alice.mark("Into the void", "read")
    pair.bob.visitor.sees("Into the void")
    assert page.locator(".message").count() == 1

    # Only the answer is lost: the message was taken, and is not to be said twice.
    pair.alice.host.nft(
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
    pair.bob.visitor.sees("Once and no more")
    pair.alice.host.run("nft", "delete", "table", "inet", "cut")
    alice.mark("Once and no more", "read")
    expect(box).to_have_value("")
    assert page.locator(".message").count() == 2


def test_what_nobody_has_seen_is_not_called_read(pair: BrowserPair) -> None:
    """A message that comes between the look at the page and what the page says of it."""
    pair.connect()
    alice, bob = pair.alice, pair.bob
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
