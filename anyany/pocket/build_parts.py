"""What `anyany pocket build` does part by part: each trains and leaves its weights.

A part's run is in `runs/PART`, its weights are in `components/PART`; parts stand on others, and
begin from a system's weights where one is given.
"""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import torch

from anyany.alignment.trainer import Task, TrainConfig, load_trained, train
from anyany.errors import UsageError
from anyany.messages import Modality
from anyany.pocket import audio_denoiser, components, image_denoiser, video_denoiser
from anyany.pocket.clap import ClapContrastTask
from anyany.pocket.clip_text_encoder import ClipTextTask
from anyany.pocket.clips import all_clips
from anyany.pocket.compose import compose
from anyany.pocket.image_vae import ImageVaeTask, normalise_latents
from anyany.pocket.imagebind import BindTask
from anyany.pocket.imagebind_media import MediaBindTask
from anyany.pocket.language_model import LanguagePretrainTask
from anyany.pocket.mel_vae import MelVaeTask, normalise_mel_latents
from anyany.pocket.sounds import all_sounds
from anyany.pocket.text_encoder import TextContrastTask
from anyany.pocket.tokenizer import train_tokenizer
from anyany.pocket.vocoder import VocoderTask
from anyany.pocket.world import all_scenes
from anyany.system_files import find

