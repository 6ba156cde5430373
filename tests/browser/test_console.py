# SPDX-License-Identifier: Apache-2.0
"""The console in a real Chromium, on a running platform: what an operator sees and does.

Screenshots of the finished cold start go to `.cache/console/`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import httpx
import pytest
from playwright.sync_api import Browser, ConsoleMessage, Page, expect

from support.model_dirs import write_simulated
from support.platform import Platform

SHOTS = Path(__file__).parents[2] / ".cache" / "console"
DESKTOP, PHONE = (1280, 800), (390, 844)
MODEL = "org/sim"
HOSTILE = '<img src=x onerror="document.title=1">'
PATIENCE_MS = 30_000

OpenPage = Callable[..., Page]


@pytest.fixture(scope="module")
def platform(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Platform]:
    """Models slow enough that a person, and a test, sees them wake and stream."""
    home = tmp_path_factory.mktemp("console")
    slow = {"engine_simulated_load_s": "0.8", "engine_simulated_token_s": "0.02"}
    with Platform(home, **slow) as running:
        running.add(MODEL, write_simulated(home / "sim", nbytes=48 << 20))
        yield running


@pytest.fixture
def open_page(browser: Browser, platform: Platform) -> Iterator[OpenPage]:
    """Opens the console; at the end of the test no error and no refused resource may have been logged."""
    problems: list[str] = []
    contexts = []

    def note(message: ConsoleMessage) -> None:
        if message.type == "error":
            problems.append(message.text)

    def open_it(size: tuple[int, int] = DESKTOP, scheme: str = "light") -> Page:
        context = browser.new_context(viewport={"width": size[0], "height": size[1]}, color_scheme=scheme)
        contexts.append(context)
        page = context.new_page()
        page.set_default_timeout(PATIENCE_MS)
        page.on("console", note)
        page.on("pageerror", lambda error: problems.append(str(error)))
        page.goto(platform.url)
        expect(page.locator("#health")).to_have_text("live", timeout=PATIENCE_MS)
        return page

    yield open_it
    for context in contexts:
        context.close()
    assert problems == []


def _ask(page: Page, text: str, max_tokens: int = 12) -> None:
    page.fill("#chat-max-tokens", str(max_tokens))
    page.fill("#chat-text", text)
    page.press("#chat-text", "Enter")


def _sleep(platform: Platform) -> None:
    with platform.client() as client:
        client.stop_model(MODEL, drop_bytes=True)


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("size", [DESKTOP, PHONE], ids=["desktop", "phone"])
def test_cold_start_from_the_chat_box_is_drawn_as_a_waterfall(
    platform: Platform, open_page: OpenPage, size: tuple[int, int], scheme: str
) -> None:
    _sleep(platform)
    page = open_page(size, scheme)
    _ask(page, "Hello")
    expect(page.locator(".turn .status")).to_contain_text("12 tokens", timeout=PATIENCE_MS)
    picture = page.locator(".turn svg.waterfall")
    expect(picture).to_be_visible()
    assert "first token after" in str(picture.get_attribute("aria-label"))
    assert page.evaluate("document.documentElement.scrollWidth") <= size[0]
    page.locator("#requests summary").first.click()
    expect(page.locator("#requests svg.waterfall .phase")).to_have_count(7)
    SHOTS.mkdir(parents=True, exist_ok=True)
    name = "desktop" if size == DESKTOP else "phone"
    page.screenshot(path=str(SHOTS / f"{name}-{scheme}.png"))


def test_waking_is_told_while_the_request_is_held(platform: Platform, open_page: OpenPage) -> None:
    _sleep(platform)
    page = open_page()
    page.evaluate(
        """() => {
        const seen = (window.seenStatus = []);
        new MutationObserver(() => seen.push(document.querySelector(".turn .status")?.textContent))
            .observe(document.getElementById("chat-log"), {childList: true, subtree: true, characterData: true});
        }"""
    )
    _ask(page, "Hello")
    expect(page.locator(".turn .status")).to_contain_text("12 tokens", timeout=PATIENCE_MS)
    assert any("eta" in str(text) or "loading" in str(text) for text in page.evaluate("window.seenStatus"))


def test_stop_button_cancels_the_request_and_keeps_what_came(platform: Platform, open_page: OpenPage) -> None:
    page = open_page()
    _ask(page, "Hello", max_tokens=2000)
    expect(page.locator(".turn.assistant .text")).not_to_be_empty(timeout=PATIENCE_MS)
    page.click("#chat-stop")
    expect(page.locator(".turn .status")).to_contain_text("stopped")
    expect(page.locator("#requests li").first).to_contain_text("cancelled", timeout=PATIENCE_MS)
    assert page.locator(".turn.assistant .text").inner_text()


def test_text_that_looks_like_markup_stays_text(open_page: OpenPage) -> None:
    page = open_page()
    _ask(page, HOSTILE)
    expect(page.locator(".turn.user .text")).to_have_text(HOSTILE)
    assert page.locator("#chat-log img").count() == 0
    assert page.title() == "ServerlessLLM"


def test_model_row_shows_tier_and_state_and_stop_puts_it_to_sleep(
    platform: Platform, open_page: OpenPage
) -> None:
    assert platform.chat(MODEL, max_tokens=1).status_code == 200
    page = open_page()
    row = page.locator("#models-body tr", has_text=MODEL)
    expect(row.locator(".state")).to_have_text("ready", timeout=PATIENCE_MS)
    expect(row.locator(".badge")).to_have_text("dram")
    row.get_by_role("button", name=f"Stop {MODEL}").click()
    expect(row.locator(".state")).to_have_text("asleep", timeout=PATIENCE_MS)
    expect(page.locator("#totals")).to_contain_text("0 of 1 model")


def test_node_card_shows_memory_slots_and_bandwidth(platform: Platform, open_page: OpenPage) -> None:
    assert platform.chat(MODEL, max_tokens=1).status_code == 200
    card = open_page().locator("#nodes .card")
    expect(card).to_contain_text("of 128.0 MiB memory for weights")
    expect(card).to_contain_text("nvme", timeout=PATIENCE_MS)
    expect(card).to_contain_text("simulated")


def test_page_is_served_with_a_policy_that_forbids_inline_code(platform: Platform) -> None:
    answer = httpx.get(platform.url)
    policy = answer.headers["content-security-policy"]
    assert "default-src 'none'" in policy and "unsafe" not in policy
    assert "<style" not in answer.text and "style=" not in answer.text and "onclick" not in answer.text
    assert answer.headers["x-content-type-options"] == "nosniff"


def test_key_is_asked_for_and_kept_for_the_tab_only(browser: Browser, tmp_path: Path) -> None:
    with Platform(tmp_path) as guarded:
        with guarded.client() as client:
            secret = client.create_key("operator", "admin").secret
        context = browser.new_context()
        page = context.new_page()
        page.goto(guarded.url)
        expect(page.locator("#health")).to_have_text("no access", timeout=PATIENCE_MS)
        page.fill("#key-input", secret)
        page.click("#key-form button")
        expect(page.locator("#health")).to_have_text("live", timeout=PATIENCE_MS)
        expect(page.locator("#key-form")).to_be_hidden()
        assert page.evaluate("localStorage.length") == 0
        context.close()
