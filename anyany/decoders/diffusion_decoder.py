"""The body that image, video and audio decoders share.

A `DiffusionDecoder` owns the frozen networks and the constants that belong to them (condition
spec, unconditional condition, presets) and hands the work to `diffusion.denoise`. A modality adds
the shape of its latents and the way out. Its folder is diffusers' own layout plus `decoder.json`
and `unconditional.safetensors`, both of which may be missing.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, ClassVar, Final, Self

import torch
from torch import Generator, Tensor, nn

from anyany.config import from_dict, to_dict
from anyany.decoders import components as parts
from anyany.decoders.components import Components
from anyany.decoders.condition import Condition, ConditionSpec, condition_spec
from anyany.decoders.config import DecoderConfig, DecoderPresets, DecoderSettings
from anyany.decoders.decoder import RECORD_FORMAT, DecoderRecord, Modality, RunOptions
from anyany.decoders.diffusion import PLAIN, denoise
from anyany.decoders.schedulers import build_scheduler
from anyany.decoders.seeding import draw_noise
from anyany.decoders.storage import copy_text_folders, write_components, write_json
from anyany.decoders.text import TextConditioner
from anyany.errors import CheckpointError, UsageError

logger = logging.getLogger(__name__)

RECORD: Final = "decoder.json"
UNCONDITIONAL: Final = "unconditional.safetensors"
CPU_MICRO_BATCH: Final = 1  # parts a call: with neighbours, a row's last bits change
DEVICE_MICRO_BATCH: Final = 4  # a fixed bucket, padded: the same kernels whatever the load


class DiffusionDecoder(nn.Module):
    """Shared body of the three decoders; use one of them.

    Args:
        components: the frozen networks; a text encoder among them needs `tokenizer`.
        condition: what the UNet reads.
        tokenizer: of the text encoder.
        presets: how to run it.
        unconditional: the condition of "", if known.
        folder: where missing things are read from when they are first needed.
    """

    modality: ClassVar[Modality]
    uses_clap: ClassVar[bool] = False
    extra_names: ClassVar[tuple[str, ...]] = ()  # a modality's own values, in config and record
    pipeline: ClassVar[str]  # the diffusers class that opens the same folder

    def __init__(
        self,
        components: Components,
        condition: ConditionSpec,
        *,
        tokenizer: Any = None,
        presets: DecoderPresets | None = None,
        unconditional: Condition | None = None,
        folder: Path | None = None,
    ) -> None:
        super().__init__()
        self.unet = components.unet
        self.vae = components.vae
        self.vocoder = components.vocoder
        self.scheduler_config = components.scheduler_config
        self.condition = condition
        self.presets = presets or DecoderPresets()
        self.folder = folder
        self.text: TextConditioner | None = None
        if components.text_encoder is not None and tokenizer is not None:
            self.text = TextConditioner(components.text_encoder, tokenizer, condition)
        self._unconditional = unconditional
        self.home: torch.device | None = None  # computes there, wherever its weights rest
        self.eval().requires_grad_(False)

    @classmethod
    def from_pretrained(
        cls,
        folder: str | Path,
        *,
        dtype: torch.dtype = torch.float32,
        device: torch.device | str = "cpu",
        presets: DecoderPresets | None = None,
    ) -> Self:
        """Read a folder in diffusers layout; the text encoder waits until it is needed.

        Args:
            folder: holds unet/, vae/, scheduler/, text_encoder/, tokenizer/ (vocoder/ for audio).
            dtype: to compute in.
            device: to compute on.
            presets: instead of those of the folder.

        Raises:
            CheckpointError: a file is missing, torn, pickled or does not fit; the line names it.
        """
        folder = Path(folder)
        if not folder.is_dir():
            raise CheckpointError(f"{folder}: no such folder of decoder weights")
        record = cls._read_record(folder)
        scheduler_config = parts.read_json(folder / "scheduler" / "scheduler_config.json")
        components = Components(
            parts.load_unet(folder, dtype),
            parts.load_vae(folder, dtype),
            scheduler_config,
            vocoder=parts.load_vocoder(folder, dtype) if cls.uses_clap else None,
        )
        if record is None:
            text_values = parts.read_json(folder / "text_encoder" / "config.json")
            spec = condition_spec(components.unet.config, text_values)
            decoder = cls(components, spec, presets=presets, folder=folder)
        else:
            spec = ConditionSpec(record.condition)
            presets = presets or record.presets
            decoder = cls(components, spec, presets=presets, folder=folder, **record.extras)
        return decoder.to(device)

    @classmethod
    def from_config(cls, config: DecoderConfig, *, device: torch.device | str = "meta") -> Self:
        """Build with random weights, or with none on "meta"; without a text encoder.

        Args:
            config: of the decoder's own modality.
            device: to build on.
        """
        components = parts.build_components(config, device)
        components.text_encoder = None
        spec = condition_spec(config.unet, config.text_encoder)
        own = {key: getattr(config, key) for key in cls.extra_names}
        return cls(components, spec, presets=config.presets, **own)

    @classmethod
    def _read_record(cls, folder: Path) -> DecoderRecord | None:
        path = folder / RECORD
        if not path.is_file():
            return None
        record = from_dict(parts.read_json(path), DecoderRecord, source=str(path))
        if record.format != RECORD_FORMAT or record.modality != cls.modality:
            raise CheckpointError(
                f"{path}: expected the record of an {cls.modality} decoder, format "
                f"{RECORD_FORMAT}, got {record.modality}, format {record.format}"
            )
        strange = sorted(set(record.extras) - set(cls.extra_names))
        if strange:
            raise CheckpointError(
                f"{path}: expected extras among {list(cls.extra_names)}, got {strange}"
            )
        return record

    def save_pretrained(self, folder: str | Path) -> Path:
        """Write a folder that `from_pretrained`, and diffusers, can read."""
        folder = Path(folder)
        folder.mkdir(parents=True, exist_ok=True)
        write_components(self, folder)
        if self.text is None and self.folder is not None:
            copy_text_folders(self.folder, folder)
        if self._unconditional is not None or self.text is not None or self._has_text_files():
            self.unconditional().save(folder / UNCONDITIONAL)
        record = DecoderRecord(
            self.modality, dict(self.condition.tensors), self.presets, self.extras()
        )
        write_json(to_dict(record), folder / RECORD)
        return folder

    def encode_captions(self, captions: Sequence[str]) -> Condition:
        """Encode captions with the frozen text encoder, which is read on first need.

        Args:
            captions: B texts.

        Returns:
            A condition of B parts.

        Raises:
            CheckpointError: the text encoder's files are missing, torn or do not fit.
        """
        condition: Condition = self._text()(captions)
        return condition

    def unconditional(self) -> Condition:
        """The condition of the empty text, one part: a constant, kept beside the weights.

        Raises:
            CheckpointError: it is not stored, and no text encoder is there to compute it.
        """
        if self._unconditional is None:
            path = None if self.folder is None else self.folder / UNCONDITIONAL
            if path is not None and path.is_file():
                self._unconditional = Condition.load(path, self.condition)
            else:
                self._unconditional = self._text()([""], negative=True)
                if path is not None:
                    _save_if_writable(self._unconditional, path)
        return self._unconditional

    def _text(self) -> TextConditioner:
        if self.text is None:
            if self.folder is None:
                raise CheckpointError(
                    f"the {self.modality} decoder was built without a text encoder: hand it one, "
                    "or give conditions"
                )
            encoder, tokenizer = parts.load_text_encoder(
                self.folder, self.dtype, clap=self.uses_clap
            )
            self.text = TextConditioner(encoder, tokenizer, self.condition).to(self.device)
        return self.text

    def _has_text_files(self) -> bool:
        return self.folder is not None and (self.folder / "text_encoder").is_dir()

    @property
    def device(self) -> torch.device:
        """Where it computes: where the UNet is, or else its home."""
        weight: Tensor = next(self.unet.parameters())
        return self.home or weight.device

    @property
    def dtype(self) -> torch.dtype:
        """What the UNet computes in."""
        weight: Tensor = next(self.unet.parameters())
        return weight.dtype

    @property
    def micro_batch(self) -> int:
        """Parts a call in invariant mode; part of an output's identity."""
        return CPU_MICRO_BATCH if self.device.type == "cpu" else DEVICE_MICRO_BATCH

    def extras(self) -> dict[str, Any]:
        """The modality's own constructor values, for `decoder.json`."""
        return {name: getattr(self, name) for name in self.extra_names}

    def decode_batch(
        self,
        condition: Condition,
        generators: Sequence[Generator],
        *,
        batch_invariant: bool = True,
        micro_batch: int | None = None,
        **run: Any,
    ) -> Tensor:
        """Decode N parts, each from its own generator, in micro-batches.

        Args:
            condition: N parts.
            generators: N CPU generators.
            batch_invariant: every call has exactly `micro_batch` rows, padded if need be, so that
                a part's bytes do not depend on its neighbours; otherwise calls are as they come.
            micro_batch: parts a call; the device's own number if left out.
            run: what the decoder's call takes.

        Returns:
            Media of N parts, in order.

        Raises:
            UsageError: the numbers do not fit together.
        """
        total = condition.batch_size
        if len(generators) != total:
            raise UsageError(f"expected {total} generators, one a part, got {len(generators)}")
        size = micro_batch or self.micro_batch
        negative = self._negative(run.pop("negative", None), total)
        media = []
        for start in range(0, total, size):
            rows = list(range(start, min(start + size, total)))
            padding = size - len(rows) if batch_invariant else 0
            drawn = [generators[row] for row in rows]
            drawn += [torch.Generator("cpu").manual_seed(0) for _ in range(padding)]
            places = rows + rows[-1:] * padding
            made = self(
                condition.select(places),
                generators=drawn,
                negative=None if negative is None else negative.select(places),
                **run,
            )
            media.append(made[: len(rows)])
        return torch.cat(media)

    def _negative(
        self, negative: Condition | Sequence[str] | str | None, batch_size: int
    ) -> Condition | None:
        if negative is None:
            return None
        if not isinstance(negative, Condition):
            texts = [negative] if isinstance(negative, str) else list(negative)
            encoded: Condition = self._text()(texts, negative=True)
            return encoded.expand(batch_size)
        self.condition.check(negative)
        return negative.expand(batch_size)

    def _latents(self, condition: Condition, shape: tuple[int, ...], run: RunOptions) -> Tensor:
        """Run the loop: noise [B, *shape] to latents of that shape."""
        self.condition.check(condition)
        settings = self.run_settings(run)
        generators = run.get("generators")
        noise = run.get("noise")
        if noise is None:
            noise = self._draw(generators, condition.batch_size, shape)
        if tuple(noise.shape) != (condition.batch_size, *shape):
            raise UsageError(
                f"expected noise {[condition.batch_size, *shape]}, got {list(noise.shape)}"
            )
        negative = self._negative(run.get("negative"), condition.batch_size)
        if negative is None and settings.guidance_scale > 1.0:
            negative = self.unconditional()
        return denoise(
            self.unet,
            condition.to(self.device, self.dtype),
            None if negative is None else negative.to(self.device, self.dtype),
            noise=noise.to(self.device, self.dtype),
            scheduler=build_scheduler(settings.scheduler, self.scheduler_config),
            num_inference_steps=settings.num_inference_steps,
            guidance_scale=settings.guidance_scale,
            generators=generators,
            eta=settings.eta,
            options=run.get("options", PLAIN),
            callback=run.get("callback"),
            cancel=run.get("cancel"),
        )

    def run_settings(self, run: RunOptions) -> DecoderSettings:
        settings = run.get("settings")
        if not isinstance(settings, DecoderSettings):
            settings = self.presets.get(settings)
        single: dict[str, Any] = {
            name: run.get(name)
            for name in ("num_inference_steps", "guidance_scale", "scheduler", "eta")
        }
        return replace(settings, **{k: v for k, v in single.items() if v is not None})

    def _draw(
        self,
        generators: Sequence[Generator] | Generator | None,
        batch_size: int,
        shape: tuple[int, ...],
    ) -> Tensor:
        if generators is None:
            raise UsageError("expected noise or generators: nothing here is left to chance")
        if isinstance(generators, Generator):
            return torch.randn((batch_size, *shape), generator=generators)
        if len(generators) != batch_size:
            raise UsageError(f"expected {batch_size} generators, one a part, got {len(generators)}")
        return draw_noise(generators, shape)


def latent_factor(vae: Any) -> int:
    """Pixels (or mel bins) a latent covers along one dimension."""
    return int(2 ** (len(vae.config.block_out_channels) - 1))


def latent_size(name: str, pixels: int, factor: int) -> int:
    """Latents along one dimension.

    Raises:
        UsageError: the pixels are no multiple of the VAE's factor.
    """
    if pixels < factor or pixels % factor:
        nearest = max(factor, round(pixels / factor) * factor)
        raise UsageError(
            f"expected {name} as a multiple of {factor}, got {pixels}: nearest is {nearest}"
        )
    return pixels // factor


def _save_if_writable(condition: Condition, path: Path) -> None:
    if not os.access(path.parent, os.W_OK):
        return
    try:
        condition.save(path)
    except OSError:
        logger.info("could not keep the unconditional condition beside the weights")
