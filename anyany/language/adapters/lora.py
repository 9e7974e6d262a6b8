"""Low-rank updates (LoRA): peft's, put in place by `inject_adapter_in_model`.

Kept on disk as a standard peft folder; merged into the base for inference without overhead.
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import torch
from torch import Tensor, nn

from anyany.errors import CheckpointError, ConfigError, UsageError
from anyany.language.adapters.seam import ADAPTER_CONFIG, ADAPTER_WEIGHTS, NoAdapter

_PEFT_PREFIX: Final = "base_model.model."  # how peft's own folders name a wrapped model's modules


@dataclass(frozen=True)
class LoraSettings:
    """Low-rank updates (Hu et al. 2021) of the model's linear layers.

    Args:
        r: rank.
        alpha: the update is scaled by alpha / r.
        dropout: on the update's input, in training.
        target_modules: the linear layers by the last part of their names; kept sorted.

    Raises:
        ConfigError: a value is out of range.
    """

    r: int = 32
    alpha: int = 32
    dropout: float = 0.1
    target_modules: tuple[str, ...] = ("q_proj", "k_proj", "v_proj", "o_proj")

    def __post_init__(self) -> None:
        if self.r < 1:
            raise ConfigError(f"lora.r: expected a rank of 1 or more, got {self.r}")
        if not 0 <= self.dropout < 1:
            raise ConfigError(f"lora.dropout: expected 0 <= dropout < 1, got {self.dropout}")
        if not self.target_modules:
            raise ConfigError("lora.target_modules: expected at least one module name")
        object.__setattr__(self, "target_modules", tuple(sorted(self.target_modules)))


class LoraAdapter(NoAdapter):
    """LoRA by peft, in the model's own linear layers.

    Args:
        settings: rank, scale, dropout and targets.
    """

    def __init__(self, settings: LoraSettings) -> None:
        self.settings = settings
        self.merged = False
        self._sites: dict[str, _Site] = {}

    def install(self, lm: nn.Module) -> None:
        """Inject the updates, beginning at zero; other parameters' `requires_grad` stays as it was.

        Raises:
            ConfigError: no module has one of the target names.
            UsageError: it is installed already.
        """
        if self._sites:
            raise UsageError("this adapter is installed already: make a new one for another model")
        from peft import inject_adapter_in_model
        from peft.tuners.lora import LoraLayer

        before = {id(parameter): parameter.requires_grad for parameter in lm.parameters()}
        names = {name.rpartition(".")[2] for name, _ in lm.named_modules()}
        missing = sorted(set(self.settings.target_modules) - names)
        if missing:
            raise ConfigError(f"lora.target_modules: the model has no {', '.join(missing)}")
        inject_adapter_in_model(self._peft_config(), lm)
        lm.train(lm.training)  # the new layers begin in training mode, dropout on
        for parameter in lm.parameters():
            parameter.requires_grad_(before.get(id(parameter), True))
        for name, module in list(lm.named_modules()):
            if isinstance(module, LoraLayer):
                parent, _, child = name.rpartition(".")
                self._sites[name] = _Site(lm.get_submodule(parent), child, module)

    def trainable(self) -> Iterable[nn.Parameter]:
        """The matrices A and B of every site."""
        for site in self._sites.values():
            yield site.lora_a.weight
            yield site.lora_b.weight

    def state_dict(self) -> dict[str, Tensor]:
        """The matrices under the names of a peft folder."""
        state: dict[str, Tensor] = {}
        for name, site in self._sites.items():
            state[f"{_PEFT_PREFIX}{name}.lora_A.weight"] = site.lora_a.weight
            state[f"{_PEFT_PREFIX}{name}.lora_B.weight"] = site.lora_b.weight
        return state

    def base_state(self, lm: nn.Module) -> dict[str, Tensor]:
        """The model's own tensors, under the names and with the values that they had before.

        Raises:
            CheckpointError: the updates are merged into them, and they were not kept.
        """
        state = {
            name.replace(".base_layer.", "."): tensor
            for name, tensor in lm.state_dict().items()
            if ".lora_" not in name
        }
        if not self.merged:
            return state
        for name, site in self._sites.items():
            if site.kept is None:
                raise CheckpointError("the base is gone: LoRA was merged with keep_base=False")
            state[f"{name}.weight"] = site.kept
        return state

    @torch.no_grad()
    def load_state_dict(self, state: dict[str, Tensor]) -> None:
        """Copy matrices in, all of them and no others.

        Raises:
            CheckpointError: names or shapes differ from this adapter's.
        """
        own = self.state_dict()
        if wrong := sorted(own.keys() ^ state.keys()):
            raise CheckpointError(
                f"the adapter's weights do not fit: {len(wrong)} names differ, first {wrong[0]}"
            )
        for name, parameter in own.items():
            if parameter.shape != state[name].shape:
                raise CheckpointError(
                    f"the adapter's weights do not fit: {name} is {tuple(state[name].shape)}, "
                    f"expected {tuple(parameter.shape)}"
                )
            parameter.copy_(state[name])

    def save(self, folder: str | Path) -> None:
        """Write a standard peft folder: adapter_config.json and adapter_model.safetensors."""
        from safetensors.torch import save_file

        folder = Path(folder)
        folder.mkdir(parents=True, exist_ok=True)
        state = {name: tensor.detach().contiguous() for name, tensor in self.state_dict().items()}
        save_file(state, folder / ADAPTER_WEIGHTS, metadata={"format": "pt"})
        self._peft_config(inference_mode=True).save_pretrained(str(folder))

    def load(self, folder: str | Path) -> None:
        """Read a peft folder into the installed adapter.

        Raises:
            CheckpointError: the file is missing or does not fit.
        """
        from safetensors.torch import load_file

        path = Path(folder) / ADAPTER_WEIGHTS
        if not path.is_file():
            raise CheckpointError(f"missing {ADAPTER_WEIGHTS} in {Path(folder).name!r}")
        if read_settings(folder) != self.settings:
            raise CheckpointError(
                f"the adapter in {Path(folder).name!r} was made as {read_settings(folder)}, "
                f"expected {self.settings}"
            )
        self.load_state_dict(load_file(path))

    @torch.no_grad()
    def merge(self, *, keep_base: bool = True) -> None:
        """Fold the updates into the base matrices: inference without overhead.

        Args:
            keep_base: keep a copy of the base matrices, so that `unmerge` restores every bit.

        Raises:
            UsageError: the base is quantised, or merged already.
        """
        if self.merged:
            raise UsageError("the adapter is merged already")
        if any(not site.base.weight.is_floating_point() for site in self._sites.values()):
            raise UsageError("a quantised base cannot take the adapter in: leave it unmerged")
        for site in self._sites.values():
            site.kept = site.base.weight.detach().clone() if keep_base else None
            site.layer.merge()
            setattr(site.parent, site.child, site.base)
        self.merged = True

    @torch.no_grad()
    def unmerge(self) -> None:
        """Undo `merge`, bit for bit.

        Raises:
            UsageError: it is not merged, or the base was not kept.
        """
        if not self.merged or any(site.kept is None for site in self._sites.values()):
            raise UsageError("only an adapter merged with keep_base=True can be unmerged")
        for site in self._sites.values():
            assert site.kept is not None
            site.layer.merged_adapters.clear()
            site.base.weight.copy_(site.kept)
            site.kept = None
            setattr(site.parent, site.child, site.layer)
        self.merged = False

    def _peft_config(self, *, inference_mode: bool = False) -> Any:
        from peft import LoraConfig

        return LoraConfig(
            r=self.settings.r,
            lora_alpha=self.settings.alpha,
            lora_dropout=self.settings.dropout,
            target_modules=list(self.settings.target_modules),
            task_type="CAUSAL_LM",
            inference_mode=inference_mode,
        )


@dataclass
class _Site:
    """One adapted linear layer: where it hangs, peft's wrapper, and the base while merged."""

    parent: nn.Module
    child: str
    layer: Any
    kept: Tensor | None = None

    @property
    def base(self) -> Any:
        return self.layer.get_base_layer()

    @property
    def lora_a(self) -> Any:
        return self.layer.lora_A["default"]

    @property
    def lora_b(self) -> Any:
        return self.layer.lora_B["default"]


def read_settings(folder: str | Path) -> LoraSettings:
    """The settings of a peft folder on disk.

    Raises:
        CheckpointError: no adapter_config.json, or not of a plain LoRA.
    """
    path = Path(folder) / ADAPTER_CONFIG
    if not path.is_file():
        raise CheckpointError(f"missing {ADAPTER_CONFIG} in {Path(folder).name!r}")
    try:
        stored = json.loads(path.read_text(encoding="utf-8"))
        targets = stored["target_modules"]
        if stored["peft_type"] != "LORA" or stored.get("use_dora") or isinstance(targets, str):
            raise CheckpointError(
                f"expected a plain LoRA with named target modules in {path.name}, "
                f"got peft_type {stored['peft_type']!r}"
            )
        return LoraSettings(
            r=stored["r"],
            alpha=stored["lora_alpha"],
            dropout=stored["lora_dropout"],
            target_modules=tuple(sorted(targets)),
        )
    except (KeyError, TypeError, json.JSONDecodeError) as error:
        raise CheckpointError(f"{path.name} is not a peft adapter's configuration") from error
