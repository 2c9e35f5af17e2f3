"""Models in a folder: what is written, what is refused, and what they need."""

import errno
import json
import os
import re
import shlex
import shutil
import signal
from dataclasses import fields
from itertools import count
from pathlib import Path

import numpy as np
import pytest
import typer
from google.protobuf import text_format
from safetensors.numpy import save_file
from tritonclient.grpc import model_config_pb2
from typer.testing import CliRunner

from tritonlm.cli import app
from tritonlm.config import DEMO_CHECKPOINT, ModelConfig, parse_settings, triton_parameters
from tritonlm.encoders.config import EmbedConfig
from tritonlm.errors import InvalidArgument
from tritonlm.server import memory_need, model_checks
from tritonlm.server.model_store import PARTS, SETTINGS, ModelStore
from tritonlm.server.store_catalogue import StoreCatalogue

GIB = 2**30
OVERLAY = Path(__file__).parents[3] / "k8s" / "overlays" / "multi-model"


@pytest.fixture
def store(tmp_path):
    return ModelStore(tmp_path / "store")


def run(store, *arguments):
    """Exit code and all that was said, in one line."""
    result = CliRunner().invoke(app, ["repo", *arguments, "--repository", str(store.folder)])
    return result.exit_code, " ".join(result.output.split())


def add(store, name, *options):
    return run(store, "add", name, "--from", str(DEMO_CHECKPOINT), "--device", "cpu",
               "--kv-cache-gib", "0.1", *options)


def read_config(store, name):
    return text_format.Parse((store.folder / name / "config.pbtxt").read_text(),
                             model_config_pb2.ModelConfig())


def test_a_model_is_written_with_its_helpers_under_its_own_names(store):
    code, told = add(store, "poet", "--max-num-seqs", "7")
    assert (code, told.startswith("added poet, version 1")) == (0, True), told
    for suffix in PARTS["generate"]:
        assert read_config(store, "poet" + suffix).name == "poet" + suffix
    steps = read_config(store, "poet_text_generation").ensemble_scheduling.step
    assert [step.model_name for step in steps] == ["poet_tokenize", "poet", "poet_detokenize"]
    assert read_config(store, "poet_complete").parameters["engines_of"].string_value == "poet"
    assert store.read("poet").versions == {1: ModelConfig(
        device="cpu", kv_cache_gib=0.1, max_num_seqs=7)}
    assert run(store, "validate") == (0, "poet: ok")


def test_each_version_has_settings_of_its_own_and_the_configs_stay(store):
    add(store, "poet")
    before = (store.folder / "poet" / "config.pbtxt").read_text()
    assert add(store, "poet", "--version", "2", "--max-num-seqs", "7")[0] == 0
    assert (store.folder / "poet" / "config.pbtxt").read_text() == before
    for version, max_num_seqs in (("1", None), ("2", "7")):
        args = {"model_config": '{"parameters": {"max_num_seqs": {"string_value": "9"}}}',
                "model_repository": str(store.folder / "poet"), "model_version": version}
        assert triton_parameters(args)["max_num_seqs"] == (max_num_seqs or "9")
    assert run(store, "remove", "poet", "--version", "1")[0] == 0
    assert list(store.read("poet").versions) == [2]
    assert "it is the only one" in run(store, "remove", "poet", "--version", "2")[1]


def test_a_model_that_is_there_is_left_as_it_is_if_only_a_missing_one_is_wanted(store):
    for asked, answer in (("7", "added poet, version 1"), ("9", "poet, version 1, is in")):
        code, told = add(store, "poet", "--if-missing", "--max-num-seqs", asked)
        assert (code, told.startswith(answer)) == (0, True), told
    assert add(store, "poet", "--if-missing", "--version", "2")[0] == 0
    assert [config.max_num_seqs for config in store.read("poet").versions.values()] == [
        7, ModelConfig.max_num_seqs]


def test_a_server_of_models_takes_no_form_of_log_but_text_and_json(store):
    add(store, "poet")
    code, told = run(store, "serve", "--log-format", "xml", "--http-port", "0", "--grpc-port", "0",
                     "--metrics-port", "0")
    assert (code, told) == (
        1, "tritonlm: log_format: 'xml' is not allowed; allowed: one of text, json")


def test_models_of_the_overlay_have_settings_of_their_tasks():
    add_command = typer.main.get_command(app).commands["repo"].commands["add"]
    names = {field.name for kind in SETTINGS.values() for field in fields(kind)}
    added = set()
    for line in (OVERLAY / "models.txt").read_text().splitlines():
        given = add_command.make_context("add", shlex.split(line)).params
        parse_settings(SETTINGS[given["task"]], {"model": given["source"]} | {
            name: given[name] for name in names & given.keys() if given[name] is not None})
        added.add(given["name"])
    overlay = (OVERLAY / "kustomization.yaml").read_text()
    assert set(re.findall(r"TRITONLM_(?:PIN|PRELOAD)=(\w+)", overlay)) <= added


