"""Train the demo checkpoint: a Llama of 3.5 million parameters that continues and talks plays."""

from __future__ import annotations

import argparse
import hashlib
import json
import random
import shlex
import time
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, NamedTuple

import torch
import transformers
from tqdm import tqdm  # type: ignore[import-untyped]

from corpus import (
    Speech,
    cut_dialogues,
    cut_documents,
    join_speeches,
    parse_speeches,
    split_speeches,
)
from model import add_dropout, build_model
from record import describe_machine, inspect_checkpoint
from tokenizer import BEGIN_OF_TEXT, END_OF_TEXT, encode, render, train_tokenizer
from validation import HeldOut, Validation, autocast

VOCAB_SIZE = 2048
CONTEXT_TOKENS = 1024
HELD_OUT = 0.05
WEIGHT_DECAY = 0.1
MAX_GRAD_NORM = 1.0
STEPS_PER_VALIDATION = 50
PATIENCE_STEPS = 500
"""Training stops after so many steps without a better validation loss."""


@dataclass(frozen=True)
class Settings:
    """Settings of a training run; `batch_size` is in windows of `CONTEXT_TOKENS` tokens."""

    steps: int = 1000
    batch_size: int = 16
    learning_rate: float = 1e-3
    dropout: float = 0.1
    seed: int = 0

    def __post_init__(self) -> None:
        if self.steps < 1 or self.batch_size < 1:
            raise ValueError("--steps and --batch-size must be at least 1")
        if not self.learning_rate > 0:
            raise ValueError(f"--learning-rate {self.learning_rate}: it must be more than 0")
        if not 0 <= self.dropout < 1:
            raise ValueError(f"--dropout {self.dropout}: it must be at least 0 and less than 1")


class Progress(NamedTuple):
    """Losses after `step`; `train_per_token` is the mean since the validation before."""

    step: int
    train_per_token: float
    validation: Validation

    def losses(self) -> dict[str, float]:
        """All of it, flat."""
        return {"step": self.step, "train_per_token": self.train_per_token,
                **self.validation._asdict()}


