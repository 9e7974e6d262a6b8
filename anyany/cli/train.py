"""`anyany train`: one stage of a system's alignment, on files of one's own or on pocket's world."""

from __future__ import annotations

import dataclasses
import logging
import os
from collections.abc import Mapping, Sequence
from importlib.resources import as_file, files
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Final, Literal

import typer

from anyany.cli.loading import load_system
from anyany.cli.options import Device, Dtype
from anyany.cli.terminal import notes
from anyany.errors import AnyAnyError, ConfigError, UsageError

if TYPE_CHECKING:
    from anyany.alignment.ranks import Ranks
    from anyany.alignment.samples import SampleSource
    from anyany.alignment.stage_tasks import SampleMedia
    from anyany.alignment.stages import StageConfig
    from anyany.alignment.trainer import TrainResult
    from anyany.system import AnyToAny

WORLD: Final = "world"
SYSTEM: Final = "system"  # of the run's folder
NUM_SAMPLES: Final = 4  # answered at each evaluation

StageVerb = Literal["encoder", "decoder", "instruct"]


def train(
    stage: Annotated[StageVerb, typer.Argument(help="Which stage.", show_default=False)],
    overrides: Annotated[
        list[str] | None,
        typer.Argument(metavar="KEY=VALUE", help="Settings instead of the config's, dotted."),
    ] = None,
    config: Annotated[
        str, typer.Option("--config", "-c", metavar="NAME|FILE", help="A shipped stage, or YAML.")
    ] = "",
    system: Annotated[
        str, typer.Option("--system", "-m", metavar="NAME", help="The system to begin from.")
    ] = "pocket",
    output: Annotated[
        Path | None,
        typer.Option("--output", "-o", metavar="FOLDER", help="Of the run. [default: runs/STAGE]"),
    ] = None,
    data: Annotated[
        list[str] | None,
        typer.Option(
            metavar="FILE", help='Samples in JSON lines instead of the config\'s; or "world".'
        ),
    ] = None,
    validation: Annotated[
        list[str] | None, typer.Option(metavar="FILE", help="For the loss at evaluations.")
    ] = None,
    allow_changed: Annotated[
        bool, typer.Option("--allow-changed", help="Go on although settings differ.")
    ] = False,
    device: Device = "auto",
    dtype: Dtype = None,
    threads: Annotated[int, typer.Option(min=1, max=1024, help="On the CPU.", metavar="N")] = 2,
) -> None:
    """Train one stage, and write the tuned system. The same command goes on after a stop.

    Examples:

        anyany train encoder --data my_captions.jsonl train.steps=500

        anyany train instruct --config pocket-instruct --data world -o runs/more

        torchrun --nproc_per_node 2 -m anyany train encoder --data my_captions.jsonl
    """
    from anyany.alignment.ranks import Ranks
    from anyany.alignment.sharding import launched_settings

    settings = load_stage(config or f"pocket-{stage}", overrides or ())
    if settings.name.partition("_")[0] != stage:
        raise UsageError(f"the config is of stage {settings.name}: run anyany train for that one")
    settings = _with_files(settings, data or (), validation or ())
    folder = output or Path("runs") / stage
    source = _source(settings, data or ())
    held_back = _validation(settings)
    settings = dataclasses.replace(settings, train=launched_settings(settings.train, os.environ))
    with Ranks.launched() as ranks:
        if not ranks.first:  # one of them speaks
            logging.getLogger("anyany").setLevel(logging.WARNING)
            notes.setLevel(logging.ERROR)
        model = load_system(system, device=_own(device, ranks), dtype=dtype, threads=threads)
        placed = dataclasses.replace(
            settings.train, device=str(model.device), threads=settings.train.threads or threads
        )
        settings = dataclasses.replace(settings, train=placed)
        result = _run(model, source, settings, folder, held_back, allow_changed=allow_changed)
        if result.reason not in ("finished", "time_limit"):
            raise typer.Exit(result.exit_code)
        if ranks.first:
            if result.reason == "time_limit":
                notes.info(
                    "the time limit is reached at step %d: the same command goes on", result.step
                )
            typer.echo(model.save_pretrained(folder / SYSTEM))
        ranks.barrier()  # the launcher takes the first process to end for the end of all


