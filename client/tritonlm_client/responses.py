"""Responses as they come: chunks of an answer, errors, and what models there are."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from itertools import accumulate
from typing import Any, TypeAlias, TypeVar

import numpy as np
from numpy.typing import NDArray
from tritonclient.grpc.model_config_pb2 import DataType, ModelConfig
from tritonclient.grpc.service_pb2 import (
    ModelInferResponse,
    ModelStreamInferResponse,
    RepositoryIndexResponse,
)
from tritonclient.utils import deserialize_bytes_tensor

from tritonlm.contract import NUMPY_DTYPES, Tensor
from tritonlm.errors import EngineFailure, Unavailable
from tritonlm_client.errors import from_message
from tritonlm_client.results import Chunk, Logprobs, ModelInfo, TokenLogprob

T = TypeVar("T")
D = TypeVar("D")
Outputs: TypeAlias = Mapping[str, list[Any]]
"""What a response says, by the names of the outputs: texts and numbers."""
NUMBERS = {"INT32": "<i4", "FP32": "<f4"}
NO_VALUES: Outputs = {"output_ids": [], "num_input_tokens": [], "num_output_tokens": [],
                      "logprobs": [], "perf_metrics": []}
"""What may be empty; where a server keeps its answers, it is left out then."""


class Answer:
    """Reads the responses to one request."""

    def __init__(self) -> None:
        self.is_finished = False

    def read(self, response: ModelStreamInferResponse) -> list[Chunk]:
        """The chunks in `response`, each of its own sequence; raises the error that it carries."""
        if response.error_message:
            self.is_finished = True
            raise from_message(response.error_message)
        result = response.infer_response
        self.is_finished = result.parameters["triton_final_response"].bool_param
        return chunks_of(outputs_of(result)) if result.outputs else []

    def end(self) -> None:
        """Nothing more will come; raises `Unavailable` if something should have."""
        if not self.is_finished:
            raise Unavailable("the stream ended before the answer did")


def outputs_of(result: ModelInferResponse) -> Outputs:
    """What a response of gRPC says."""
    return {output.name: _values(output.datatype, raw) for output, raw
            in zip(result.outputs, result.raw_output_contents, strict=True)}


def tensors_of(result: ModelInferResponse) -> dict[str, NDArray[Any]]:
    """The outputs of a response, with their shapes; texts are `str`."""
    values = outputs_of(result)
    return {output.name: tensor_of(output.datatype, output.shape, values[output.name])
            for output in result.outputs}


def tensor_of(dtype: str, shape: Sequence[int], values: list[Any]) -> NDArray[Any]:
    """An output; texts are `str`."""
    return np.array(values, NUMPY_DTYPES[dtype]).reshape(shape)


def chunks_of(outputs: Outputs) -> list[Chunk]:
    """The chunks in a response, each of its own sequence."""
    outputs = {**NO_VALUES, **outputs}
    try:
        indices, ids = outputs["sequence_index"], outputs["output_ids"]
        num_tokens = outputs["num_output_tokens"]
        # Only whole sequences share a response: then the counts are those of their ids.
        ends = list(accumulate(num_tokens)) if len(indices) > 1 else [len(ids)]
        return [Chunk(
            text=_at(outputs["text_output"], place, ""),
            token_ids=tuple(ids[ends[place - 1] if place else 0 : ends[place]]),
            index=outputs["chunk_index"][0],
            finish_reason=_at(outputs["finish_reason"], place, ""),
            num_input_tokens=_at(outputs["num_input_tokens"], 0, None),
            num_output_tokens=_at(num_tokens, place, None),
            sequence_index=index,
            logprobs=read_logprobs(_at(outputs["logprobs"], place, "")),
            perf_metrics=json.loads(_at(outputs["perf_metrics"], 0, "null")),
        ) for place, index in enumerate(indices)]
    except KeyError as error:
        raise EngineFailure(f"the response has no output {error}") from None


def read_logprobs(text: str) -> Logprobs | None:
    """What the JSON of an output `logprobs` says; None of an empty one."""
    if not text:
        return None
    told = json.loads(text)
    prompt = told.get("prompt")
    return Logprobs(
        content=tuple(map(_token_logprob, told["content"])),
        prompt=None if prompt is None else tuple(
            None if entry is None else _token_logprob(entry) for entry in prompt))


def _token_logprob(entry: dict[str, Any]) -> TokenLogprob:
    return TokenLogprob(entry["token"], entry["id"], entry["logprob"], bytes(entry["bytes"]),
                        tuple(map(_token_logprob, entry.get("top_logprobs", ()))))


def _at(values: list[T], place: int, default: D) -> T | D:
    """An output that was not asked for has no values."""
    return values[place] if place < len(values) else default


def _values(dtype: str, raw: bytes) -> list[Any]:
    if dtype == "BYTES":
        return [text.decode() for text in deserialize_bytes_tensor(raw)]
    values: list[Any] = np.frombuffer(raw, NUMBERS[dtype]).tolist()
    return values


def model_info(index: RepositoryIndexResponse.ModelIndex, config: ModelConfig | None) -> ModelInfo:
    """A model of the repository index, with what its `config` says if it is loaded."""
    info = ModelInfo(index.name, index.version, index.state, index.reason)
    if config is None:
        return info
    return ModelInfo(
        info.name, info.version, info.state, info.reason,
        is_decoupled=config.model_transaction_policy.decoupled,
        inputs=tuple(_tensor(tensor, tensor.optional) for tensor in config.input),
        outputs=tuple(_tensor(tensor, False) for tensor in config.output),
    )


def _tensor(tensor: Any, is_optional: bool) -> Tensor:
    dtype = DataType.Name(tensor.data_type).removeprefix("TYPE_").replace("STRING", "BYTES")
    return Tensor(tensor.name, dtype, tuple(tensor.dims), is_optional)
