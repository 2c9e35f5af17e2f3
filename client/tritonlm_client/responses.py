"""Responses as they come over the wire: chunks of an answer, errors, and what models there are."""

from __future__ import annotations

from typing import Any

import numpy as np
from tritonclient.grpc.model_config_pb2 import DataType, ModelConfig
from tritonclient.grpc.service_pb2 import (
    ModelInferResponse,
    ModelStreamInferResponse,
    RepositoryIndexResponse,
)

from tritonlm.contract import Tensor
from tritonlm.errors import EngineFailure, Unavailable
from tritonlm_client.errors import from_message
from tritonlm_client.results import Chunk, ModelInfo


class Answer:
    """Reads the responses to one request."""

    def __init__(self) -> None:
        self.is_finished = False

    def read(self, response: ModelStreamInferResponse) -> Chunk | None:
        """The chunk in `response`, if it has one; raises the `ServingError` that it carries."""
        if response.error_message:
            self.is_finished = True
            raise from_message(response.error_message)
        result = response.infer_response
        self.is_finished = result.parameters["triton_final_response"].bool_param
        return _chunk(result) if result.outputs else None

    def end(self) -> None:
        """Nothing more will come; raises `Unavailable` if something should have."""
        if not self.is_finished:
            raise Unavailable("the stream ended before the answer did")


def _chunk(result: ModelInferResponse) -> Chunk:
    raw = {output.name: content for output, content
           in zip(result.outputs, result.raw_output_contents, strict=True)}
    try:
        return Chunk(
            text=_text(raw["text_output"]),
            token_ids=tuple(_ints(raw["output_ids"])),
            index=_ints(raw["chunk_index"])[0],
            finish_reason=_text(raw["finish_reason"]),
            num_input_tokens=next(iter(_ints(raw["num_input_tokens"])), None),
            num_output_tokens=next(iter(_ints(raw["num_output_tokens"])), None),
        )
    except KeyError as error:
        raise EngineFailure(f"the response has no output {error}") from None


def _text(raw: bytes) -> str:
    """The only text of a tensor, or "" of one without: each has its length in 4 bytes in front."""
    return raw[4:].decode()


def _ints(raw: bytes) -> list[int]:
    values: list[int] = np.frombuffer(raw, "<i4").tolist()
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
