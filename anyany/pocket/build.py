"""`anyany pocket build`: train all of pocket from nothing, part by part, resumable.

Each part trains in `runs/PART` with the trainer that users get and leaves its weights in
`components/PART`; the alignment stages work on the composed system in `system`. A part that has
left its weights is not trained again; one that was interrupted goes on where it was.
"""

from __future__ import annotations

import dataclasses
import json
import logging
import shutil
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, cast

import torch
from torch import nn

from anyany.alignment.samples import SampleSource
from anyany.alignment.stages import StageConfig, run_stage
from anyany.alignment.trainer import Task, TrainConfig, load_trained, train
from anyany.config import load_config
from anyany.errors import UsageError
from anyany.pocket import components as parts
from anyany.pocket.compose import compose
from anyany.pocket.image_denoiser import ImageDenoiseTask, LatentPool, assemble_image_decoder
from anyany.pocket.image_vae import ImageVaeTask, normalise_latents
from anyany.pocket.imagebind import BindTask
from anyany.pocket.language_model import LanguagePretrainTask
from anyany.pocket.samples import DescribeSource, DialogueSource, DrawSource
from anyany.pocket.stage_samples import world_samples
from anyany.pocket.text_encoder import TextContrastTask
from anyany.pocket.tokenizer import train_tokenizer
from anyany.pocket.world import all_scenes
from anyany.system import AnyToAny
from anyany.system_files import find
from anyany.weights import to_half

logger = logging.getLogger(__name__)

# A build from nothing. How the shipped weights came about step by step: docs/pocket.md.
TRAINING: Final[Mapping[str, TrainConfig]] = {
    "text_encoder": TrainConfig(steps=500, batch_size=64, lr=1e-3, warmup=50, ema=0.99),
    "image_vae_crops": TrainConfig(
        steps=1500, batch_size=48, lr=2.5e-3, warmup=50, final_lr=0.3, ema=0.995
    ),
    "image_vae": TrainConfig(steps=1300, batch_size=24, lr=1.2e-3, warmup=20, ema=0.99),
    "image_vae_decoder": TrainConfig(steps=900, batch_size=24, lr=1e-3, warmup=20, ema=0.99),
    "image_unet": TrainConfig(steps=20_000, batch_size=32, lr=2e-3, warmup=200, ema=0.999),
    "imagebind": TrainConfig(steps=2600, batch_size=48, lr=7e-4, warmup=100, ema=0.995),
    "language": TrainConfig(steps=1600, batch_size=32, lr=1.5e-3, warmup=100, ema=0.995),
}
KEPT_STATES: Final = 6000  # conversations whose signal states stage 2b keeps
STAGES: Final = ("encoder", "decoder", "projectors", "instruct", "refine")
SHOWN: Final = ("encoder", "instruct")  # stages that learn to describe
PARTS: Final = (
    "tokenizer",
    "text_encoder",
    "image_vae",
    "image_unet",
    "imagebind",
    "language",
    "system",
    *STAGES,
)


@dataclass(frozen=True)
class BuildSettings:
    """How to build.

    Args:
        folder: of runs, components and the system.
        device: "cpu" or "cuda".
        threads: of torch on the CPU.
        scale: factor on all numbers of steps; below 1 for a trial.
        time_limit: seconds for the whole call; None for no limit.
        start: a system's folder (or "pocket") whose components new runs start from.
        progress: show bars; None: if stderr is a terminal.
    """

    folder: Path
    device: str = "cpu"
    threads: int | None = 1
    scale: float = 1.0
    time_limit: float | None = None
    start: str | None = None
    progress: bool | None = None

    def run(self, name: str) -> Path:
        """The folder of a part's run."""
        return self.folder / "runs" / name

    def component(self, name: str) -> Path:
        """The folder of a part's weights."""
        return self.folder / "components" / name


class TimeLimitReached(Exception):
    """The call's time is spent; all is saved."""


