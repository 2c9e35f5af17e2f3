"""Losses on the speeches that training never sees."""

from __future__ import annotations

import random
from collections.abc import Sequence
from typing import Any, NamedTuple

import torch

from corpus import Speech, cut_dialogues, join_speeches
from tokenizer import BEGIN_OF_TEXT, encode, render


class Validation(NamedTuple):
    """Held-out losses in nats; `text` is the play as it stands, `chat` is dialogues of it."""

    text_per_token: float
    text_per_byte: float
    chat_per_token: float

    @property
    def loss(self) -> float:
        """What the best weights are chosen by."""
        return (self.text_per_token + self.chat_per_token) / 2


class HeldOut:
    """The held-out speeches, ready to validate a model on."""

    def __init__(
        self, speeches: Sequence[Speech], tokenizer: Any, context_tokens: int, device: torch.device
    ) -> None:
        text = join_speeches(speeches)
        dialogues = cut_dialogues(speeches, random.Random(0))
        self._num_bytes = len(text.encode())
        self._text = encode(tokenizer, [BEGIN_OF_TEXT + text]).to(device)
        self._chat = encode(tokenizer, render(tokenizer, dialogues)).to(device)
        self._context_tokens = context_tokens

    def validate(self, model: Any) -> Validation:
        """The losses of `model`, which is left in evaluation mode."""
        model.eval()
        text_nats = self._sum_nats(model, self._text)
        chat_nats = self._sum_nats(model, self._chat)
        return Validation(text_nats / (len(self._text) - 1), text_nats / self._num_bytes,
                          chat_nats / (len(self._chat) - 1))

    @torch.inference_mode()
    def _sum_nats(self, model: Any, stream: torch.Tensor) -> float:
        """The loss of every id of `stream`, shape [n], but the first, summed.

        Windows share one id, so that each is predicted once; no window sees those before it.
        """
        total = 0.0
        for start in range(0, len(stream) - 1, self._context_tokens - 1):
            window = stream[None, start:start + self._context_tokens]
            with autocast(stream.device):
                loss = model(input_ids=window, labels=window, use_cache=False).loss
            total += loss.item() * (window.shape[1] - 1)
        return total


def autocast(device: torch.device) -> torch.autocast:
    """bfloat16 on a GPU, full precision on a CPU, where bfloat16 can be slower."""
    return torch.autocast(device.type, torch.bfloat16, enabled=device.type == "cuda")