def test_a_list_of_nothing_says_how_to_add_a_model(store):
    assert run(store, "list") == (
        0, f"no models in {store.folder}; `tritonlm repo add NAME --from MODEL` adds one")


def test_a_task_has_its_own_parts_and_settings(store, tmp_path):
    store.add("words", "embed", EmbedConfig(model=str(DEMO_CHECKPOINT), pooling="last"))
    steps = read_config(store, "words_embedding").ensemble_scheduling.step
    assert [step.model_name for step in steps] == ["words_tokenize", "words"]
    assert store.read("words").task == "embed"
    _, told = run(store, "add", "other", "--from", str(DEMO_CHECKPOINT), "--task", "embed",
                  "--max-num-seqs", "3")
    assert "parameters: 'max_num_seqs' is not allowed; known settings: model," in told


def test_what_is_removed_is_gone_with_its_helpers(store):
    add(store, "poet")
    run(store, "remove", "poet")
    assert contents(store) == [".lock"]
    elsewhere = ModelStore(store.folder / "elsewhere")
    assert run(elsewhere, "remove", "poet")[0] == 1
    assert not elsewhere.folder.exists()
    assert "there is no model 'poet'" in run(store, "show", "poet")[1]


def is_killed(step, work):
    """Whether a process that does `work` is killed before its so manieth move or deletion."""
    pid = os.fork()
    if not pid:
        steps = count(1)

        def killing(move):
            def or_die(*arguments, **options):
                if next(steps) == step:
                    os.kill(os.getpid(), signal.SIGKILL)
                return move(*arguments, **options)
            return or_die

        try:
            Path.rename, shutil.rmtree = killing(Path.rename), killing(shutil.rmtree)
            work()
        finally:
            os._exit(0)
    return os.waitpid(pid, 0)[1] != 0


def contents(store):
    return sorted(str(path.relative_to(store.folder)) for path in store.folder.rglob("*"))


@pytest.mark.parametrize("version", [None, 2], ids=["model", "version"])
@pytest.mark.parametrize("task", ["generate", "embed"])
def test_a_change_that_is_killed_is_done_or_undone_as_a_whole(store, task, version):
    new = SETTINGS[task](model=str(DEMO_CHECKPOINT), max_model_len=100)
    old = SETTINGS[task](model=str(DEMO_CHECKPOINT))
    store.add("bystander", task, old)
    if version:
        store.add("poet", task, old)
    without, number = contents(store), version or 1

    def add():
        store.add("poet", task, new, number)

    def remove():
        store.remove("poet", version)

    for work, undo in ((add, remove), (remove, add)):
        step = 1
        while is_killed(step, work):
            if (store.folder / "poet" / str(number)).exists() == (work is add):  # it is done
                undo()
            work()
            assert store.names() == ["bystander", *["poet"] * (work is add or bool(version))]
            undo()
            step += 1
        assert step > 2, "it was never killed"
        assert (contents(store) == without) == (work is remove)


def test_a_change_that_cannot_be_made_is_told_and_leaves_nothing(store, monkeypatch):
    add(store, "poet")
    before = contents(store)
    move = Path.rename

    def full(path, target):
        if Path(target).parent == store.folder and path.name == "other_complete":
            raise OSError(errno.ENOSPC, "No space left on device")
        return move(path, target)

    monkeypatch.setattr(Path, "rename", full)
    code, told = add(store, "other")
    assert (code, "No space left on device" in told) == (1, True), told
    assert contents(store) == before


def test_what_is_broken_is_told_beside_what_is_not_and_can_be_removed(store):
    add(store, "poet")
    add(store, "broken")
    (store.folder / "broken" / "1" / "settings.json").write_text("{")
    code, told = run(store, "list")
    assert (code, "broken: settings: " in told, "poet generate 1" in told) == (1, True, True), told
    assert run(store, "remove", "broken")[0] == 0
    assert run(store, "list")[0] == 0


