"""Families of models cut into two parts, which compute together what the whole one computes."""

from __future__ import annotations

import multiprocessing
from pathlib import Path

import pytest
import torch
from test_models import SERVED, checkpoint
from torch.distributed import TCPStore
from transformers import AutoModelForCausalLM

from tritonlm.engine.tensor_parallel.group import Group, join
from tritonlm.engine.tensor_parallel.sharding import CannotShard, shard

WHOLE_ONLY = {"GPT2", "OPT", "GPTBigCode", "StableLm"}
SPLIT = sorted(SERVED.keys() - WHOLE_ONLY)
NUM_PARTS = 2
LIMIT_S = 120
TOKENS = torch.tensor([list(range(3, 20))])


def compute_parts(rank, port, folders):
    """Write logits and the number of parameters beside each checkpoint."""
    torch.set_num_threads(1)
    join(TCPStore("127.0.0.1", port, is_master=False), rank, NUM_PARTS, torch.device("cpu"),
         LIMIT_S)
    for folder in folders:
        module = AutoModelForCausalLM.from_pretrained(folder).eval()
        shard(module, Group.of_process())
        with torch.inference_mode():
            logits = module(TOKENS, use_cache=False).logits
        torch.save((logits, module.num_parameters()), folder / f"part {rank}.pt")


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    folders = {name: checkpoint(tmp_path_factory.mktemp("checkpoint"), name, SERVED[name])
               for name in SPLIT}
    store = TCPStore("127.0.0.1", 0, is_master=True, wait_for_workers=False)
    spawn = multiprocessing.get_context("spawn")
    processes = [spawn.Process(target=compute_parts, daemon=True,
                               args=(rank, store.port, tuple(folders.values())))
                 for rank in range(NUM_PARTS)]
    for process in processes:
        process.start()
    for process in processes:
        process.join(LIMIT_S)
        if process.exitcode is None:
            process.kill()
    return folders


@pytest.mark.parametrize("family", SPLIT)
def test_two_parts_compute_what_the_whole_computes(family, folders):
    module = AutoModelForCausalLM.from_pretrained(folders[family]).eval()
    with torch.inference_mode():
        whole = module(TOKENS, use_cache=False).logits
    for rank in range(NUM_PARTS):
        logits, num_parameters = torch.load(folders[family] / f"part {rank}.pt")
        torch.testing.assert_close(logits, whole, atol=1e-3, rtol=1e-3)
        assert num_parameters < 0.8 * module.num_parameters()


@pytest.mark.parametrize("page", ["models.md", "parallelism.md"])
def test_the_documents_name_the_families_that_stay_whole(page):
    *first, last = sorted(WHOLE_ONLY)
    text = (Path(__file__).parents[3] / "docs" / page).read_text()
    assert f"{', '.join(first)} and {last}" in " ".join(text.split())


@pytest.mark.parametrize("family", sorted(WHOLE_ONLY))
def test_a_family_without_a_plan_is_refused(family, tmp_path):
    module = AutoModelForCausalLM.from_pretrained(checkpoint(tmp_path, family, SERVED[family]))
    with pytest.raises(CannotShard, match="no plan"):
        shard(module, Group(0, NUM_PARTS))


@pytest.mark.parametrize(("size", "message"), [
    (3, "its 4 heads cannot be split evenly"), (4, "its 2 KV heads cannot be split evenly")])
def test_heads_that_cannot_be_split_are_refused(size, message, tmp_path):
    module = AutoModelForCausalLM.from_pretrained(checkpoint(tmp_path, "Llama", {}))
    with pytest.raises(CannotShard, match=message):
        shard(module, Group(0, size))
