import pytest
from google.protobuf import text_format
from tests.task_checkpoints import save_classifier, save_cross_encoder, save_embedder
from tritonclient.grpc import model_config_pb2

from tritonlm.config import ModelConfig
from tritonlm.encoders.config import EmbedConfig, RerankConfig
from tritonlm.errors import ServingError
from tritonlm.server import repository, task_models
from tritonlm.server.settings import ServerSettings


def test_without_models_there_are_no_tasks(tmp_path):
    assert task_models.chosen(ServerSettings(), ModelConfig(device="cpu")) == ()
    assert repository.render_tasks(tmp_path, ()) == []
    assert not list(tmp_path.iterdir())


def test_a_task_has_its_checkpoint_its_settings_and_the_servers_device(tmp_path):
    settings = ServerSettings(
        embed_model=str(save_embedder(tmp_path / "embed")),
        embed_settings='{"pooling": "cls", "normalize": false, "max_model_len": 32}',
        rerank_model=str(save_cross_encoder(tmp_path / "rerank")),
        rerank_settings='{"device": "auto"}')
    assert task_models.chosen(settings, ModelConfig(device="cpu")) == (
        EmbedConfig(model=str(tmp_path / "embed"), device="cpu", pooling="cls",
                    normalize="false", max_model_len=32),
        RerankConfig(model=str(tmp_path / "rerank"), device="auto"))


def test_a_task_logs_as_the_language_model_does(tmp_path):
    settings = ServerSettings(embed_model=str(save_embedder(tmp_path / "embed")))
    [task] = task_models.chosen(settings, ModelConfig(log_format="json", request_log=True))
    assert (task.log_format, task.request_log) == ("json", True)


def test_the_models_of_a_task_get_its_settings(tmp_path):
    [copy] = repository.render_tasks(tmp_path, [EmbedConfig(model="/a model", truncate=True)],
                                     has_cache=True)
    assert {path.name for path in copy.iterdir()} == {"embed", "embed_tokenize", "embedding"}
    for name in ("embed", "embed_tokenize", "embedding"):
        config = text_format.Parse((copy / name / "config.pbtxt").read_text(),
                                   model_config_pb2.ModelConfig())
        parameters = {key: value.string_value for key, value in config.parameters.items()}
        assert parameters == ({} if name == "embedding" else {
            "model": "/a model", "truncate": "true"})
        assert config.response_cache.enable == (name == "embed")


@pytest.mark.parametrize(("field", "value", "message"), [
    ("embed_model", "/no/such", "embed_model: '/no/such' is not allowed; there is no such folder"),
    ("embed_settings", "pooling=cls", "embed_settings: 'pooling=cls' is not allowed; it must be"),
    ("embed_settings", '{"model": "x"}', "embed_settings: "),
    ("embed_settings", '{"poling": "cls"}', "embed_parameters: 'poling' is not allowed; known"),
    ("embed_settings", '{"pooling": "max"}', "embed_pooling: 'max' is not allowed; allowed: one"),
    ("rerank_settings", '{"prompt_template": "{document}{query}"}', "rerank_prompt_template: "),
    ("classify_model", "embed", "classify_model: "),
])
def test_what_cannot_be_served_is_named(tmp_path, field, value, message):
    given = {"embed_model": str(save_embedder(tmp_path / "embed")),
             "rerank_model": str(save_cross_encoder(tmp_path / "rerank")),
             "classify_model": str(save_classifier(tmp_path / "classify"))}
    value = str(tmp_path / value) if value == "embed" else value
    with pytest.raises(ServingError) as caught:
        task_models.chosen(ServerSettings(**given | {field: value}), ModelConfig())
    assert caught.value.message.startswith(message)
