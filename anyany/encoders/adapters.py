"""What a bridge changes inside an encoder: nothing, low-rank updates per tile, or routed adapters.

`tile_lora` is Monkey's (2311.06607, section 3.1): every tile has its own low-rank update of the
tower's linear layers, the overview has none; all pass in one batch (peft's mixed batch, whose
`set_adapter` would train the last tile alone). `routed` is LaVIN's (2305.15023, section 3.2) on the
encoder's side.

Shapes: B items, T tokens, D tower width.
"""

from __future__ import annotations

import functools
import re
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Final, Literal

import torch
from torch import Tensor, nn

from anyany.errors import CheckpointError, ConfigError, UsageError

BASE: Final = "__base__"  # peft's name for "no update"
_OWN: Final = re.compile(r"(^|\.)(lora_A|lora_B|adapter)\.")  # names of an adapter's tensors


@dataclass(frozen=True)
class EncoderAdapterConfig:
    """What a bridge changes inside its encoders.

    Args:
        type: none, tile_lora or routed.
        r: rank, or width inside the routed adapter.
        alpha: low-rank updates are scaled by alpha / r.
        temperature: of the routed adapter's weights.
        target_modules: linear layers of a block that `tile_lora` updates.

    Raises:
        ConfigError: a value is out of range.
    """

    type: Literal["none", "tile_lora", "routed"] = "none"
    r: int = 16
    alpha: int = 16
    temperature: float = 10.0
    target_modules: tuple[str, ...] = ("out_proj", "fc1", "fc2")

    def __post_init__(self) -> None:
        for key in ("r", "alpha", "temperature"):
            if getattr(self, key) <= 0:
                raise ConfigError(
                    f"encoder_adapter: expected a positive {key}; got {getattr(self, key)}"
                )
        if not self.target_modules:
            raise ConfigError("encoder_adapter.target_modules: expected at least one module name")


class RoutedAdapter(nn.Module):
    """x + w0 B(Ax) + w1 C(Ax), w a softmax over what the first token says (LaVIN, equation 4).

    B and C begin at 0, so it begins as the identity.

    Args:
        dim: D.
        config: width inside, temperature.
    """

    def __init__(self, dim: int, config: EncoderAdapterConfig) -> None:
        super().__init__()
        self.temperature = config.temperature
        self.down = nn.Linear(dim, config.r)
        self.ups = nn.ModuleList(nn.Linear(config.r, dim) for _ in range(2))
        self.router = nn.Linear(dim, 2)
        for up in self.ups:
            nn.init.zeros_(up.weight)  # type: ignore[arg-type]
            nn.init.zeros_(up.bias)  # type: ignore[arg-type]

    def forward(self, tokens: Tensor) -> Tensor:
        """[B, T, D] -> [B, T, D]."""
        weights = (self.router(tokens[:, :1]) / self.temperature).softmax(dim=-1)  # [B, 1, 2]
        inner = self.down(tokens)
        ways = torch.stack([up(inner) for up in self.ups], dim=-1)  # [B, T, D, 2]
        output: Tensor = tokens + (ways * weights[:, :, None]).sum(dim=-1)
        return output


def install_adapter(
    tower: nn.Module, config: EncoderAdapterConfig, *, num_tiles: int
) -> nn.ModuleList:
    """Put the adapter into a transformer tower, once.

    Args:
        tower: with `blocks` that have `norm_1` and `norm_2` (`routed`), and linear layers.
        config: which one.
        num_tiles: tiles with updates of their own, `tile_0` onwards (`tile_lora`).

    Returns:
        Modules of its own that are to be registered (`routed`); low-rank updates live in the tower.

    Raises:
        ConfigError: no module has one of the target names.
    """
    if config.type == "tile_lora":
        _install_tile_lora(tower, config, num_tiles)
    own = nn.ModuleList()
    if config.type == "routed":
        weight = next(tower.parameters())
        for norm in _norms(tower):
            adapter = RoutedAdapter(int(norm.normalized_shape[0]), config)
            adapter.to(device=weight.device, dtype=weight.dtype)
            norm.register_forward_hook(functools.partial(_after, adapter))  # it can be copied
            own.append(adapter)
    return own


