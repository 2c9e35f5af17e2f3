"""A front end's sending thread whose only engine is the test."""

from __future__ import annotations

import time
from collections import deque
from types import SimpleNamespace

import numpy as np
import triton_python_backend_utils as pb_utils
from engine_peer import TIMEOUT_S, Peer
from tests.small_tokenizers import build_tokenizer

from tritonlm.backend.admission import Admission
from tritonlm.backend.arrivals import Cancellation
from tritonlm.backend.generation import Answer
from tritonlm.backend.session import Session
from tritonlm.config import ModelConfig
from tritonlm.contract import FINISH_REASONS, MODELS, Prompt
from tritonlm.engine import messages
from tritonlm.engine.endpoint import Endpoint
from tritonlm.engine.messages import Ready
from tritonlm.options import Options
from tritonlm.text.encoding import Encoder

TOKENIZER = build_tokenizer("byte_level")
LIMITS = Ready(max_model_len=100, vocab_size=TOKENIZER.get_vocab_size())
OUTPUTS = [tensor.name for tensor in MODELS["generate"].outputs]
LENGTH = FINISH_REASONS.index("length")


class Ledger:
    """Stands for metrics and epilogue: how requests ended."""

    def __init__(self):
        self.endings = []
        self.num_unfinished = 0

    def show_unfinished(self, num_unfinished):
        self.num_unfinished = num_unfinished

    def tell(self, answer, outcome, reason, generation=None, error=""):
        self.endings.append((outcome, reason))

    def __getattr__(self, _):
        return lambda *_, **__: None


class FrontEnd:
    """A session whose only engine is the test."""

    def __init__(self, folder, **settings):
        config = ModelConfig(model=str(folder), **settings)
        self.endpoint = Endpoint(folder)
        self.ledger = Ledger()
        keeper = SimpleNamespace(num_starts=1, note_ready=lambda: None, note_goodbye=lambda: None)
        self.session = Session(config, self.endpoint, [keeper], self.ledger, self.ledger)
        self._admission = Admission(config, Encoder(config))
        self.engine = self.next_engine(is_ready=False)
        self.session._thread.start()

    def next_engine(self, is_ready=True):
        self._said = deque()
        self.engine = Peer(self.endpoint.engine(0).address)
        if is_ready:
            assert self.engine.heard() == [messages.Hello()]
            self.engine.say(LIMITS)
        return self.engine

    def ask(self, **options):
        """Hand over a request; gives what its client gets."""
        request = pb_utils.InferenceRequest({}, outputs=OUTPUTS)
        answer = Answer(request, MODELS["generate"])
        self.session.put(self._admission.admit(answer, Prompt(text="The cat"),
                                               Options(**options), LIMITS))
        return request.sender

    def cancel(self, request_id):
        request = pb_utils.InferenceRequest({}, outputs=OUTPUTS)
        self.session.put(Cancellation(Answer(request, MODELS["generate"]), request_id))
        return request.sender

    def heard(self, kind):
        """The next message of that kind that the engine gets; others are passed over."""
        while True:
            while self._said:
                said = self._said.popleft()
                if isinstance(said, kind):
                    return said
            self._said.extend(self.engine.heard())

    def say_tokens(self, *news):
        """News are (key, token id, reason code)."""
        keys, token_ids, reasons = zip(*news, strict=True)
        self.engine.say(messages.Tokens(np.array(keys, np.int64).tobytes(),
                                        np.array(token_ids, np.int32).tobytes(),
                                        np.array(reasons, np.uint8).tobytes()))

    def lose_engine(self):
        self.engine.close()

    def stop(self):
        if self.session._thread.is_alive():
            self.session.stop()
            self.lose_engine()


def wait(is_so):
    deadline_s = time.monotonic() + TIMEOUT_S
    while not is_so():
        assert time.monotonic() < deadline_s
        time.sleep(0.005)


def ending(sender):
    """Finish reason or error of the last response, once it is there."""
    wait(lambda: sender.is_final)
    last = sender.sent[-1]
    if last.has_error():
        return last.error().message()
    outputs = {tensor.name(): tensor.as_numpy() for tensor in last.output_tensors()}
    return outputs["finish_reason"].ravel()[-1].decode()