def _run(
    model: AnyToAny,
    source: SampleSource,
    settings: StageConfig,
    folder: Path,
    held_back: SampleSource | None,
    *,
    allow_changed: bool,
) -> TrainResult:
    from anyany.alignment.stages import run_stage

    return run_stage(
        model.bridge,
        model.output_projectors,
        model.decoders,
        source,
        settings,
        folder,
        validation=held_back,
        sample_media=draw_samples(model, held_back or source),
        allow_changed=allow_changed,
    )


def _own(device: str, ranks: Ranks) -> str:
    """The device of one process among several: its own GPU, where there are GPUs."""
    import torch

    if ranks.world > 1 and device in ("auto", "cuda") and torch.cuda.is_available():
        return f"cuda:{torch.cuda.current_device()}"
    return device


def load_stage(name: str, overrides: Sequence[str] = ()) -> StageConfig:
    """A stage's settings, by the name of a shipped one or from a YAML file.

    Raises:
        ConfigError: there is no such file, or a key or value in it is wrong.
    """
    from anyany.alignment.stages import StageConfig
    from anyany.config import load_config

    if name.endswith((".yaml", ".yml")):
        return load_config(name, StageConfig, overrides)
    shipped = files("anyany") / "configs" / "stages"
    names = sorted(entry.name.removesuffix(".yaml") for entry in shipped.iterdir())
    if name not in names:
        raise ConfigError(f"expected a YAML file or one of {', '.join(names)}; got {name!r}")
    with as_file(shipped / f"{name}.yaml") as path:
        return load_config(path, StageConfig, overrides)


def draw_samples(model: AnyToAny, source: SampleSource) -> SampleMedia:
    """A function that answers the source's first conversations and writes the replies down.

    Args:
        model: the system in training.
        source: their last turns are left to the model.
    """
    from anyany.alignment.samples import MediaFile, turn

    def draw(folder: Path) -> Mapping[str, float]:
        total = min(source.num_samples or NUM_SAMPLES, NUM_SAMPLES)
        for number in range(total):
            messages = source.sample(number, 0).messages[:-1]
            try:
                read: list[Any] = [
                    turn(
                        one.role, *(p.read() if isinstance(p, MediaFile) else p for p in one.parts)
                    )
                    for one in messages
                ]
                reply = model.generate(read, seed=number)
            except AnyAnyError as error:  # a half-trained model's sample is not worth a stop
                notes.warning("sample %d: %s", number, error)
                continue
            reply.save(folder / f"sample-{number}", metadata=False)
        return {}

    return draw


def _with_files(
    settings: StageConfig, data: Sequence[str], validation: Sequence[str]
) -> StageConfig:
    """The settings with the files of the command line, which are in our own format."""
    from anyany.alignment.formats import DataFile

    changed: dict[str, Any] = {}
    if data:
        changed["data"] = tuple(DataFile(Path(one)) for one in data if one != WORLD)
    if validation:
        changed["validation"] = tuple(DataFile(Path(one)) for one in validation)
    return dataclasses.replace(settings, **changed)


def _source(settings: StageConfig, data: Sequence[str]) -> SampleSource:
    from anyany.alignment.formats import open_data

    if WORLD not in data:
        return open_data(settings.data, seed=settings.train.seed)
    if len(data) > 1:
        raise UsageError(f'expected files or "{WORLD}", got both')
    from anyany.pocket.build import stage_source

    return stage_source("projectors" if settings.name == "decoder_projectors" else settings.name)


def _validation(settings: StageConfig) -> SampleSource | None:
    from anyany.alignment.formats import open_data

    return open_data(settings.validation) if settings.validation else None
