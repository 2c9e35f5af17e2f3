"""Requests to a live server through tritonclient and plain HTTP: independent of our own client."""

from __future__ import annotations

import json
import urllib.request
from collections.abc import AsyncIterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import aiohttp
import numpy as np
import tritonclient.grpc.aio as grpcclient
from tritonclient.utils import np_to_triton_dtype

DTYPES = {bool: np.bool_, int: np.int32, float: np.float32, str: np.object_, bytes: np.object_}
OUTPUTS = ("text_output", "output_ids", "finish_reason", "num_input_tokens", "num_output_tokens",
           "chunk_index")


@dataclass
class Stream:
    """All responses of one request."""

    texts: list[str] = field(default_factory=list)
    ids: list[list[int]] = field(default_factory=list)
    indices: list[int] = field(default_factory=list)
    finish_reasons: list[str] = field(default_factory=list)
    num_input_tokens: int = 0
    num_output_tokens: int = 0
    error: str = ""

    @property
    def text(self) -> str:
        return "".join(self.texts)

    @property
    def token_ids(self) -> list[int]:
        return [token_id for chunk in self.ids for token_id in chunk]

    @property
    def finish_reason(self) -> str:
        assert not any(self.finish_reasons[:-1]), "a reason before the end"
        return self.finish_reasons[-1]


def tensor(name: str, value: Any) -> grpcclient.InferInput:
    """An input of shape [1, n]."""
    if isinstance(value, np.ndarray):
        array = value
    else:
        values = value if isinstance(value, list) else [value]
        dtype = np.uint64 if name == "seed" else DTYPES[type(values[0])]
        texts = [v.encode() if isinstance(v, str) else v for v in values]
        array = np.array(texts, dtype).reshape(1, -1)
    given = grpcclient.InferInput(name, list(array.shape), np_to_triton_dtype(array.dtype))
    given.set_data_from_numpy(array)
    return given


async def responses(
    client: grpcclient.InferenceServerClient, model: str, inputs: Mapping[str, Any],
    parameters: Mapping[str, Any] | None = None, outputs: Sequence[str] = OUTPUTS,
    request_id: str = "",
) -> AsyncIterator[tuple[Any, Any]]:
    """(result, error) of each response of one `stream_infer` call."""
    async def one_request() -> AsyncIterator[dict[str, Any]]:
        yield {"model_name": model, "inputs": [tensor(*item) for item in inputs.items()],
               "outputs": [grpcclient.InferRequestedOutput(name) for name in outputs],
               "parameters": dict(parameters or {}), "request_id": request_id}

    async for response in client.stream_infer(one_request()):
        yield response


async def stream(
    client: grpcclient.InferenceServerClient, model: str, inputs: Mapping[str, Any],
    **options: Any,
) -> Stream:
    """Run one request to its end."""
    got = Stream()
    async for result, error in responses(client, model, inputs, **options):
        if error is not None:
            got.error = str(error)
            continue
        collect(got, lambda name, result=result: result.as_numpy(name).reshape(-1).tolist())
    return got


def collect(got: Stream, read: Any) -> None:
    """Add one response, whose outputs `read(name)` gives as lists."""
    got.texts += [t.decode() if isinstance(t, bytes) else t for t in read("text_output")]
    got.ids.append(read("output_ids"))
    got.indices += read("chunk_index")
    got.finish_reasons += [r.decode() if isinstance(r, bytes) else r for r in read("finish_reason")]
    got.num_input_tokens = (read("num_input_tokens") or [0])[0]
    got.num_output_tokens = (read("num_output_tokens") or [0])[0]


async def http_stream(
    session: aiohttp.ClientSession, url: str, model: str, body: Mapping[str, Any]
) -> Stream:
    """The same over `generate_stream`."""
    got = Stream()
    async with session.post(f"{url}/v2/models/{model}/generate_stream", json=body) as answer:
        async for line in answer.content:
            if not line.startswith(b"data: "):
                continue
            event = json.loads(line.removeprefix(b"data: "))
            if "error" in event:
                got.error = event["error"]
                continue
            collect(got, lambda name, event=event: (
                event[name] if isinstance(event[name], list) else [event[name]]))
        if answer.status != 200 and not got.error:
            got.error = await answer.text()
    return got


def gauge(metrics_url: str, name: str) -> float:
    """The sum over a metric's samples at /metrics."""
    with urllib.request.urlopen(metrics_url, timeout=10) as answer:
        lines = answer.read().decode().splitlines()
    samples = [line for line in lines if line.startswith(name + "{")]
    assert samples, f"{name} is not among the metrics"
    return sum(float(line.rsplit(" ", 1)[1]) for line in samples)
