"""Starting a tritonserver with the models, and ending it with all that belongs to it."""

from __future__ import annotations

import os
import shlex
import subprocess
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, fields, replace
from pathlib import Path

from tritonlm.config import ENV_PREFIX, ModelConfig
from tritonlm.encoders.config import TaskConfig
from tritonlm.errors import StartFailure
from tritonlm.server import (
    checkpoint,
    ports,
    preflight,
    processes,
    reaper,
    repository,
    run_directory,
    runtime,
    task_models,
)
from tritonlm.server.log import Log
from tritonlm.server.run_directory import RunDirectory
from tritonlm.server.runtime import Runtime
from tritonlm.server.settings import ServerSettings
from tritonlm.server.tritonserver import TritonServer

STORE_HTTP_THREADS = 32
"""A load takes one of them until it is done, and streams on it may lose chunks: over gRPC it would
keep all calls but inferences waiting, health checks among them."""
STUB_TIMEOUT_S = 120
"""For starting a Python model's process on a cold and busy machine; loading it is not bounded."""

MAX_LOG_BYTES = 64 * 2**20
"""Of a log that nobody has asked for: what concerns people was shown as it came."""


@dataclass(frozen=True)
class Launch:
    """A server that can be started: settings complete, checkpoint found, checks passed."""

    settings: ServerSettings
    config: ModelConfig
    runtime: Runtime
    tasks: tuple[TaskConfig, ...] = ()
    store: Path | None = None
    """Folder of models that are loaded one by one, on demand; `config` is what is common to all."""


def prepare(settings: ServerSettings, config: ModelConfig) -> Launch:
    """Check all that can be checked before the start, and install or fetch what is missing.

    Raises `StartFailure`, and `InvalidArgument` for a checkpoint that cannot be served.
    """
    settings = _with_ports(settings)
    folder = checkpoint.resolve(config.model, config.revision)
    tasks = task_models.chosen(settings, config)
    config = replace(config, model=str(folder), revision=None)
    return Launch(settings, _of_server(config, settings), _checked_runtime(settings), tasks)


def prepare_store(settings: ServerSettings, store: Path, log_format: str = "text") -> Launch:
    """As `prepare`, for a server that has nothing loaded at first."""
    settings, config = _with_ports(settings), ModelConfig(log_format=log_format)
    return Launch(settings, _of_server(config, settings), _checked_runtime(settings), store=store)


def _with_ports(settings: ServerSettings) -> ServerSettings:
    chosen = ports.choose(settings.host, {
        "--http-port": settings.http_port,
        "--grpc-port": settings.grpc_port,
        "--metrics-port": settings.metrics_port,
    })
    return replace(settings, http_port=chosen["--http-port"], grpc_port=chosen["--grpc-port"],
                   metrics_port=chosen["--metrics-port"])


def _of_server(config: ModelConfig, settings: ServerSettings) -> ModelConfig:
    return replace(config, server_url=f"http://{settings.reachable_host}:{settings.http_port}",
                   drain_timeout_s=float(settings.exit_timeout_s))


def _checked_runtime(settings: ServerSettings) -> Runtime:
    tritonserver = runtime.find(settings.tritonserver)
    preflight.check_libraries(tritonserver)
    preflight.check_numpy(tritonserver)
    return tritonserver


@contextmanager
def launch(
    plan: Launch, report: Callable[[str], None],
    sources: tuple[Path, ...] = repository.REPOSITORIES,
) -> Iterator[TritonServer]:
    """A ready server, gone with every process and file of it when the context ends.

    `report` gets lines of progress. Raises `StartFailure`, which then says where the log is.
    """
    run = run_directory.create()
    with reaper.guard(run):
        repositories = [plan.store] if plan.store else _render(plan, run, sources)
        log = _open_log(plan.settings.log_file, run)
        process = _start(plan, run, repositories, log.path)
        server = TritonServer(process, plan.settings, run.path, log, report)
        try:
            server.wait_until_ready(has_models=plan.store is None)
            yield server
        except StartFailure as failure:
            kept = plan.settings.log_file or run.keep_log()
            raise type(failure)(f"{failure.message} (log: {kept})") from None
        finally:
            server.stop()


def _render(plan: Launch, run: RunDirectory, sources: tuple[Path, ...]) -> list[Path]:
    target, has_cache = run.path / "repositories", plan.settings.response_cache_mib > 0
    rendered = repository.render(sources, target, plan.config.to_parameters(),
                                 plan.settings.front_ends, has_cache)
    return rendered + repository.render_tasks(target, plan.tasks, has_cache)


def _open_log(log_file: Path | None, run: RunDirectory) -> Log:
    """What the server is to write to; what a `log_file` has of earlier servers stays."""
    try:
        return Log(log_file) if log_file else Log(run.log, MAX_LOG_BYTES)
    except OSError as error:
        raise StartFailure(f"--log-file {log_file or run.log}: {error.strerror}") from None


def _start(
    plan: Launch, run: RunDirectory, repositories: list[Path], log_path: Path
) -> subprocess.Popen[bytes]:
    try:
        with log_path.open("ab") as log_file:
            return subprocess.Popen(
                _command(plan, run, repositories), env=_environment(plan, run),
                stdin=subprocess.DEVNULL, stdout=log_file, stderr=subprocess.STDOUT,
                start_new_session=True,  # a terminal's Ctrl-C is for the launcher
            )
    except OSError as error:
        raise StartFailure(f"tritonserver cannot be started: {error}") from None


def _command(plan: Launch, run: RunDirectory, repositories: list[Path]) -> list[str]:
    settings = plan.settings
    return [
        str(plan.runtime.binary),
        *(f"--model-repository={path}" for path in repositories),
        f"--backend-directory={plan.runtime.backends}",
        f"--cache-directory={plan.runtime.caches}",
        f"--backend-config=python,shm-region-prefix-name={run.shared_memory_prefix}",
        f"--backend-config=python,stub-timeout-seconds={STUB_TIMEOUT_S}",
        "--disable-auto-complete-config",  # the configs are complete; it starts each stub twice
        f"--http-address={settings.host}", f"--http-port={settings.http_port}",
        f"--grpc-address={settings.host}", f"--grpc-port={settings.grpc_port}",
        f"--metrics-address={settings.host}", f"--metrics-port={settings.metrics_port}",
        f"--exit-timeout-secs={settings.triton_exit_timeout_s}",
        *([f"--cache-config=local,size={settings.response_cache_mib * 2**20}"]
          if settings.response_cache_mib else []),
        *(["--model-control-mode=explicit", f"--http-thread-count={STORE_HTTP_THREADS}"]
          if plan.store else []),
        *shlex.split(settings.triton_options),
    ]


def _environment(plan: Launch, run: RunDirectory) -> dict[str, str]:
    """The models' settings are in their configs, so those of this environment must not be.

    In a store they are each model's own, and what all have in common is in the environment.
    """
    names = {ENV_PREFIX + field.name.upper() for field in fields(ModelConfig)}
    kept = {name: text for name, text in plan.runtime.environment().items() if name not in names}
    common = plan.config.to_parameters() if plan.store else {}
    return (kept | {ENV_PREFIX + name.upper(): text for name, text in common.items()}
            | {processes.RUN_DIR_VARIABLE: os.fspath(run.path)})