def build(settings: BuildSettings, *, only: Sequence[str] = ()) -> Path | None:
    """Build pocket, or some of its parts.

    Args:
        settings: where and how.
        only: parts to build; empty for all that are missing.

    Returns:
        The system's folder, or None if the time limit came first or parts are missing.

    Raises:
        UsageError: an unknown part, or one whose ground is missing.
    """
    strange = sorted(set(only) - set(PARTS))
    if strange:
        raise UsageError(f"expected parts among {', '.join(PARTS)}; got {strange[0]!r}")
    builder = _Builder(settings)
    try:
        for name in PARTS:
            if only and name not in only:
                continue
            if builder.done(name):
                logger.info("%s: done before", name)
                continue
            logger.info("%s: begins", name)
            builder.build(name)
    except TimeLimitReached:
        logger.info("the time limit is reached; the same command goes on from here")
        return None
    system = settings.folder / "system"
    return system if builder.done("refine") else None


def pack(system: Path, folder: Path) -> Path:
    """Write a system's folder as it ships: float16, nothing else beside it."""
    if folder.exists():
        shutil.rmtree(folder)
    shutil.copytree(system, folder)
    for path in folder.rglob("*.json"):  # diffusers notes where weights came from
        record = json.loads(path.read_text(encoding="utf-8"))
        if isinstance(record, dict) and record.pop("_name_or_path", None) is not None:
            path.write_text(json.dumps(record, indent=2) + "\n", encoding="utf-8")
    to_half(folder)
    return folder


