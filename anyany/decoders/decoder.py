"""What a decoder is to the rest of the house: a condition in, media out.

Here stand the protocol, what every decoder's call takes, and the record that its folder carries.
`diffusion_decoder` holds the body that the three of ours share.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, Final, Literal, Protocol, TypeAlias, TypedDict

from torch import Generator, Tensor

from anyany.decoders.condition import Condition, ConditionSpec, TensorSpec
from anyany.decoders.config import DecoderPresets, DecoderSettings
from anyany.decoders.diffusion import LoopOptions, StepCallback

Modality: TypeAlias = Literal["image", "video", "audio"]
RECORD_FORMAT: Final = 1


class Decoder(Protocol):
    """What the rest of the house asks of a decoder."""

    modality: Modality
    condition: ConditionSpec

    def encode_captions(self, captions: Sequence[str]) -> Condition:
        """The frozen text encoder: alignment targets, negative prompts, caption mode."""

    def __call__(self, condition: Condition, **run: Any) -> Tensor:
        """Media of B parts."""

    def decode_batch(
        self, condition: Condition, generators: Sequence[Generator], **run: Any
    ) -> Tensor:
        """Media of N parts, in micro-batches."""


class RunOptions(TypedDict, total=False):
    """What every decoder's call takes beside the condition and the size.

    Keys:
        noise: standard normal latents [B, ...]; drawn from the generators if left out.
        generators: one CPU generator a part, for initial and per-step noise.
        settings: a preset's name, or settings; the folder's default preset if left out.
        num_inference_steps, guidance_scale, scheduler, eta: override single settings.
        negative: what to steer away from: texts, or a condition of 1 or B parts.
        options: faster or leaner ways to run the loop.
        callback: called after every step.
        cancel: asked before every step.
    """

    noise: Tensor | None
    generators: Sequence[Generator] | Generator | None
    settings: DecoderSettings | str | None
    num_inference_steps: int | None
    guidance_scale: float | None
    scheduler: str | None
    eta: float | None
    negative: Condition | Sequence[str] | str | None
    options: LoopOptions
    callback: StepCallback | None
    cancel: Callable[[], bool] | None


@dataclass(frozen=True)
class DecoderRecord:
    """What `decoder.json` holds.

    Args:
        modality: of the decoder.
        condition: its spec.
        presets: how to run it.
        extras: the modality's own values, such as frames per second.
        shared: components that stand in a sibling's folder: name -> the sibling; see `shared.py`.
        format: version of this file.
    """

    modality: Modality
    condition: dict[str, TensorSpec]
    presets: DecoderPresets
    extras: dict[str, Any] = field(default_factory=dict)
    shared: dict[str, str] = field(default_factory=dict)
    format: int = RECORD_FORMAT
