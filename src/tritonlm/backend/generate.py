"""The model `generate`: a front end of the engine."""

from __future__ import annotations

import gc
import math
import time
from collections.abc import Mapping, Sequence

import triton_python_backend_utils as pb_utils

from tritonlm.backend.generation import Answer, Generation
from tritonlm.backend.keeper import EngineKeeper
from tritonlm.backend.metrics import FrontEndMetrics
from tritonlm.backend.session import Cancellation, Refusal, Session
from tritonlm.backend.tensors import request_parameters, request_tensors
from tritonlm.config import ModelConfig
from tritonlm.contract import parse_options, parse_prompt
from tritonlm.engine.endpoint import Endpoint
from tritonlm.engine.messages import Ready
from tritonlm.errors import InvalidArgument, ServingError
from tritonlm.options import Options
from tritonlm.text.encoding import Encoder


class Generate:
    """Checks and tokenises requests, and leaves them to the sending thread."""

    def initialize(self, args: Mapping[str, str]) -> None:
        """Return when the engine is ready."""
        self._config = ModelConfig.from_triton(args)
        endpoint = Endpoint.of(self._config.run_dir, args["model_name"], args["model_version"])
        self._keeper = EngineKeeper(self._config, endpoint)
        metrics = FrontEndMetrics(args["model_name"], args["model_instance_name"])
        self._session = Session(self._config, endpoint, self._keeper, metrics)
        self._keeper.start()
        try:
            self._encoder = Encoder(self._config)
            self._session.start()
        except ServingError as error:
            self._keeper.stop()
            raise pb_utils.TritonModelException(error.message) from error

    def execute(self, requests: Sequence[pb_utils.InferenceRequest]) -> None:
        """Take requests in; they are answered later, by the sending thread."""
        for request in requests:
            answer = Answer(request)
            try:
                self._session.put(self._admit(request, answer))
            except Exception as error:
                self._session.put(Refusal(answer, error))

    def finalize(self) -> None:
        """End the thread, and the engine if it is this front end's."""
        self._session.stop()
        self._keeper.stop()
        gc.collect()  # response senders must be gone before the stub ends

    def _admit(
        self, request: pb_utils.InferenceRequest, answer: Answer
    ) -> Generation | Cancellation:
        tensors = request_tensors(request)
        options = parse_options(tensors, request_parameters(request), request.request_id())
        if options.cancel:
            return Cancellation(answer, options.request_id)
        prompt_ids = self._encoder.encode(parse_prompt(tensors))
        if options.truncate_prompt_tokens is not None:
            prompt_ids = prompt_ids[-options.truncate_prompt_tokens :]
        limits = self._session.limits
        if prompt_ids.min() < 0 or prompt_ids.max() >= limits.vocab_size:
            wrong = next(i for i in prompt_ids.tolist() if not 0 <= i < limits.vocab_size)
            raise InvalidArgument("input_ids", wrong, f"allowed: 0 to {limits.vocab_size - 1}")
        timeout_s = math.inf if options.timeout_ms is None else options.timeout_ms / 1000
        text = self._encoder.open_stream(
            stop=options.stop, include_stop=options.include_stop_str_in_output,
            prompt_ids=() if options.exclude_input_in_output else prompt_ids,
            num_early_ids=options.min_tokens)
        return Generation(answer, prompt_ids, options, text,
                          self._max_tokens(options, prompt_ids.size, limits),
                          deadline_s=time.monotonic() + timeout_s,
                          banned=sum(map(self._encoder.spellings, options.bad_words), ()))

    def _max_tokens(self, options: Options, num_prompt: int, limits: Ready) -> int:
        """Output tokens that the request may have; raises `InvalidArgument` if it asks for more."""
        room = limits.max_model_len - num_prompt
        if room < 1:
            raise InvalidArgument("prompt", f"{num_prompt} tokens", f"allowed: 1 to "
                                  f"{limits.max_model_len - 1}, so that one more fits the model's "
                                  f"{limits.max_model_len}")
        if options.max_tokens is None:
            return min(self._config.default_max_tokens, room)
        if options.max_tokens > room:
            raise InvalidArgument("max_tokens", options.max_tokens, f"allowed: 1 to {room}, which "
                                  f"is what the prompt's {num_prompt} tokens leave of the model's "
                                  f"{limits.max_model_len}")
        return options.max_tokens
