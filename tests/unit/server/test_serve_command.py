import socket
from dataclasses import fields

import pytest
from typer.testing import CliRunner

from tritonlm.cli import app
from tritonlm.config import ModelConfig
from tritonlm.server import launcher
from tritonlm.server.command import SET_BY_LAUNCHER
from tritonlm.server.settings import ServerSettings

FREE_PORTS = ["--http-port", "0", "--grpc-port", "0", "--metrics-port", "0"]


@pytest.fixture
def run_serve(monkeypatch):
    """Run the command as far as the start, and give the settings that it has come to."""
    def run(*arguments, environ=None):
        prepared = []

        def stop_before_start(settings, config):
            prepared.append((settings, config))
            raise KeyboardInterrupt

        monkeypatch.setattr(launcher, "prepare", stop_before_start)
        result = CliRunner().invoke(app, ["serve", *arguments], env=environ)
        assert result.exit_code == 0, result.output
        return prepared[0]
    return run


def refuse(*arguments):
    result = CliRunner().invoke(app, ["serve", *arguments])
    return result.exit_code, result.stderr


def test_the_defaults_are_those_of_the_settings(run_serve):
    assert run_serve() == (ServerSettings(), ModelConfig())


def test_every_setting_is_an_option_with_a_text():
    help_text = CliRunner().invoke(app, ["serve", "--help"], env={"COLUMNS": "200"}).output
    for field in (*fields(ServerSettings), *fields(ModelConfig)):
        is_option = f"--{field.name.replace('_', '-')} " in help_text
        assert is_option == (field.name not in SET_BY_LAUNCHER), field.name


def test_the_name_of_an_extra_is_not_taken_for_markup():
    help_text = CliRunner().invoke(app, ["serve", "--help"], env={"COLUMNS": "200"}).output
    assert "tritonlm[quantization]" in help_text


def test_options_become_settings(run_serve):
    settings, config = run_serve("--http-port", "1234", "--front-ends", "3", "--device", "cpu",
                                 "--kv-cache-gib", "0.5", "--max-model-len", "64", "--verbose")
    assert settings == ServerSettings(http_port=1234, front_ends=3, verbose=True)
    assert config == ModelConfig(device="cpu", kv_cache_gib=0.5, max_model_len=64)


def test_an_option_wins_over_the_environment(run_serve):
    environ = {"TRITONLM_DEVICE": "cuda", "TRITONLM_HTTP_PORT": "1234", "TRITONLM_DTYPE": "float32"}
    settings, config = run_serve("--device", "auto", environ=environ)
    assert (settings.http_port, config.device, config.dtype) == (1234, "auto", "float32")


@pytest.mark.parametrize(("arguments", "field"), [
    (["--device", "tpu"], "device"), (["--dtype", "int8"], "dtype"),
    (["--http-port", "70000"], "http_port"), (["--front-ends", "0"], "front_ends"),
    (["--exit-timeout-s", "-1"], "exit_timeout_s"), (["--block-size", "3"], "block_size"),
    ([*FREE_PORTS, "--model", "/no/such/folder"], "model"),
])
def test_a_wrong_setting_is_one_line(arguments, field):
    code, stderr = refuse(*arguments)
    assert code == 1
    assert stderr.startswith(f"tritonlm: {field}: ")
    assert stderr.count("\n") == 1


def test_a_port_in_use_is_one_line():
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
        code, stderr = refuse(*FREE_PORTS, "--metrics-port", str(port))
    assert code == 1
    assert stderr == (f"tritonlm: port {port} of 127.0.0.1 is in use: choose another with "
                      "--metrics-port, or stop what listens there\n")


def test_a_port_of_the_gateway_in_use_is_one_line():
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
        result = CliRunner().invoke(app, ["gateway", "--port", str(port)])
    assert result.exit_code == 1
    assert result.stderr == (f"tritonlm: port {port} of 127.0.0.1 is in use: choose another with "
                             "--port, or stop what listens there\n")


def test_an_unknown_option_is_refused():
    code, stderr = refuse("--no-such-option", "1")
    assert code == 2
    assert "--no-such-option" in stderr
