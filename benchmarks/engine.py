"""Speed of the engine on this machine: `python -m benchmarks.engine`.

On a GPU, shapes of well-known models beside vLLM; on a CPU, the demo checkpoint beside
`transformers.generate`.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from benchmarks import machine
from benchmarks.report import Results, say
from benchmarks.session import Measure, Session
from benchmarks.settings import Settings, parse_settings
from benchmarks.shapes import SHAPES
from benchmarks.subjects import DEMO, NAMES, Subject, find_subject
from tritonlm.config import ModelConfig
from tritonlm.engine.device import choose_device
from tritonlm.errors import InvalidArgument


def main(
    shape: Annotated[list[str] | None, typer.Option(
        help=f"Of {', '.join(NAMES)}; default: {' and '.join(SHAPES)} on a GPU, {DEMO} on a CPU. "
             "May be repeated.")] = None,
    concurrency: Annotated[list[int] | None, typer.Option(
        min=1, help="Requests at a time; default: 1, 32 and 256; 1 and 16 of the demo.")] = None,
    measure: Annotated[list[Measure] | None, typer.Option(
        help="What to measure; default: all.")] = None,
    setting: Settings = None,
    runs: Annotated[int | None, typer.Option(
        min=1, help="Take the median of so many; default: 1, and 9 of the demo.")] = None,
    checkpoints: Annotated[Path | None, typer.Option(
        help="Write the random weights of shapes into this folder, once, and load them from it; "
             "else they are drawn on the device.")] = None,
    json: Annotated[Path | None, typer.Option(help="Keep the results in this file.")] = None,
) -> None:
    """Measure the engine on this machine, in this process, without a network."""
    try:
        subjects = _subjects(shape, parse_settings(setting), checkpoints)
    except InvalidArgument as error:
        raise typer.BadParameter(error.message) from None
    about = machine.describe(choose_device(subjects[0].config.device))
    say(machine.one_line(about))
    session = Session(measure or list(Measure), concurrency or [], runs, Results(json, about))
    for subject in subjects:
        session.run(subject)


def _subjects(
    names: list[str] | None, settings: dict[str, str], checkpoints: Path | None
) -> list[Subject]:
    device = choose_device(ModelConfig.build(settings, {}).device)
    usual = [*SHAPES] if device.type == "cuda" else [DEMO]
    return [find_subject(name, device, checkpoints, settings) for name in names or usual]


if __name__ == "__main__":
    typer.run(main)
