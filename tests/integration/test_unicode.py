"""Characters that are spread over several tokens, and stop texts, through both routes."""

from __future__ import annotations

import asyncio

import aiohttp
import pytest
import tritonclient.grpc.aio as grpcclient
from inference import http_stream, stream
from tests.checkpoints import save_parrot_model

TEXT = ("Say: naïve café — 你好，世界! 👩\u200d👩\u200d👧 🚀 STOP ελληνικά  two  spaces"
        "\n\ttab 日本語 🎉. The end")
PROMPT = "Say:"
REST = TEXT.removeprefix(PROMPT)
MODELS = pytest.mark.parametrize("model", ["generate", "text_generation"])


@pytest.fixture(scope="module")
def server(start_server, tmp_path_factory):
    return start_server(model=str(save_parrot_model(tmp_path_factory.mktemp("parrot"), TEXT)))


@pytest.fixture
async def client(server):
    async with grpcclient.InferenceServerClient(server.grpc_url) as client:
        yield client


def request(**options):
    return {"text_input": PROMPT, "temperature": 0.0, "stream": True, **options}


@MODELS
async def test_chunks_are_whole_characters_and_add_up_to_the_text(client, model):
    got = await stream(client, model, request())
    assert got.text == REST
    assert got.finish_reason == "stop"
    assert not any("\ufffd" in text for text in got.texts)
    assert len(got.texts) > 20


@MODELS
async def test_many_streams_at_once_keep_their_order(client, model):
    everything = await asyncio.gather(*(stream(client, model, request()) for _ in range(24)))
    for got in everything:
        assert got.text == REST
        assert got.indices == list(range(len(got.indices)))


@MODELS
async def test_http_streams_have_the_same_text(server, model):
    async with aiohttp.ClientSession() as session:
        got = await http_stream(session, server.http_url, model, request())
    assert got.text == REST


@MODELS
@pytest.mark.parametrize("stop", ["STOP", "世界", "👩\u200d👩\u200d👧", "  two  sp", " caf"])
@pytest.mark.parametrize("is_stream", [True, False])
async def test_a_stop_text_cuts_exactly(client, model, stop, is_stream):
    cut = REST.index(stop)
    got = await stream(client, model, request(stop=stop, stream=is_stream))
    assert (got.text, got.finish_reason) == (REST[:cut], "stop")
    kept = await stream(client, model, request(stop=stop, include_stop_str_in_output=True,
                                               stream=is_stream))
    assert kept.text == REST[: cut + len(stop)]
    assert got.num_output_tokens == kept.num_output_tokens == len(kept.text.encode())


@MODELS
async def test_the_earliest_of_several_stop_texts_counts(client, model):
    got = await stream(client, model, request(stop=["ελλ", "STOP ε", "never"]))
    assert got.text == REST[: REST.index("STOP")]


@MODELS
async def test_a_cut_character_at_the_end_is_shown_as_replaced(client, model):
    num_tokens = len(REST[: REST.index("你")].encode()) + 2
    for is_stream in (True, False):
        got = await stream(client, model, request(max_tokens=num_tokens, stream=is_stream))
        assert got.text == REST[: REST.index("你")] + "\ufffd"
        assert got.finish_reason == "length"


@MODELS
async def test_the_end_of_sequence_can_be_ignored(client, model):
    got = await stream(client, model, request(ignore_eos=True, max_tokens=200))
    assert (got.num_output_tokens, got.finish_reason) == (200, "length")
    assert got.text.startswith(REST)


async def test_a_stop_token_ends_without_its_text(client):
    got = await stream(client, "generate", request())
    comma = got.token_ids[got.text.encode().index(b"!")]
    cut = await stream(client, "generate", request(stop_token_ids=[comma]))
    assert cut.text == REST[: REST.index("!")]
    assert cut.token_ids[-1] == comma
