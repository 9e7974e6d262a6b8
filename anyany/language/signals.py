"""Signal tokens: the ids with which the language model says "a picture comes here".

They are ours alone: ids V, V+1, ... just above the language model's vocabulary, never added to a
tokenizer or to the model's matrices. `SignalSpec` says how many there are and how a span of them
is spelled; `SignalRows` holds their input and output rows and splices them in at lookup and logits.

Shapes: B batch, T tokens, n signal tokens, D language width, V vocabulary, S tokens of a span.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Final

import torch
from torch import Tensor, nn
from torch.nn import functional

from anyany.errors import ConfigError
from anyany.messages import MEDIA_MODALITIES, Modality

_CODES: Final[dict[Modality, str]] = {"image": "IMG", "video": "VID", "audio": "AUD"}


@dataclass(frozen=True)
class SignalSpec:
    """How many signal tokens each modality has, and how a span of them is spelled.

    Args:
        image: number of tokens of a picture; 0 = the model does not draw.
        video: number of tokens of a clip.
        audio: number of tokens of a recording.
        names: how a token is shown to people, a format string over `code` (IMG, VID, AUD),
            `modality` and `index`.
        stride: every `stride`-th id of a span is a signal token, the others are the separator;
            1 = contiguous (NExT-GPT v0), 2 = the published v1.5 spans of 2n-1 ids.
        separator_id: the vocabulary's id between the signal tokens; needed if `stride` > 1.
        first_id: id of the first signal token = V; None until a language model is at hand.

    Raises:
        ConfigError: a count or stride is out of range, or the separator is missing.
    """

    image: int = 4
    video: int = 24
    audio: int = 8
    names: str = "[{code}{index}]"
    stride: int = 1
    separator_id: int | None = None
    first_id: int | None = None

    def __post_init__(self) -> None:
        for modality in MEDIA_MODALITIES:
            if self.count(modality) < 0:
                raise ConfigError(
                    f"signals.{modality}: expected a number of tokens >= 0, "
                    f"got {self.count(modality)}"
                )
        if self.stride < 1:
            raise ConfigError(f"signals.stride: expected 1 or more, got {self.stride}")
        if self.stride > 1 and self.separator_id is None:
            raise ConfigError(
                f"signals.stride is {self.stride}: also set signals.separator_id to the "
                "vocabulary's id between the signal tokens"
            )

    def at(self, first_id: int) -> SignalSpec:
        """The same spec with its ids beginning at `first_id`, the vocabulary's size V.

        Raises:
            ConfigError: the spec already begins elsewhere.
        """
        if self.first_id not in (None, first_id):
            raise ConfigError(
                f"signals.first_id: expected {first_id}, the language model's vocabulary size, "
                f"got {self.first_id}"
            )
        return replace(self, first_id=first_id)

    @property
    def total(self) -> int:
        """n, the number of signal tokens of all modalities."""
        return sum(self.count(modality) for modality in MEDIA_MODALITIES)

    @property
    def modalities(self) -> tuple[Modality, ...]:
        """The modalities that have tokens, in the fixed order image, video, audio."""
        return tuple(modality for modality in MEDIA_MODALITIES if self.count(modality))

    def count(self, modality: Modality) -> int:
        """Number of signal tokens of a modality."""
        return {"image": self.image, "video": self.video, "audio": self.audio}[modality]

    def ids(self, modality: Modality) -> tuple[int, ...]:
        """The ids of a modality's signal tokens, without separators."""
        offset = self._first()
        for earlier in MEDIA_MODALITIES:
            if earlier == modality:
                return tuple(range(offset, offset + self.count(modality)))
            offset += self.count(earlier)
        raise ConfigError(f"expected one of {', '.join(MEDIA_MODALITIES)}; got {modality!r}")

    def span(self, modality: Modality) -> tuple[int, ...]:
        """The ids of a whole span, separators included. Shape [S]."""
        tokens: list[int] = []
        for token in self.ids(modality):
            if tokens and self.separator_id is not None:
                tokens += [self.separator_id] * (self.stride - 1)
            tokens.append(token)
        return tuple(tokens)

    def span_length(self, modality: Modality) -> int:
        """S, the number of ids of a whole span, separators included."""
        count = self.count(modality)
        return (count - 1) * self.stride + 1 if count else 0

    def modality_of(self, token_id: int) -> Modality | None:
        """The modality of a signal id; None for an id of the vocabulary."""
        for modality in self.modalities:
            if token_id in self.ids(modality):
                return modality
        return None

    def name(self, token_id: int) -> str:
        """How a signal id is shown to people, such as [IMG0].

        Raises:
            ConfigError: it is no signal id.
        """
        modality = self.modality_of(token_id)
        if modality is None:
            raise ConfigError(f"expected a signal id, got {token_id}")
        index = token_id - self.ids(modality)[0]
        return self.names.format(code=_CODES[modality], modality=modality, index=index)

    def _first(self) -> int:
        if self.first_id is None:
            raise ConfigError("signals.first_id is not set: build the spec with .at(vocabulary)")
        return self.first_id