@contextmanager
def adapter_names_set(
    module: nn.Module, names: Sequence[str] | None, *, batch: Tensor
) -> Iterator[None]:
    """While this is open, every low-rank layer below `module` knows the items' updates.

    Without names, layers with updates run as their base does.

    Args:
        module: an encoder.
        names: B of `tile_name`; None = no updates.
        batch: [B, ...] or, with clips, [B, S, ...] of five axes or more; an item's clips share its
            update.

    Raises:
        UsageError: names are given and there are no updates.
    """
    layers = _lora_layers(module)
    if names is not None and not layers:
        raise UsageError("expected an encoder with low-rank updates: install_adapter puts them in")
    clips = batch.shape[1] if batch.ndim >= 5 else 1
    rows = [name for name in names or [BASE] * len(batch) for _ in range(clips)]

    def tell(layer: nn.Module, args: Any, kwargs: Mapping[str, Any]) -> Any:
        return args, {**kwargs, "adapter_names": rows}

    handles = [layer.register_forward_pre_hook(tell, with_kwargs=True) for layer in layers]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


def tile_name(number: int | None) -> str:
    """The update of the tile with that running number; None = of the whole item, which has none."""
    return BASE if number is None else f"tile_{number}"


def adapter_parameters(module: nn.Module) -> list[nn.Parameter]:
    """The parameters of encoder adapters alone."""
    return [parameter for name, parameter in module.named_parameters() if _OWN.search(name)]


def adapter_state(module: nn.Module) -> dict[str, Tensor]:
    """The tensors of encoder adapters alone, by their (first) names below `module`."""
    found: dict[int, tuple[str, Tensor]] = {}
    for name, tensor in module.state_dict().items():
        if _OWN.search(name):  # encoders may share a tower
            found.setdefault(tensor.data_ptr(), (name, tensor))
    return dict(found.values())


@torch.no_grad()
def load_adapter_state(module: nn.Module, state: Mapping[str, Tensor]) -> None:
    """Copy in what `adapter_state` gave: all of it and nothing else.

    Raises:
        CheckpointError: names or shapes differ from the adapter's.
    """
    own = adapter_state(module)
    wrong = sorted(own.keys() ^ state.keys())
    wrong += sorted(n for n in own.keys() & state.keys() if own[n].shape != state[n].shape)
    if wrong:
        raise CheckpointError(
            f"the encoder adapter's weights do not fit: {len(wrong)} tensors differ, first "
            f"{wrong[0]!r}"
        )
    for name, tensor in own.items():
        tensor.copy_(state[name])


def base_state(module: nn.Module) -> dict[str, Tensor]:
    """All other tensors, under the names that they had before an adapter was put in."""
    return {
        name.replace(".base_layer.", "."): tensor
        for name, tensor in module.state_dict().items()
        if not _OWN.search(name)
    }


def _install_tile_lora(tower: nn.Module, config: EncoderAdapterConfig, num_tiles: int) -> None:
    from peft import LoraConfig, inject_adapter_in_model

    names = {name.rpartition(".")[2] for name, _ in tower.named_modules()}
    if missing := sorted(set(config.target_modules) - names):
        raise ConfigError(
            f"encoder_adapter.target_modules: the encoder's tower has no {', '.join(missing)}"
        )
    before = {id(parameter): parameter.requires_grad for parameter in tower.parameters()}
    lora = LoraConfig(
        r=config.r,
        lora_alpha=config.alpha,
        lora_dropout=0.0,
        target_modules=list(config.target_modules),
    )
    with warnings.catch_warnings():  # several adapters are what is wanted
        warnings.filterwarnings("ignore", message="Already found a `peft_config` attribute")
        for number in range(num_tiles):
            inject_adapter_in_model(lora, tower, adapter_name=tile_name(number))
    tower.train(tower.training)
    for parameter in tower.parameters():  # peft freezes the base and all updates but one
        parameter.requires_grad_(before.get(id(parameter), True))


def _lora_layers(module: nn.Module) -> list[nn.Module]:
    return [layer for layer in module.modules() if hasattr(layer, "lora_A")]


def _norms(tower: nn.Module) -> list[Any]:
    blocks = tower.get_submodule("blocks")
    return [getattr(block, name) for block in blocks.children() for name in ("norm_1", "norm_2")]


def _after(adapter: RoutedAdapter, norm: nn.Module, args: Any, output: Tensor) -> Tensor:
    made: Tensor = adapter(output)
    return made