class _Builder:
    """The parts, each a method's worth of work."""

    def __init__(self, settings: BuildSettings) -> None:
        self.settings = settings
        self.started = time.monotonic()
        if settings.threads is not None:
            torch.set_num_threads(settings.threads)

    def done(self, name: str) -> bool:
        """Whether a part has left its weights."""
        return (self.settings.component(name) / "done").is_file()

    def build(self, name: str) -> None:
        """Train one part and leave its weights."""
        torch.manual_seed(0)  # fresh weights are the same in every build
        recipes: Mapping[str, Callable[[Path], None]] = {
            "tokenizer": self._tokenizer,
            "text_encoder": self._text_encoder,
            "image_vae": self._image_vae,
            "image_unet": self._image_unet,
            "imagebind": self._imagebind,
            "language": self._language,
            "system": self._system,
        }
        target = self.settings.component(name)
        target.mkdir(parents=True, exist_ok=True)
        if name in recipes:
            recipes[name](target)
        else:
            self._stage(name)
        (target / "done").touch()

    def _tokenizer(self, target: Path) -> None:
        train_tokenizer().save_pretrained(target)

    def _text_encoder(self, target: Path) -> None:
        encoder = parts.text_encoder(self._ground("tokenizer"), self._start("text_encoder"))
        self._train("text_encoder", TextContrastTask(encoder, self._tokens()))
        encoder.save_pretrained(target)

    def _image_vae(self, target: Path) -> None:
        vae = parts.image_vae(self._start("image_vae"))
        self._train("image_vae_crops", ImageVaeTask(vae, crop=32))
        self._train("image_vae", ImageVaeTask(vae))
        normalise_latents(vae)
        self._train("image_vae_decoder", ImageVaeTask(vae, decoder_only=True))
        vae.save_pretrained(target)

    def _image_unet(self, target: Path) -> None:
        decoder = self._decoder(parts.image_unet(self._start("image_unet")))
        evaluation = all_scenes(held_out=True)[::10]
        pool = LatentPool(decoder.vae, stride=max(round(1 / self.settings.scale), 1))
        task = ImageDenoiseTask(decoder, pool, evaluation=evaluation)
        self._train("image_unet", task, evaluate_every=1000)
        decoder.unet.save_pretrained(target)

    def _imagebind(self, target: Path) -> None:
        imagebind = parts.imagebind(self._tokens(), self._start("imagebind"))
        task = BindTask(imagebind, self._tokens(), evaluation=all_scenes(held_out=True))
        self._train("imagebind", task, evaluate_every=500)
        parts.save_imagebind(imagebind, target)

    def _language(self, target: Path) -> None:
        lm = parts.language(self._tokens(), self._start("language"))
        self._train("language", LanguagePretrainTask(lm, self._tokens()))
        lm.save_pretrained(target)

    def _system(self, target: Path) -> None:
        tokenizer = self._tokens()
        system = compose(
            parts.imagebind(tokenizer, self._ground("imagebind")),
            parts.language(tokenizer, self._ground("language")),
            tokenizer,
            {"image": self._decoder(parts.image_unet(self._ground("image_unet")))},
        )
        system.save_pretrained(self.settings.folder / "system")

    def _stage(self, name: str) -> None:
        """One alignment stage on the system as it stands."""
        folder = self.settings.folder / "system"
        if not self.done("system"):
            raise UsageError(f"{name} needs the part system: build it first")
        system = AnyToAny.from_pretrained(folder, device=self.settings.device, threads=None)
        config = stage_config(name)
        result = run_stage(
            system.bridge,
            system.output_projectors,
            cast("Mapping[str, Any]", system.decoders),
            stage_source(name),
            dataclasses.replace(config, train=self._settings(config.train)),
            self.settings.run(name),
            validation=DialogueSource(purpose="validation"),
            sample_media=world_samples(system, draws=name != "encoder", describes=name in SHOWN),
            progress=self.settings.progress,
        )
        self._check_finished(result.reason)
        system.save_pretrained(folder)

    def _train(self, name: str, task: Task, **changes: Any) -> None:
        """Run the trainer to its end and take the moving average of the weights."""
        config = dataclasses.replace(self._settings(TRAINING[name]), **changes)
        run = self.settings.run(name)
        result = train(task, config, run, progress=self.settings.progress)
        self._check_finished(result.reason)
        load_trained(run, task.module)
        task.module.eval()

    def _settings(self, config: TrainConfig) -> TrainConfig:
        settings = self.settings
        left = None
        if settings.time_limit is not None:
            left = settings.time_limit - (time.monotonic() - self.started)
            if left <= 0:
                raise TimeLimitReached
        assert config.steps is not None
        return dataclasses.replace(
            config,
            steps=max(round(config.steps * settings.scale), 1),
            device=settings.device,
            threads=settings.threads,
            time_limit=left,
        )

    def _check_finished(self, reason: str) -> None:
        if reason in ("SIGINT", "SIGTERM"):
            raise KeyboardInterrupt
        if reason != "finished":
            raise TimeLimitReached

    def _tokens(self) -> Any:
        return parts.tokenizer(self._ground("tokenizer"))

    def _decoder(self, unet: nn.Module) -> Any:
        return assemble_image_decoder(
            unet,  # type: ignore[arg-type]
            parts.image_vae(self._ground("image_vae")),
            parts.text_encoder(self._ground("tokenizer"), self._ground("text_encoder")),
            self._tokens(),
        )

    def _ground(self, name: str) -> Path:
        """The weights of a part that another stands on."""
        if not self.done(name):
            raise UsageError(f"the part {name} is missing: build it first, or all parts in order")
        return self.settings.component(name)

    def _start(self, name: str) -> Path | None:
        """Where a part's weights begin, if not from nothing."""
        if self.settings.start is None:
            return None
        return parts.in_system(find(self.settings.start), name)


def stage_config(name: str) -> StageConfig:
    """The settings of one of pocket's alignment stages, from configs/stages."""
    from importlib.resources import as_file, files

    with as_file(files("anyany") / "configs" / "stages" / f"pocket-{name}.yaml") as path:
        return load_config(Path(path), StageConfig)


def stage_source(name: str) -> SampleSource:
    """What a stage learns from."""
    if name == "encoder":
        return DescribeSource()
    if name == "decoder":
        return DrawSource()
    if name == "projectors":
        return DrawSource(num_samples=KEPT_STATES)
    return DialogueSource(num_samples=KEPT_STATES if name == "refine" else None)
