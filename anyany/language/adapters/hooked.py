"""Adapters that are modules of their own beside the model and reach into it by hooks.

The model's modules, their names, their bytes and their hash stay as they are. What an adapter was
told before a pass is taken up when the pass begins and holds until the next begins, so that layers
computed a second time in the backward pass find it; a pass that nobody announced is plain text.

Shapes: N rows of a pass, W its width, D language width.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, Generic, TypeVar

import torch
from torch import Tensor, nn

from anyany.errors import CheckpointError, ConfigError, UsageError
from anyany.language.adapters.seam import (
    ADAPTER_CONFIG,
    ADAPTER_WEIGHTS,
    PassLayout,
    PlainText,
    Visual,
)

S = TypeVar("S")  # an adapter's settings
Told = TypeVar("Told")  # what it prepares for a pass


class HookedAdapter(nn.Module, Generic[S, Told]):
    """What the four of them share: installing, passes, saving.

    Args:
        settings: of its kind.
    """

    kind: str  # its key in a configuration
    needs_layout = True

    def __init__(self, settings: S) -> None:
        super().__init__()
        self.settings = settings
        self._pending: Told | None = None
        self._told: Told | None = None
        self._bodies: list[Any] = []  # the model's body, which is no part of the adapter

    @property
    def body(self) -> Any:
        """The language model without its head."""
        return self._bodies[0]

    @property
    def told(self) -> Told:
        """What holds for the pass that is running."""
        assert self._told is not None, "no pass has begun"
        return self._told

    def install(self, lm: nn.Module) -> None:
        """Make the adapter's parameters and hang it on a language model.

        Raises:
            ConfigError: the model is of another architecture, or quantised.
            UsageError: it is installed already, or another of its kind is.
        """
        if self._bodies:
            raise UsageError("this adapter is installed already: make a new one for another model")
        hooks = lm.base_model._forward_pre_hooks.values()  # type: ignore[union-attr]
        owners = (getattr(hook, "__self__", None) for hook in hooks)
        other = next((one for one in owners if isinstance(one, HookedAdapter)), None)
        if other is not None:
            raise UsageError(
                f"the language model has the adapter {other.kind} already, beside which there is "
                f"no place for {self.kind}: take a model without an adapter"
            )
        layers = self._layers(lm)
        example: Tensor = lm.get_input_embeddings().weight  # type: ignore[operator]
        with torch.device(example.device):
            self.build(lm, layers)
        self.to(dtype=example.dtype)
        self.train(lm.training)
        self._bodies.append(lm.base_model)
        self.body.register_forward_pre_hook(self._begin, with_kwargs=True)

    def build(self, lm: Any, layers: Sequence[Any]) -> None:
        """Make the parameters and register the hooks of the layers."""
        raise NotImplementedError

    def prepare(self, layout: PassLayout, visual: Visual) -> Told:
        """What the hooks need to know of a pass."""
        raise NotImplementedError

    def rotary_positions(self, positions: Tensor | None) -> Tensor | None:
        """Positions that the pass is to use instead of its own; None = its own."""
        return None

    def in_place(self, media: Tensor) -> Tensor:
        """The medium itself."""
        return media

    def before(self, layout: PassLayout, visual: Visual) -> None:
        """Prepare the next pass."""
        self._pending = self.prepare(layout, visual)

    def reset(self, rows: Sequence[int]) -> None:
        """Nothing kept."""

    def aux(self) -> Tensor:
        """No loss of its own: 0."""
        return torch.zeros(())

    def without_gradient(self) -> dict[str, str]:
        """Parameters that get no gradient by construction: name of a part -> reason."""
        return {}

    def __getstate__(self) -> dict[str, Any]:
        """A copy is made of the adapter between two passes: it holds nothing of the last."""
        return {**self.__dict__, "_pending": None, "_told": None}

    def trainable(self) -> Iterable[nn.Parameter]:
        """All of its parameters."""
        return self.parameters()

    def save(self, folder: str | Path) -> None:
        """Write adapter_config.json and adapter_model.safetensors."""
        from safetensors.torch import save_file

        folder = Path(folder)
        folder.mkdir(parents=True, exist_ok=True)
        state = {name: tensor.detach().contiguous() for name, tensor in self.state_dict().items()}
        save_file(state, folder / ADAPTER_WEIGHTS, metadata={"format": "pt"})
        text = json.dumps(self._description(), indent=1) + "\n"
        (folder / ADAPTER_CONFIG).write_text(text, encoding="utf-8")

    def load(self, folder: str | Path) -> None:
        """Read a folder into the installed adapter, all of it and nothing else.

        Raises:
            CheckpointError: it is missing, was made with other settings, or does not fit.
        """
        from safetensors.torch import load_file

        folder = Path(folder)
        for name in (ADAPTER_CONFIG, ADAPTER_WEIGHTS):
            if not (folder / name).is_file():
                raise CheckpointError(f"missing {name} in {folder.name!r}")
        try:
            stored = json.loads((folder / ADAPTER_CONFIG).read_text(encoding="utf-8"))
        except ValueError:
            stored = None
        if stored != self._description():
            raise CheckpointError(
                f"the adapter in {folder.name!r} was made as {stored}, "
                f"expected {self._description()}"
            )
        state, own = load_file(folder / ADAPTER_WEIGHTS), self.state_dict()
        wrong = sorted(
            name
            for name in own.keys() | state.keys()
            if name not in own or name not in state or own[name].shape != state[name].shape
        )
        if wrong:
            raise CheckpointError(
                f"the adapter's weights do not fit: {len(wrong)} tensors differ, first {wrong[0]}"
            )
        self.load_state_dict(state)

    def _description(self) -> dict[str, Any]:
        settings = dataclasses.asdict(self.settings)  # type: ignore[call-overload]
        plain: dict[str, Any] = json.loads(json.dumps({"type": self.kind, **settings}))
        return plain

    def _begin(self, body: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        if self._pending is None:
            rows, width, _ = kwargs["inputs_embeds"].shape
            text = PassLayout((-1,) * rows, (0,) * rows, width, (PlainText(width),) * rows)
            self.before(text, (None,) * rows)
        self._told, self._pending = self._pending, None
        positions = self.rotary_positions(kwargs.get("position_ids"))
        if positions is None:
            return None
        kwargs = {**kwargs, "position_ids": positions}
        if kwargs.get("attention_mask") is None:  # else transformers reads several texts in a row
            kwargs["attention_mask"] = torch.ones_like(positions, dtype=torch.bool)
        return args, kwargs

    def _layers(self, lm: Any) -> Sequence[Any]:
        layers = getattr(lm.base_model, "layers", ())
        if not layers or not all(hasattr(x, "self_attn") and hasattr(x, "mlp") for x in layers):
            raise ConfigError(
                f"language.{self.kind}: expected a language model with layers of self_attn and mlp "
                f"(Llama, Qwen, Mistral, Phi); {lm.config.model_type} has none: use lora"
            )
        if not all(p.is_floating_point() for p in lm.parameters()):
            raise ConfigError(
                f"language.{self.kind}: expected a language model that is not quantised; load it "
                "with quantization: null, or use lora"
            )
        chosen: Sequence[Any] = layers
        return chosen


def hidden_input(args: tuple[Any, ...], kwargs: dict[str, Any]) -> Tensor:
    """The hidden states [N, W, D] that a layer or one of its parts is called with."""
    hidden: Tensor = args[0] if args else kwargs["hidden_states"]
    return hidden


def with_input(args: tuple[Any, ...], kwargs: dict[str, Any], hidden: Tensor) -> Any:
    """The same call with other hidden states, as a forward pre-hook hands it back."""
    if args:
        return (hidden, *args[1:]), kwargs
    return args, {**kwargs, "hidden_states": hidden}


def every_kth(kind: str, every: int, layers: Sequence[Any]) -> list[Any]:
    """Layers k, 2k, ... counted from 1.

    Raises:
        ConfigError: the model has fewer than k.
    """
    if every > len(layers):
        raise ConfigError(
            f"language.{kind}.every: expected at most {len(layers)}, the model's layers; "
            f"got {every}"
        )
    return list(layers[every - 1 :: every])


def expect_positive(kind: str, settings: Any, *names: str) -> None:
    """Refuse numbers below 1.

    Raises:
        ConfigError: names the first.
    """
    for name in names:
        value = getattr(settings, name)
        if value is not None and value < 1:
            raise ConfigError(f"language.{kind}.{name}: expected 1 or more, got {value}")


def expect_dropout(kind: str, dropout: float) -> None:
    """Refuse a dropout that keeps nothing.

    Raises:
        ConfigError: it is not within [0, 1).
    """
    if not 0 <= dropout < 1:
        raise ConfigError(f"language.{kind}.dropout: expected 0 <= dropout < 1, got {dropout}")
