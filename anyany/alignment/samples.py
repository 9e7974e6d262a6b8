"""What the stages learn from: conversations, and a source that gives the n-th one.

A sample is a conversation as inference sees it. In training, a medium of the user may be a file
that is read when it is first encoded, and a medium of the assistant is only what it should be: a
caption for the decoder's text encoder, or a condition that was computed before.

    Sample((
        turn("user", "draw a small red bell"),
        turn("assistant", "here it is.", MediaTarget("image", caption="a small red bell")),
    ))
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, Protocol, cast

import numpy as np
import safetensors.torch
import torch
from safetensors import SafetensorError
from torch import Tensor

from anyany.decoders import Condition, ConditionSpec
from anyany.errors import UsageError
from anyany.language import media_parts
from anyany.messages import (
    AudioPart,
    ImagePart,
    MediaPart,
    Message,
    Modality,
    Part,
    Role,
    TextPart,
    VideoPart,
)

_READERS: Final[Mapping[str, type[ImagePart] | type[VideoPart] | type[AudioPart]]] = {
    "image": ImagePart,
    "video": VideoPart,
    "audio": AudioPart,
}


@dataclass(frozen=True)
class MediaFile:
    """A medium of a user's turn that is read when it is needed."""

    modality: Modality
    path: Path

    def read(self) -> MediaPart:
        """Read it behind the default limits.

        Raises:
            MediaError: it is missing, empty, unsupported, corrupt, too large or refused.
        """
        return _READERS[self.modality].read(self.path)


@dataclass(frozen=True, eq=False)
class MediaTarget:
    """What a medium of the assistant's turn should be; it stands where the medium would.

    Args:
        modality: image, video or audio.
        caption: for the text encoder of the modality's decoder.
        embedding: the condition itself, instead: tensors by name, without a batch axis; or a
            file, .safetensors (names as in the decoder's spec) or .npy (of its only tensor).
        medium: a true medium, for the denoising loss on pictures.
        latents: the medium's latents as the decoder's UNet takes them, for the denoising loss.

    Without caption and embedding only the signal tokens are learnt.
    """

    modality: Modality
    caption: str | None = None
    embedding: Mapping[str, Tensor] | Path | None = None
    medium: MediaPart | MediaFile | None = None
    latents: Tensor | None = None

    @property
    def has_condition(self) -> bool:
        """Whether there is something to project to."""
        return self.caption is not None or self.embedding is not None


@dataclass(frozen=True, eq=False)
class Sample:
    """One conversation to learn from.

    Args:
        messages: the turns; the last is the assistant's.
        key: what messages call it: a file and line, or a seed.
    """

    messages: tuple[Message, ...]
    key: str = ""

    @property
    def targets(self) -> dict[int, MediaTarget]:
        """The assistant's media with something to learn, by their index among `media_parts`."""
        parts: Sequence[object] = media_parts(self.messages)
        return {index: part for index, part in enumerate(parts) if isinstance(part, MediaTarget)}


class SampleSource(Protocol):
    """A set of samples, finite or not."""

    @property
    def num_samples(self) -> int | None:
        """Its size; None if infinite."""

    def sample(self, index: int, epoch: int) -> Sample:
        """The sample at `index` as it looks in `epoch`; the same whenever it is asked for."""


class ListSource:
    """Samples in memory.

    Args:
        samples: in order.
    """

    def __init__(self, samples: Sequence[Sample]) -> None:
        self.samples = list(samples)

    @property
    def num_samples(self) -> int:
        """Its size."""
        return len(self.samples)

    def sample(self, index: int, epoch: int) -> Sample:
        """The sample at `index`, in every epoch the same."""
        return self.samples[index]


def turn(role: Role, *parts: str | Part | MediaFile | MediaTarget) -> Message:
    """One turn of a training conversation; a str is text.

    `language.render` looks at a part's modality alone, so that files not read yet and targets can
    stand among the parts.
    """
    given = tuple(TextPart(part) if isinstance(part, str) else part for part in parts)
    return Message(role, cast(tuple[Part, ...], given))


def read_embedding(target: MediaTarget, spec: ConditionSpec) -> Condition:
    """A target's own condition, one part, checked against what the decoder wants.

    Raises:
        UsageError: the file is missing or damaged, or the condition is another decoder's.
    """
    embedding = target.embedding
    if isinstance(embedding, Path):
        tensors = _read_file(embedding, spec)
    else:
        assert embedding is not None
        tensors = dict(embedding)
    shaped = {
        name: tensor.float().reshape(_squeezed(tuple(tensor.shape), spec, name))[None]
        for name, tensor in tensors.items()
    }
    condition = Condition(shaped)
    try:
        spec.check(condition)
    except UsageError as error:
        where = f"{embedding.name}: " if isinstance(embedding, Path) else ""
        raise UsageError(f"{where}{error}") from None
    return condition


def _read_file(path: Path, spec: ConditionSpec) -> dict[str, Tensor]:
    try:
        if path.suffix == ".npy":
            array: Any = np.load(path, allow_pickle=False)
            if len(spec.tensors) != 1:
                raise UsageError(
                    f"{path.name} holds one tensor, the decoder wants {sorted(spec.tensors)}: "
                    "expected a .safetensors file"
                )
            (name,) = spec.tensors
            return {name: torch.from_numpy(array)}
        loaded: dict[str, Tensor] = safetensors.torch.load_file(path)
        return loaded
    except FileNotFoundError:
        raise UsageError(f"no such embedding file: {path.name}") from None
    except UsageError:
        raise
    except (SafetensorError, OSError, ValueError, TypeError):
        raise UsageError(f"{path.name}: expected a whole .safetensors or .npy file") from None


def _squeezed(shape: tuple[int, ...], spec: ConditionSpec, name: str) -> tuple[int, ...]:
    """(1, 512) for a spec of (512,) is the same embedding; nothing else is reshaped."""
    wanted = spec.tensors[name].shape if name in spec.tensors else shape
    return wanted if shape == (1, *wanted) or (1, *shape) == wanted else shape
