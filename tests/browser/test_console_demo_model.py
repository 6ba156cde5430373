# SPDX-License-Identifier: Apache-2.0
"""The console with a real model's start from disk; `docs/console.png` is a copy of the picture taken here."""

from __future__ import annotations

from pathlib import Path

import pytest
from playwright.sync_api import Browser, expect

from support.demo_model import demo_gguf
from support.platform import Platform

pytestmark = [pytest.mark.demo_model, pytest.mark.timeout(300)]

MODEL = "smollm2-135m-instruct"
PICTURE = Path(__file__).parents[2] / ".cache" / "console" / "demo-model.png"
PATIENCE_MS = 60_000


def test_start_of_the_demo_model_from_disk_is_pictured(browser: Browser, tmp_path: Path) -> None:
    with Platform(tmp_path, arena_budget_bytes="1GiB", engine_threads="2") as platform:
        platform.add(MODEL, demo_gguf(), engine="torch")
        context = browser.new_context(viewport={"width": 1280, "height": 800})
        page = context.new_page()
        page.goto(platform.url)
        page.select_option("#chat-model", MODEL, timeout=PATIENCE_MS)
        page.fill("#chat-temperature", "0")
        page.fill("#chat-max-tokens", "40")
        page.fill("#chat-text", "What is the capital of France, and what is it known for?")
        page.click("#chat-send")
        expect(page.locator(".turn svg.waterfall")).to_be_visible(timeout=PATIENCE_MS)
        page.locator("#requests summary").first.click()
        expect(page.locator("#requests figcaption")).to_contain_text("from nvme")
        expect(page.locator(".turn.assistant .text")).to_contain_text("Paris")
        PICTURE.parent.mkdir(parents=True, exist_ok=True)
        page.screenshot(path=str(PICTURE))
        context.close()
