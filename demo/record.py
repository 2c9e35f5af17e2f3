"""What `training.json` says beside a checkpoint: where it was made, and how good it is."""

from __future__ import annotations

import os
import platform
from pathlib import Path
from typing import Any

import torch
import transformers
from transformers import AutoModelForCausalLM, AutoTokenizer

from tokenizer import END_OF_TEXT, IM_END
from validation import HeldOut

TEXT_PROMPT = "ROMEO:\n"
CHAT_PROMPT = [{"role": "user", "content": "Good morrow, friend. What news from the king?"}]
SAMPLING = {"max_new_tokens": 160, "do_sample": True, "temperature": 0.8, "top_p": 0.95}


def describe_machine(device: torch.device) -> dict[str, str]:
    """Hardware and versions that the weights depend on."""
    is_gpu = device.type == "cuda"
    hardware = (torch.cuda.get_device_name(device) if is_gpu
                else f"{platform.machine()} CPU, {os.cpu_count()} cores")
    return {"hardware": hardware, "python": platform.python_version(), "torch": torch.__version__,
            "transformers": transformers.__version__}


def inspect_checkpoint(
    checkpoint: Path, held_out: HeldOut, device: torch.device, seed: int
) -> dict[str, Any]:
    """Size, held-out losses and samples of a checkpoint as saved, its weights rounded."""
    tokenizer = AutoTokenizer.from_pretrained(checkpoint)
    model = AutoModelForCausalLM.from_pretrained(checkpoint, dtype=torch.float32).to(device)
    torch.manual_seed(seed)
    text_ids = tokenizer(TEXT_PROMPT, return_tensors="pt")
    chat_ids = tokenizer.apply_chat_template(
        CHAT_PROMPT, add_generation_prompt=True, return_tensors="pt", return_dict=True)
    return {
        "num_parameters": model.num_parameters(),
        "validation": held_out.validate(model)._asdict(),
        "samples": {
            "sampling": SAMPLING,
            "text": _generate(model, tokenizer, text_ids),
            "chat": _generate(model, tokenizer, chat_ids),
        },
    }


def _generate(model: Any, tokenizer: Any, inputs: Any) -> dict[str, Any]:
    """The prompt, what follows it, and the end token that stopped it, if one did."""
    num_prompt_ids = inputs["input_ids"].shape[1]
    ids = model.generate(**inputs.to(model.device), **SAMPLING)[0]
    last = tokenizer.decode(ids[-1:])
    return {
        "prompt": tokenizer.decode(ids[:num_prompt_ids]),
        "output": tokenizer.decode(ids[num_prompt_ids:], skip_special_tokens=True),
        "ended_by": last if last in (END_OF_TEXT, IM_END) else None,
    }