@pytest.mark.parametrize(("options", "told"), [
    (["x_tokenize"], "name: 'x_tokenize' is not allowed"),
    (["../x"], "name: '../x' is not allowed"),
    (["poet"], "name: 'poet' is not allowed; it is taken"),
    (["x", "--task", "sing"], "task: 'sing' is not allowed; allowed: generate, embed"),
    (["x", "--task", "classify"], "it is a LlamaForCausalLM; classify needs"),
    (["x", "--kv-cache-gib", "100000"], "kv_cache_gib: 100000.0 is not allowed; it needs 10000"),
    (["x", "--max-model-len", "9999"], "max_model_len: 9999 is not allowed; the checkpoint is"),
    (["x", "--from", "/no/such"], "model: '/no/such' is not allowed; there is no such folder"),
    (["x", "--front-ends", "0"], "front_ends: 0 is not allowed"),
    (["x", "--version", "0"], "version: 0 is not allowed"),
])
def test_what_cannot_run_is_refused_by_field_and_nothing_is_written(store, options, told):
    add(store, "poet")
    before = sorted(path.name for path in store.folder.iterdir())
    given = [] if "--task" not in options else ["--kv-cache-gib", "1"]
    code, output = (add(store, *options) if not given or "sing" in options else run(
        store, "add", *options, "--from", str(DEMO_CHECKPOINT)))
    assert code == 1
    assert told in output
    assert sorted(path.name for path in store.folder.iterdir()) == before


def test_a_checkpoint_without_a_tokenizer_is_refused(store, tmp_path):
    (tmp_path / "config.json").write_text((DEMO_CHECKPOINT / "config.json").read_text())
    save_file({"w": np.zeros(2, np.float32)}, tmp_path / "model.safetensors")
    assert "it has no tokenizer" in run(store, "add", "x", "--from", str(tmp_path))[1]


def test_what_has_broken_since_is_found_by_validate(store):
    add(store, "poet")
    config = store.folder / "poet_tokenize" / "config.pbtxt"
    config.write_text(config.read_text().replace('"max_tokens"', '"most_tokens"'))
    settings = store.folder / "poet" / "1" / "settings.json"
    settings.write_text(json.dumps({"model": "/gone"}))
    code, told = run(store, "validate")
    assert code == 1
    assert "max_tokens, most_tokens" in told
    assert "'/gone' is not allowed; there is no such folder" in told


def test_need_is_told_from_the_headers_of_the_weights(tmp_path):
    config = {"num_hidden_layers": 2, "num_attention_heads": 8, "num_key_value_heads": 4,
              "hidden_size": 64, "max_position_embeddings": 1000, "dtype": "bfloat16"}
    (tmp_path / "config.json").write_text(json.dumps(config))
    save_file({"a": np.zeros((100, 10), np.float16), "b": np.zeros(7, np.float16)},
              tmp_path / "model.safetensors")
    given = ModelConfig(model=str(tmp_path), kv_cache_gib=2.0)
    on_cpu = memory_need.estimate(tmp_path, given, "generate", "cpu")
    on_gpu = memory_need.estimate(tmp_path, given, "generate", "cuda")
    assert (on_cpu.weights, on_gpu.weights) == (4 * 1007, 2 * 1007)
    assert on_cpu.kv_cache == on_gpu.kv_cache == 2 * GIB
    assert memory_need.longest_request_bytes(tmp_path, given, "cuda") == (
        2 * 2 * 4 * 8 * 1000 * 2)
    small = ModelConfig(model=str(tmp_path), kv_cache_gib=0.0001, max_model_len=1000)
    with pytest.raises(InvalidArgument, match=r"^kv_cache_gib: .*one request of 1000 tokens needs"):
        model_checks._check_lengths(small, tmp_path, "cpu")


def test_the_catalogue_is_what_the_manager_needs(store):
    add(store, "poet")
    add(store, "poet", "--version", "3")
    [(name, entry)] = StoreCatalogue(store)().items()
    assert (name, entry.task, sorted(entry.versions)) == ("poet", "generate", [1, 3])
    assert entry.memory_bytes == 2 * entry.versions[1] > GIB
    assert entry.ensembles == ("poet_text_generation",)
    first = entry.identity
    store.remove("poet", 1)
    assert StoreCatalogue(store)()["poet"].identity != first


@pytest.mark.parametrize("config", ["[]", "{", '{"text_config": 1}'])
def test_a_checkpoint_that_has_broken_keeps_no_other_model_out_of_the_catalogue(
    store, tmp_path, config
):
    shutil.copytree(DEMO_CHECKPOINT, tmp_path / "checkpoint")
    store.add("broken", "generate", ModelConfig(model=str(tmp_path / "checkpoint")))
    add(store, "poet")
    (tmp_path / "checkpoint" / "config.json").write_text(config)
    needs = {name: entry.memory_bytes for name, entry in StoreCatalogue(store)().items()}
    assert needs["broken"] == 0
    assert needs["poet"] > GIB // 2