def main() -> None:
    """Train as the command line says, save the checkpoint, and record how good it is as saved."""
    text_path, out, settings = _parse_arguments()
    started_s = time.monotonic()
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    torch.manual_seed(settings.seed)
    text = text_path.read_text(encoding="utf-8")
    training, validation = split_speeches(parse_speeches(text), HELD_OUT)
    tokenizer = train_tokenizer(join_speeches(training), VOCAB_SIZE, CONTEXT_TOKENS)
    held_out = HeldOut(validation, tokenizer, CONTEXT_TOKENS, device)
    model = build_model(tokenizer, CONTEXT_TOKENS).to(device)
    add_dropout(model, settings.dropout)
    batches = training_batches(training, tokenizer, settings, device)
    history = fit(model, batches, held_out, settings)
    tokenizer.save_pretrained(out)
    model.to(torch.bfloat16).save_pretrained(out)
    record = {
        "command": _command(settings),
        "settings": asdict(settings),
        "text_sha256": hashlib.sha256(text.encode()).hexdigest(),
        "machine": describe_machine(device),
        "seconds": round(time.monotonic() - started_s, 1),
        "best_step": best_progress(history).step,
        "train_per_token": best_progress(history).train_per_token,
        **inspect_checkpoint(out, held_out, device, settings.seed),
        "history": [progress.losses() for progress in history],
    }
    (out / "training.json").write_text(
        json.dumps(record, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")


def training_batches(
    speeches: Sequence[Speech], tokenizer: Any, settings: Settings, device: torch.device
) -> Iterator[torch.Tensor]:
    """Windows of ids, shape [batch_size, CONTEXT_TOKENS], without end.

    Every epoch has every speech twice, in a document and in a dialogue, each time cut anew.
    """
    rng = random.Random(settings.seed)
    shape = (-1, settings.batch_size, CONTEXT_TOKENS)
    tokens_per_batch = settings.batch_size * CONTEXT_TOKENS
    while True:
        texts = [BEGIN_OF_TEXT + text + END_OF_TEXT for text in cut_documents(speeches, rng)]
        texts += render(tokenizer, cut_dialogues(speeches, rng))
        rng.shuffle(texts)
        stream = encode(tokenizer, texts)
        num_batches = len(stream) // tokens_per_batch
        if num_batches == 0:
            raise SystemExit(f"--batch-size {settings.batch_size}: a batch of {tokens_per_batch} "
                             f"tokens is more than the text's {len(stream)}")
        yield from stream[:num_batches * tokens_per_batch].view(shape).to(device)


def fit(
    model: Any, batches: Iterator[torch.Tensor], held_out: HeldOut, settings: Settings
) -> list[Progress]:
    """Train `model` and leave it with the weights of the best validation loss."""
    optimizer, schedule = _build_optimizer(model, settings)
    history: list[Progress] = []
    losses: list[torch.Tensor] = []
    best_weights: dict[str, torch.Tensor] = {}
    bar = tqdm(range(1, settings.steps + 1), desc="training")
    for step in bar:
        losses.append(_train_step(model, next(batches), optimizer, schedule))
        if step % STEPS_PER_VALIDATION and step != settings.steps:
            continue
        train_per_token = torch.stack(losses).mean().item()
        losses.clear()
        history.append(Progress(step, train_per_token, held_out.validate(model)))
        bar.set_postfix(loss=train_per_token, validation=history[-1].validation.loss)
        best = best_progress(history)
        if best.step == step:
            best_weights = {name: w.clone() for name, w in model.state_dict().items()}
        elif step >= best.step + PATIENCE_STEPS:
            break
    model.load_state_dict(best_weights)
    return history


def best_progress(history: Sequence[Progress]) -> Progress:
    """The first with the lowest validation loss; its weights are the checkpoint's."""
    return min(history, key=lambda progress: progress.validation.loss)


def _build_optimizer(model: Any, settings: Settings) -> tuple[torch.optim.Optimizer, Any]:
    """AdamW with weight decay on the matrices, and its schedule: warm-up, then cosine to zero."""
    parameters = list(model.parameters())
    optimizer = torch.optim.AdamW(
        [{"params": [p for p in parameters if p.ndim > 1], "weight_decay": WEIGHT_DECAY},
         {"params": [p for p in parameters if p.ndim == 1], "weight_decay": 0.0}],
        lr=settings.learning_rate, betas=(0.9, 0.99), fused=True)
    num_warmup_steps = min(100, settings.steps // 10)
    return optimizer, transformers.get_cosine_schedule_with_warmup(
        optimizer, num_warmup_steps, settings.steps)


def _train_step(
    model: Any, batch: torch.Tensor, optimizer: torch.optim.Optimizer, schedule: Any
) -> torch.Tensor:
    model.train()
    with autocast(batch.device):
        loss: torch.Tensor = model(input_ids=batch, labels=batch, use_cache=False).loss
    loss.backward()  # type: ignore[no-untyped-call]
    torch.nn.utils.clip_grad_norm_(model.parameters(), MAX_GRAD_NORM)
    optimizer.step()
    schedule.step()
    optimizer.zero_grad()
    return loss.detach()


def _command(settings: Settings) -> str:
    """The command that repeats the run, every setting spelt out."""
    options = [f"--{name.replace('_', '-')}={value}" for name, value in asdict(settings).items()]
    return shlex.join(["python", "demo/train.py", *options])


def _parse_arguments() -> tuple[Path, Path, Settings]:
    """The text, the folder of the checkpoint, and the settings."""
    here = Path(__file__).parent
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.ArgumentDefaultsHelpFormatter)
    add = parser.add_argument
    add("--text", type=Path, default=here / "tinyshakespeare.txt", help="the play")
    add("--out", type=Path, default=here / "checkpoint", help="the folder to write")
    add("--steps", type=int, default=Settings.steps, help="optimiser steps, at most")
    add("--batch-size", type=int, default=Settings.batch_size,
        help=f"windows of {CONTEXT_TOKENS} tokens in a step")
    add("--learning-rate", type=float, default=Settings.learning_rate, help="after warm-up")
    add("--dropout", type=float, default=Settings.dropout, help="0 to less than 1")
    add("--seed", type=int, default=Settings.seed, help="of weights, dropout, cuts and samples")
    arguments = vars(parser.parse_args())
    text, out = arguments.pop("text"), arguments.pop("out")
    try:
        return text, out, Settings(**arguments)
    except ValueError as error:
        parser.error(str(error))


if __name__ == "__main__":
    main()
