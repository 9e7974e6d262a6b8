"""From the language model's signal states to a decoder's condition.

NExT-GPT's output projector (arXiv 2309.05519, section 3): a linear layer into a narrow width, a
small encoder-decoder transformer whose decoder asks with learnable queries, and a linear layer out
to the width of the decoder's text encoder. Here one such head stands for every named tensor of the
spec. No positions are added: the caller sums hidden states and row embeddings, and those differ.

Shapes: B batch, S signal tokens, D language width, Q queries, C condition width.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Final

import torch
from einops import repeat
from torch import Tensor, nn

from anyany.decoders.condition import Condition, ConditionSpec, TensorSpec
from anyany.errors import CheckpointError, ConfigError, UsageError

_PUBLISHED: Final = {"fc": "in_fc", "model": "out_fc"}  # legacy names -> v1.5 names, which are ours


@dataclass(frozen=True)
class OutputProjectorConfig:
    """Sizes of every head; the defaults are NExT-GPT's.

    Args:
        hidden_dim: width of the small transformer.
        encoder_layers: its encoder's depth.
        decoder_layers: its decoder's depth.
        heads: attention heads; must divide `hidden_dim`.
        ffn: width of its feed-forward layers.
        dropout: inside the transformer, in training.
    """

    hidden_dim: int = 512
    encoder_layers: int = 4
    decoder_layers: int = 4
    heads: int = 4
    ffn: int = 2048
    dropout: float = 0.0

    def __post_init__(self) -> None:
        if min(self.hidden_dim, self.encoder_layers, self.decoder_layers, self.heads, self.ffn) < 1:
            raise ConfigError(f"expected positive output projector sizes, got {self}")
        if self.hidden_dim % self.heads:
            raise ConfigError(
                f"expected hidden_dim to be a multiple of heads, got {self.hidden_dim} and "
                f"{self.heads}"
            )
        if not 0.0 <= self.dropout < 1.0:
            raise ConfigError(f"expected dropout in [0, 1), got {self.dropout}")


class OutputProjector(nn.Module):
    """One head per named tensor of a decoder's condition.

    Args:
        language_dim: D, the language model's width.
        spec: what the decoder wants.
        hidden_dim, encoder_layers, decoder_layers, heads, ffn, dropout: see OutputProjectorConfig.

    Raises:
        ConfigError: the sizes do not fit together.
    """

    def __init__(
        self,
        language_dim: int,
        spec: ConditionSpec,
        *,
        hidden_dim: int = 512,
        encoder_layers: int = 4,
        decoder_layers: int = 4,
        heads: int = 4,
        ffn: int = 2048,
        dropout: float = 0.0,
    ) -> None:
        super().__init__()
        self.config = OutputProjectorConfig(
            hidden_dim, encoder_layers, decoder_layers, heads, ffn, dropout
        )
        self.language_dim = language_dim
        self.spec = spec
        self.heads = nn.ModuleDict(
            {name: QueryHead(language_dim, tensor, self.config) for name, tensor in spec}
        )

    @classmethod
    def from_config(
        cls, language_dim: int, spec: ConditionSpec, config: OutputProjectorConfig
    ) -> OutputProjector:
        """Build from stored sizes."""
        return cls(language_dim, spec, **asdict(config))

    def forward(self, signal_hidden: Tensor) -> Condition:
        """Project signal states.

        Args:
            signal_hidden: [B, S, D], last hidden state plus the rows' own embeddings.

        Returns:
            A condition of B parts that honours the spec.

        Raises:
            UsageError: the states have another width.
        """
        if signal_hidden.ndim != 3 or signal_hidden.shape[-1] != self.language_dim:
            raise UsageError(
                f"expected signal states [B, S, {self.language_dim}], "
                f"got {list(signal_hidden.shape)}"
            )
        return Condition({name: head(signal_hidden) for name, head in self.heads.items()})

    def load_published(self, state: Mapping[str, Tensor], name: str | None = None) -> None:
        """Load one head from NExT-GPT's published names, of either generation, strictly.

        Args:
            state: `query_embs`, `fc.*` or `in_fc.*`, `tfm.*`, `model.*` or `out_fc.*`.
            name: which tensor's head; may be left out if there is only one.

        Raises:
            CheckpointError: a name is missing or unknown, or a shape differs.
        """
        if name is None and len(self.heads) == 1:
            (name,) = self.heads
        if name is None or name not in self.heads:
            raise CheckpointError(f"expected a head among {list(self.heads)}, got {name!r}")
        head = self.heads[name]
        came = {_our_name(key): tensor for key, tensor in state.items()}
        ours = head.state_dict()
        strange = sorted(set(came) ^ set(ours)) or sorted(
            key for key in ours if ours[key].shape != came[key].shape
        )
        if strange:
            raise CheckpointError(
                f"expected the weights of an output projector of {self.spec.tensors[name].shape}; "
                f"{len(strange)} of them are missing, unknown or of another shape, first "
                f"{strange[0]!r}"
            )
        head.load_state_dict(came)


class QueryHead(nn.Module):
    """Learnable queries read the signal states and become one tensor of the condition.

    Args:
        language_dim: D.
        spec: the tensor to make; Q = its rows, C = its width.
        config: sizes.
    """

    def __init__(self, language_dim: int, spec: TensorSpec, config: OutputProjectorConfig) -> None:
        super().__init__()
        self.spec = spec
        self.in_fc = nn.Linear(language_dim, config.hidden_dim)
        self.tfm = _transformer(config)
        self.query_embs = nn.Parameter(torch.empty(1, spec.rows, config.hidden_dim))
        self.out_fc = nn.Linear(config.hidden_dim, spec.width)
        nn.init.normal_(self.query_embs)  # not zero: equal queries would stay equal

    def forward(self, signal_hidden: Tensor) -> Tensor:
        """Map signal states [B, S, D] to [B, *spec.shape]."""
        narrow = self.in_fc(signal_hidden)  # [B, S, hidden]
        queries = repeat(self.query_embs, "1 q h -> b q h", b=signal_hidden.shape[0])
        answered = self.out_fc(self.tfm(narrow, queries))  # [B, Q, C]
        shaped: Tensor = answered.reshape(-1, *self.spec.shape)
        return nn.functional.normalize(shaped, dim=-1) if self.spec.normalize else shaped


def _transformer(config: OutputProjectorConfig) -> nn.Transformer:
    """NExT-GPT's pre-norm transformer; its encoder built by hand, as nn.Transformer's warns."""
    layer = nn.TransformerEncoderLayer(
        config.hidden_dim,
        config.heads,
        config.ffn,
        config.dropout,
        batch_first=True,
        norm_first=True,
    )
    encoder = nn.TransformerEncoder(
        layer,
        config.encoder_layers,
        nn.LayerNorm(config.hidden_dim),
        enable_nested_tensor=False,
    )
    return nn.Transformer(
        config.hidden_dim,
        config.heads,
        num_decoder_layers=config.decoder_layers,
        dim_feedforward=config.ffn,
        dropout=config.dropout,
        custom_encoder=encoder,
        batch_first=True,
        norm_first=True,
    )


def _our_name(key: str) -> str:
    first, dot, rest = key.partition(".")
    return _PUBLISHED.get(first, first) + dot + rest