# A build from nothing. How the shipped weights came about step by step: docs/pocket.md.
TRAINING: Final[Mapping[str, TrainConfig]] = {
    "text_encoder": TrainConfig(steps=500, batch_size=64, lr=1e-3, warmup=50, ema=0.99),
    "image_vae_crops": TrainConfig(
        steps=1500, batch_size=48, lr=2.5e-3, warmup=50, final_lr=0.3, ema=0.995
    ),
    "image_vae": TrainConfig(steps=1300, batch_size=24, lr=1.2e-3, warmup=20, ema=0.99),
    "image_vae_decoder": TrainConfig(steps=900, batch_size=24, lr=1e-3, warmup=20, ema=0.99),
    "image_unet": TrainConfig(steps=20_000, batch_size=32, lr=2e-3, warmup=200, ema=0.999),
    "clip_text_encoder": TrainConfig(steps=400, batch_size=32, lr=6e-4, warmup=50, ema=0.99),
    "video_unet": TrainConfig(steps=8000, batch_size=8, lr=2e-3, warmup=100, ema=0.998),
    "clap": TrainConfig(steps=400, batch_size=48, lr=1e-3, warmup=50, ema=0.99),
    "mel_vae_crops": TrainConfig(
        steps=600, batch_size=24, lr=2.5e-3, warmup=50, final_lr=0.3, ema=0.99
    ),
    "mel_vae": TrainConfig(steps=250, batch_size=16, lr=1e-3, warmup=20, ema=0.98),
    "vocoder_true": TrainConfig(
        steps=1000, batch_size=12, lr=2e-3, warmup=50, final_lr=0.2, ema=0.99
    ),
    "vocoder": TrainConfig(steps=300, batch_size=12, lr=8e-4, warmup=20, ema=0.99),
    "audio_unet": TrainConfig(steps=4000, batch_size=24, lr=2e-3, warmup=100, ema=0.998),
    "imagebind_pictures": TrainConfig(steps=2600, batch_size=48, lr=7e-4, warmup=100, ema=0.995),
    "imagebind": TrainConfig(steps=2500, batch_size=72, lr=1e-3, warmup=100, ema=0.995),
    "language": TrainConfig(steps=1600, batch_size=32, lr=1.5e-3, warmup=100, ema=0.995),
}
PARTS: Final = (
    "tokenizer",
    "text_encoder",
    "image_vae",
    "image_unet",
    "clip_text_encoder",
    "video_unet",
    "clap",
    "mel_vae",
    "vocoder",
    "audio_unet",
    "imagebind",
    "language",
    "system",
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


class PartBuilder:
    """Builds parts, a method's worth of work each."""

    def __init__(self, settings: BuildSettings) -> None:
        self.settings = settings
        self.started = time.monotonic()
        if settings.threads is not None:
            torch.set_num_threads(settings.threads)

    def done(self, name: str) -> bool:
        """Whether a part has left its weights."""
        return (self.settings.component(name) / "done").is_file()

    def mark_done(self, name: str) -> None:
        """Note that a part or a stage came to its end."""
        target = self.settings.component(name)
        target.mkdir(parents=True, exist_ok=True)
        (target / "done").touch()

    def build(self, name: str) -> None:
        """Train one part and write its weights."""
        target = self.settings.component(name)
        target.mkdir(parents=True, exist_ok=True)
        getattr(self, f"_{name}")(target)

    def settings_of(self, config: TrainConfig) -> TrainConfig:
        """A run's settings on this device, in the time that is left.

        Raises:
            TimeLimitReached: there is none.
        """
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

    def _tokenizer(self, target: Path) -> None:
        train_tokenizer().save_pretrained(target)

    def _text_encoder(self, target: Path) -> None:
        encoder = components.text_encoder(self._ground("tokenizer"), self._start("text_encoder"))
        self._train("text_encoder", TextContrastTask(encoder, self._tokens()))
        encoder.save_pretrained(target)

    def _image_vae(self, target: Path) -> None:
        vae = components.image_vae(self._start("image_vae"))
        self._train("image_vae_crops", ImageVaeTask(vae, crop=32))
        self._train("image_vae", ImageVaeTask(vae))
        normalise_latents(vae)
        self._train("image_vae_decoder", ImageVaeTask(vae, decoder_only=True))
        vae.save_pretrained(target)

    def _image_unet(self, target: Path) -> None:
        decoder = self._image_decoder(self._start("image_unet"))
        evaluation = all_scenes(held_out=True)[:: 10 * self._stride()]
        pool = image_denoiser.LatentPool(decoder.vae, stride=self._stride())
        task = image_denoiser.ImageDenoiseTask(decoder, pool, evaluation=evaluation)
        self._train("image_unet", task, evaluate_every=1000)
        decoder.unet.save_pretrained(target)

    def _clip_text_encoder(self, target: Path) -> None:
        start = self._start("clip_text_encoder") or self._ground("text_encoder")
        encoder = components.text_encoder(self._ground("tokenizer"), start)
        self._train("clip_text_encoder", ClipTextTask(encoder, self._tokens()))
        encoder.save_pretrained(target)

    def _video_unet(self, target: Path) -> None:
        decoder = self._video_decoder(self._start("video_unet"))
        pool = video_denoiser.ClipPool(decoder.vae, stride=self._stride())
        evaluation = all_clips(held_out=True)[5 :: 11 * self._stride()]
        task = video_denoiser.VideoDenoiseTask(decoder, pool, evaluation=evaluation)
        self._train("video_unet", task, evaluate_every=1000)
        decoder.unet.save_pretrained(target)

    def _clap(self, target: Path) -> None:
        encoder = components.clap(self._tokens(), self._start("clap"))
        self._train("clap", ClapContrastTask(encoder, self._tokens()))
        encoder.save_pretrained(target)

    def _mel_vae(self, target: Path) -> None:
        vae = components.mel_vae(self._start("mel_vae"))
        self._train("mel_vae_crops", MelVaeTask(vae, crop=80))
        self._train("mel_vae", MelVaeTask(vae))
        normalise_mel_latents(vae)
        vae.save_pretrained(target)

    def _vocoder(self, target: Path) -> None:
        vocoder = components.vocoder(self._start("vocoder"))
        self._train("vocoder_true", VocoderTask(vocoder))
        vae = components.mel_vae(self._ground("mel_vae"))
        self._train("vocoder", VocoderTask(vocoder, vae), evaluate_every=100)
        vocoder.save_pretrained(target)

    def _audio_unet(self, target: Path) -> None:
        decoder = self._audio_decoder(self._start("audio_unet"))
        recordings = max(round(audio_denoiser.RECORDINGS / self._stride()), 1)
        pool = audio_denoiser.SoundPool(decoder.vae, recordings=recordings)
        evaluation = (all_sounds(held_out=True) * 4)[:: self._stride()]
        task = audio_denoiser.AudioDenoiseTask(decoder, pool, evaluation=evaluation)
        self._train("audio_unet", task, evaluate_every=500)
        decoder.unet.save_pretrained(target)

    def _imagebind(self, target: Path) -> None:
        imagebind = components.imagebind(self._tokens(), self._start("imagebind"))
        task = BindTask(imagebind, self._tokens(), evaluation=all_scenes(held_out=True))
        self._train("imagebind_pictures", task, evaluate_every=500)
        media = MediaBindTask(imagebind, self._tokens(), evaluation=128)
        self._train("imagebind", media, evaluate_every=500)
        components.save_imagebind(imagebind, target)

    def _language(self, target: Path) -> None:
        lm = components.language(self._tokens(), self._start("language"))
        self._train("language", LanguagePretrainTask(lm, self._tokens()))
        lm.save_pretrained(target)

    def _system(self, target: Path) -> None:
        tokenizer = self._tokens()
        decoders: dict[Modality, Any] = {
            "image": self._image_decoder(self._ground("image_unet")),
            "video": self._video_decoder(self._ground("video_unet")),
            "audio": self._audio_decoder(self._ground("audio_unet")),
        }
        system = compose(
            components.imagebind(tokenizer, self._ground("imagebind")),
            components.language(tokenizer, self._ground("language")),
            tokenizer,
            decoders,
        )
        system.save_pretrained(self.settings.folder / "system")

    def _image_decoder(self, unet: Path | None) -> Any:
        return image_denoiser.assemble_image_decoder(
            components.image_unet(unet),
            components.image_vae(self._ground("image_vae")),
            components.text_encoder(self._ground("tokenizer"), self._ground("text_encoder")),
            self._tokens(),
        )

    def _video_decoder(self, unet: Path | None) -> Any:
        ground = components.image_unet(self._ground("image_unet"))
        return video_denoiser.assemble_video_decoder(
            components.video_unet(unet, ground),
            components.image_vae(self._ground("image_vae")),
            components.text_encoder(self._ground("tokenizer"), self._ground("clip_text_encoder")),
            self._tokens(),
        )

    def _audio_decoder(self, unet: Path | None) -> Any:
        return audio_denoiser.assemble_audio_decoder(
            components.audio_unet(unet),
            components.mel_vae(self._ground("mel_vae")),
            components.vocoder(self._ground("vocoder")),
            components.clap(self._tokens(), self._ground("clap")),
            self._tokens(),
        )

    def _train(self, name: str, task: Task, **changes: Any) -> None:
        """Run the trainer to its end and take the moving average of the weights."""
        config = dataclasses.replace(self.settings_of(TRAINING[name]), **changes)
        run = self.settings.run(name)
        result = train(task, config, run, progress=self.settings.progress)
        check_finished(result.reason)
        load_trained(run, task.module)
        task.module.eval()

    def _stride(self) -> int:
        """In a trial, every so manieth medium of a pool and of an evaluation."""
        return max(round(1 / self.settings.scale), 1)

    def _tokens(self) -> Any:
        return components.tokenizer(self._ground("tokenizer"))

    def _ground(self, name: str) -> Path:
        """The weights of a part that another stands on."""
        if not self.done(name):
            raise UsageError(f"the part {name} is missing: build it first, or all parts in order")
        return self.settings.component(name)

    def _start(self, name: str) -> Path | None:
        """Where a part's weights begin, if not from nothing."""
        if self.settings.start is None:
            return None
        weights = components.in_system(find(self.settings.start), name)
        return weights if weights.is_dir() else None  # the system may lack a modality


def check_finished(reason: str) -> None:
    """Go on only after a run that came to its end.

    Raises:
        KeyboardInterrupt: it was interrupted.
        TimeLimitReached: its time was spent.
    """
    if reason in ("SIGINT", "SIGTERM"):
        raise KeyboardInterrupt
    if reason != "finished":
        raise TimeLimitReached