class SignalRows(nn.Module):
    """The signal tokens' own rows: parameters `input_rows` [n, D] and `output_rows` [n, D].

    Args:
        first_id: V; ids from here on are signal tokens.
        num_rows: n.
        language_dim: D.
        device: where the rows live; "meta" for counting parameters.
        dtype: float32 unless told otherwise, also over a half-precision model.
    """

    def __init__(
        self,
        first_id: int,
        num_rows: int,
        *,
        language_dim: int,
        device: torch.device | str = "cpu",
        dtype: torch.dtype = torch.float32,
    ) -> None:
        super().__init__()
        self.first_id = first_id
        self.num_rows = num_rows
        shape = (num_rows, language_dim)
        self.input_rows = nn.Parameter(torch.zeros(shape, device=device, dtype=dtype))
        self.output_rows = nn.Parameter(torch.zeros(shape, device=device, dtype=dtype))

    @torch.no_grad()
    def init_from(
        self, embedding_matrix: Tensor, head_matrix: Tensor, *, noise: float = 0.1, seed: int = 0
    ) -> None:
        """Set each row to the mean of the base rows plus a little noise of its own.

        Args:
            embedding_matrix: the base input rows [V, D].
            head_matrix: the base output rows [V, D].
            noise: standard deviation of the noise, as a part of the base rows' own.
            seed: of the noise.
        """
        generator = torch.Generator().manual_seed(seed)
        for rows, base in ((self.input_rows, embedding_matrix), (self.output_rows, head_matrix)):
            base = base.detach().float()
            drawn = torch.randn(rows.shape, generator=generator, device="cpu").to(base.device)
            rows.copy_(base.mean(0) + noise * base.std() * drawn)

    def embed(self, token_ids: Tensor, base_embedding: Callable[[Tensor], Tensor]) -> Tensor:
        """Look ids up, signal ids in our rows and all others in the base.

        Args:
            token_ids: long [B, T] in [0, V + n).
            base_embedding: the model's own lookup, [B, T] -> [B, T, D].

        Returns:
            Embeddings [B, T, D] in the base's dtype.
        """
        is_signal = token_ids >= self.first_id
        embedded = base_embedding(token_ids.masked_fill(is_signal, 0))  # [B, T, D]
        signal_ids = (token_ids - self.first_id).clamp(min=0)
        rows = functional.embedding(signal_ids, self.input_rows).to(embedded.dtype)
        return torch.where(is_signal.unsqueeze(-1), rows, embedded)

    def logits(self, hidden: Tensor, base_head: Callable[[Tensor], Tensor]) -> Tensor:
        """Score every id, the base's by its own head and ours by our rows.

        Args:
            hidden: last hidden states [..., D].
            base_head: the model's own head, [..., D] -> [..., V].

        Returns:
            Logits [..., V + n].
        """
        signal = functional.linear(hidden, self.output_rows.to(hidden.dtype))
        return torch.cat([base_head(hidden), signal], dim=-1)
