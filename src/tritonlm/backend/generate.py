"""The model `generate`: a front end of the engine."""

from __future__ import annotations

import gc
import sys
from collections.abc import Mapping, Sequence
from typing import Any

import triton_python_backend_utils as pb_utils
from numpy.typing import NDArray

from tritonlm.backend.admission import Admission
from tritonlm.backend.arrivals import Cancellation, Refusal
from tritonlm.backend.epilogue import Epilogue
from tritonlm.backend.generation import Answer, Generation
from tritonlm.backend.keeper import EngineKeeper
from tritonlm.backend.metrics import FrontEndMetrics
from tritonlm.backend.prompt_batch import PromptAnswer, PromptBatch, naming_prompt, prompt_rows
from tritonlm.backend.server_watch import ServerWatch
from tritonlm.backend.session import Session
from tritonlm.backend.tensors import request_id, request_parameters, request_tensors
from tritonlm.config import ModelConfig
from tritonlm.contract import MODELS, parse_options, parse_prompt, parse_traceparent
from tritonlm.engine.endpoint import Endpoint
from tritonlm.errors import InvalidArgument, ServingError
from tritonlm.logs import configure
from tritonlm.options import Options
from tritonlm.text.encoding import Encoder
from tritonlm.tracing import from_environment

SWITCH_INTERVAL_S = 0.0005
"""A tenth of Python's: a request that comes in waits so long for the thread that sends."""


class Generate:
    """Checks and tokenises requests, and leaves them to the sending thread."""

    model = MODELS["generate"]
    is_cached = False
    """Whether the server keeps answers for requests to come."""

    def initialize(self, args: Mapping[str, str]) -> None:
        """Return when the engines are ready."""
        sys.setswitchinterval(SWITCH_INTERVAL_S)
        config = ModelConfig.from_triton(args)
        configure(args["model_instance_name"], config.log_format)
        engines_of = config.engines_of or args["model_name"]
        endpoint = Endpoint.of(config.run_dir, engines_of, args["model_version"])
        self._keepers = [EngineKeeper(config, endpoint, index)
                         for index in range(config.num_engines)]
        metrics = FrontEndMetrics(args["model_name"], args["model_instance_name"], engines_of)
        epilogue = Epilogue(args["model_name"], metrics, from_environment("tritonlm"),
                            config.request_log)
        self._session = Session(config, endpoint, self._keepers, metrics, epilogue)
        self._watch = (ServerWatch(config.server_url, args["model_name"], args["model_version"],
                                   self._session.drain) if config.server_url else None)
        for keeper in self._keepers:
            keeper.start()
        try:
            self._admission = Admission(config, Encoder(config))
            self._session.start()
        except ServingError as error:
            self._stop_engines()
            raise pb_utils.TritonModelException(error.message) from error

    def execute(self, requests: Sequence[pb_utils.InferenceRequest]) -> None:
        """Take requests in; they are answered later, by the sending thread."""
        if self._watch:
            self._watch.ensure_started()
        for request in requests:
            for item in self._items(request):
                self._session.put(item)

    def finalize(self) -> None:
        """End the thread, and the engines that are this front end's."""
        if self._watch:
            self._watch.stop()
        self._session.stop()
        self._stop_engines()
        gc.collect()  # response senders must be gone before the stub ends

    def check(self, options: Options) -> None:
        """Raise `InvalidArgument` for what only this model does not have."""

    def _stop_engines(self) -> None:
        for keeper in self._keepers:
            keeper.ask_to_stop()
        for keeper in self._keepers:
            keeper.stop()

    def _items(
        self, request: pb_utils.InferenceRequest
    ) -> Sequence[Generation | Cancellation | Refusal]:
        """What the sending thread gets of a request: all its prompts, or why not."""
        answer = Answer(request, self.model, self.is_cached)
        try:
            rows = prompt_rows(request_tensors(request))
            if len(rows) == 1:
                return [self._admit(request, answer, rows[0])]
            batch = PromptBatch(len(rows))
            return [self._admit_row(request, batch, index, tensors)
                    for index, tensors in enumerate(rows)]
        except Exception as error:
            return [Refusal(answer, error)]

    def _admit_row(
        self, request: pb_utils.InferenceRequest, batch: PromptBatch, index: int,
        tensors: dict[str, NDArray[Any]],
    ) -> Generation:
        answer = PromptAnswer(request, self.model, self.is_cached, batch, index)
        try:
            item = self._admit(request, answer, tensors)
            if isinstance(item, Cancellation):
                raise InvalidArgument("cancel", True, "a request of one row does that")
        except ServingError as error:
            raise naming_prompt(index, error) from None
        return item

    def _admit(
        self, request: pb_utils.InferenceRequest, answer: Answer,
        tensors: dict[str, NDArray[Any]],
    ) -> Generation | Cancellation:
        parameters = request_parameters(request)
        answer.traceparent = parse_traceparent(parameters)
        options = parse_options(tensors, parameters, request_id(request))
        answer.request_id = options.request_id
        self.check(options)
        if options.cancel:
            return Cancellation(answer, options.request_id)
        return self._admission.admit(answer, parse_prompt(tensors), options, self._session.limits)
