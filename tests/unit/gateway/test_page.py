"""The page at / in a headless Chromium."""

import asyncio
import json
import re
import shutil

import pytest
from playwright.async_api import async_playwright, expect
from tests.drills.waiting import until
from tests.fakes.triton_service import chunk, tensors

from tritonlm.gateway.keys import hashed

CHROMIUM = shutil.which("chromium")
pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="there is no chromium")
LIMIT_MS = 60_000
PIECES = ["I ", "go ", "<b>no</b> ", "further."]


async def speak(request, send):
    for place, piece in enumerate(PIECES, start=1):
        await asyncio.sleep(0.02)
        is_last = place == len(PIECES)
        send(chunk(piece, finish_reason="stop" if is_last else "", num_input_tokens=(9,),
                   num_output_tokens=(place,), is_final=is_last))


async def speak_without_end(request, send):
    send(chunk("On and on"))
    await asyncio.sleep(60)


@pytest.fixture
async def page():
    async with async_playwright() as playwright:
        browser = await playwright.chromium.launch(executable_path=CHROMIUM,
                                                   args=["--no-sandbox"])
        page = await browser.new_page()
        page.set_default_timeout(LIMIT_MS)
        expect.set_options(timeout=LIMIT_MS)
        errors = []
        page.on("pageerror", lambda error: errors.append(str(error)))
        yield page
        await browser.close()
        assert errors == []


def said(server):
    return [json.loads(tensors(request)["messages"][0][0]) for request in server.requests]


async def test_a_chat_streams_and_goes_on(gateway, page):
    async with gateway(speak) as (url, server):
        await page.goto(url)
        await expect(page.locator("#model")).to_have_value("generate")
        await page.fill("#system", "Be brief.")
        for name, value in (("max_tokens", "7"), ("temperature", "0.5"), ("seed", "3")):
            await page.fill(f"#{name}", value)
        await page.select_option("#priority", "low")
        await page.fill("#text", "Who goes there?")
        await page.press("#text", "Enter")
        bubble = page.locator(".message.assistant")
        await expect(bubble).to_have_text("".join(PIECES))  # as text: tags are shown
        await expect(page.locator("#stats")).to_have_text(re.compile(
            r"first token after \d+ ms · [\d.]+ tokens/s · 9 tokens in, 4 out · ended by stop"))
        given = tensors(server.requests[0])
        assert given["max_tokens"] == [[7]]
        assert given["temperature"] == [[0.5]]
        assert given["seed"] == [[3]]
        assert given["priority"] == [[b"low"]]

        await page.fill("#text", "And then?")
        await page.click("#send")
        await expect(bubble.nth(1)).to_have_text("".join(PIECES))
        assert [message["role"] for message in said(server)[1]] == [
            "system", "user", "assistant", "user"]

        await page.click("#reset")
        await expect(page.locator(".message")).to_have_count(0)


async def test_stop_cancels_at_the_server_and_the_text_stays(gateway, page):
    async with gateway(speak_without_end) as (url, server):
        await page.goto(url)
        await expect(page.locator("#model")).to_have_value("generate")
        await page.fill("#text", "Speak.")
        await page.press("#text", "Enter")
        await expect(page.locator(".message.assistant")).to_have_text("On and on")
        await page.click("#stop")
        await expect(page.locator("#send")).to_be_visible()
        await until(lambda: server.cancelled, "not cancelled")
        await expect(page.locator(".message.assistant")).to_have_text("On and on")


async def test_a_refusal_is_shown(gateway, page):
    async with gateway(speak) as (url, server):
        await page.goto(url)
        await expect(page.locator("#model")).to_have_value("generate")
        await page.fill("#temperature", "1000")
        await page.evaluate("document.getElementById('form').noValidate = true")
        await page.fill("#text", "Hi")
        await page.press("#text", "Enter")
        await expect(page.locator(".message.error")).to_have_text(
            re.compile("temperature: 1000 is not allowed"))
        assert server.requests == []


async def test_a_key_is_asked_for_and_taken(gateway, page, tmp_path):
    keys_file = tmp_path / "keys.json"
    keys_file.write_text(json.dumps({"keys": [{"name": "a", "sha256": hashed("K")}]}))
    async with gateway(speak, keys_file=keys_file) as (url, _):
        await page.goto(url)
        await expect(page.locator(".message.error")).to_have_text(re.compile("API key is needed"))
        await page.fill("#key", "K")
        await page.press("#key", "Tab")
        await expect(page.locator("#model")).to_have_value("generate")
