"""A bridge as data: one of `configs/bridges`, or a file of one's own, over any encoder and model.

A recipe names parts and their sizes and no width of a particular model: those come from the
encoder and the language model that it is built over. A mix of parts that cannot work is refused
when the recipe is read.

Shapes: E encoder width, D language width.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from importlib.resources import as_file, files
from pathlib import Path
from typing import Literal, TypeAlias, cast

from torch import nn

from anyany.bridges.bridge import Bridge
from anyany.bridges.config import BridgeConfig, check_mix
from anyany.config import load_config
from anyany.encoders import (
    Encoder,
    EncoderAdapterConfig,
    GroupedConfig,
    ImageBind,
    PreprocessingConfig,
    ProjectorConfig,
    Readout,
    ResamplerConfig,
    TilerConfig,
    adapter_parameters,
    build_encoder,
)
from anyany.encoders.projectors.base import ProjectorType
from anyany.errors import ConfigError
from anyany.language import (
    ExpertsSettings,
    GatedAttentionSettings,
    LanguageConfig,
    LanguageModel,
    LoraSettings,
    ModalityAdapterSettings,
    ModalityExpertSettings,
)
from anyany.language.adapters import ADAPTERS, NoAdapter, build_adapter, chosen_adapter
from anyany.messages import MEDIA_MODALITIES

TrainedPart: TypeAlias = Literal["projector", "adapter", "encoder_adapter", "encoder", "language"]


@dataclass(frozen=True)
class AdapterConfig:
    """What a recipe changes inside the language model: one of these at most.

    Args:
        lora: low-rank updates, or None.
        gated_attention: gated cross-attention to the media, or None.
        modality_adapter: bottlenecks mixed by a modality token, or None.
        modality_expert: weights of their own for the tokens of media, or None.
        experts: several feed-forward parts and a router, or None.

    Raises:
        ConfigError: two are given.
    """

    lora: LoraSettings | None = None
    gated_attention: GatedAttentionSettings | None = None
    modality_adapter: ModalityAdapterSettings | None = None
    modality_expert: ModalityExpertSettings | None = None
    experts: ExpertsSettings | None = None

    def __post_init__(self) -> None:
        chosen_adapter(self, where="adapter")  # refuses two

    @property
    def kind(self) -> str | None:
        """The name of the one that is given."""
        return chosen_adapter(self, where="adapter")

    def put_into(self, config: LanguageConfig) -> LanguageConfig:
        """The same language model with this adapter and no other."""
        return replace(config, **{name: getattr(self, name) for name in ADAPTERS})


@dataclass(frozen=True)
class RecipeProjector:
    """An input projector but for the widths of encoder and language model; see `ProjectorConfig`.

    Args:
        type: a key of PROJECTORS.
        hidden_dim: width inside "bottleneck" and "swiglu"; 0 = 128 and 2 D.
        resampler: sizes of the types with learnt queries.
        grouped: sizes of the type "grouped".
    """

    type: ProjectorType = "linear"
    hidden_dim: int = 0
    resampler: ResamplerConfig = field(default_factory=ResamplerConfig)
    grouped: GroupedConfig = field(default_factory=GroupedConfig)

    def between(self, encoder_dim: int, language_dim: int) -> ProjectorConfig:
        """With widths E and D."""
        return ProjectorConfig(
            self.type,
            encoder_dim,
            language_dim,
            grouped=self.grouped,
            hidden_dim=self.hidden_dim,
            resampler=self.resampler,
        )


@dataclass(frozen=True)
class BridgeRecipe:
    """One way to bring media to a language model, and what of it learns.

    Args:
        name: as in `configs/bridges`.
        title: for people.
        source: its paper's arXiv id, or its address.
        readout: what the encoder hands over.
        class_every: blocks from one class token to the next ("classes").
        patch_size: pixels ("pixels").
        tilers: modality -> how an item is cut; "single" where none is given.
        projector: type and sizes.
        merge: how the tiles' tokens are joined.
        sharing: one projector for all modalities, or one each.
        encoder_adapter: what is changed inside the encoder.
        adapter: what is changed inside the language model.
        train: the parts that learn.
        lr: learning rate.
        data: what it learns from: captions, or questions about a picture.
        text_share: of plain text among what it learns from, where there is some.

    Raises:
        ConfigError: two parts do not go together; the line names them and the fix.
    """

    name: str
    title: str
    source: str = ""
    readout: Readout = "patches"
    class_every: int = 4
    patch_size: int = 0
    tilers: dict[str, TilerConfig] = field(default_factory=dict)
    projector: RecipeProjector = field(default_factory=RecipeProjector)
    merge: str = "flat"
    sharing: Literal["shared", "each"] = "shared"
    encoder_adapter: EncoderAdapterConfig = field(default_factory=EncoderAdapterConfig)
    adapter: AdapterConfig = field(default_factory=AdapterConfig)
    train: tuple[TrainedPart, ...] = ("projector",)
    lr: float = 1e-3
    data: Literal["captions", "questions"] = "captions"
    text_share: float = 0.0

    def __post_init__(self) -> None:
        strange = sorted(set(self.tilers) - set(MEDIA_MODALITIES))
        if strange:
            raise ConfigError(
                f"tilers: expected modalities among {', '.join(MEDIA_MODALITIES)}; "
                f"got {strange[0]!r}"
            )
        if self.readout == "pixels" and self.patch_size < 1:
            raise ConfigError(
                f"bridge: read-out pixels does not go with patch_size {self.patch_size}: give the "
                "side of a patch in pixels"
            )
        if self.lr <= 0:
            raise ConfigError(f"lr: expected more than 0; got {self.lr}")
        if not 0 <= self.text_share < 1:
            raise ConfigError(f"text_share: expected from 0 to below 1; got {self.text_share}")
        check_mix(self.bridge_config(1, 1), dict.fromkeys(MEDIA_MODALITIES, self.readout))
        _check_train(self)

    def bridge_config(self, encoder_dim: int, language_dim: int) -> BridgeConfig:
        """Its bridge between an encoder of width E and a language model of width D."""
        return BridgeConfig(
            self.projector.between(encoder_dim, language_dim),
            sharing=self.sharing,
            tilers=self.tilers,
            merge=self.merge,
            encoder_adapter=self.encoder_adapter,
        )


def recipe_names() -> list[str]:
    """The names of the recipes that ship with the package."""
    folder = files("anyany") / "configs" / "bridges"
    return sorted(
        path.name.removesuffix(".yaml") for path in folder.iterdir() if path.name.endswith(".yaml")
    )


def load_recipe(name: str | Path) -> BridgeRecipe:
    """Read a recipe.

    Args:
        name: one of `recipe_names`, or a YAML file.

    Raises:
        ConfigError: there is none, or its parts do not go together.
    """
    if str(name).endswith((".yaml", ".yml")):
        return load_config(name, BridgeRecipe)
    if str(name) not in recipe_names():
        raise ConfigError(
            f"expected a bridge among {', '.join(recipe_names())}, or a YAML file; "
            f"got {str(name)!r}"
        )
    with as_file(files("anyany") / "configs" / "bridges" / f"{name}.yaml") as path:
        return load_config(path, BridgeRecipe)


def build_bridge(
    recipe: BridgeRecipe,
    imagebind: ImageBind | None,
    language: LanguageModel,
    modalities: Sequence[str] = ("image",),
    *,
    preprocessing: PreprocessingConfig | None = None,
) -> Bridge:
    """Build a recipe's bridge over an encoder and a language model.

    Adapters are put into both; give copies to keep them as they are. Sizes are the recipe's own:
    `fitted` cuts them to a small model.

    Args:
        recipe: what to build.
        imagebind: the encoder; None where the recipe reads pixels.
        language: the language model, without an adapter.
        modalities: media that come in.
        preprocessing: sizes that the encoder's towers need.

    Raises:
        ConfigError: parts, modalities or widths do not fit one another, or the language model has
            an adapter already.
    """
    encoders = {
        modality: build_encoder(
            imagebind,
            modality,
            readout=recipe.readout,
            class_every=recipe.class_every,
            patch_size=recipe.patch_size,
            preprocessing=preprocessing,
        )
        for modality in modalities
    }
    widths = {encoder.encoder_dim for encoder in encoders.values()}
    if len(widths) != 1:
        raise ConfigError(
            f"bridge: read-out {recipe.readout} does not go with modalities "
            f"{', '.join(modalities)}, whose encoders are {sorted(widths)} wide: take read-out "
            "patches or pooled, or one modality"
        )
    config = recipe.bridge_config(widths.pop(), language.language_dim)
    tilers = {name: tiler for name, tiler in config.tilers.items() if name in encoders}
    _put_in(recipe.adapter, language)
    return Bridge(encoders, language, replace(config, tilers=tilers))


def fitted(recipe: BridgeRecipe, imagebind: ImageBind, language: LanguageModel) -> BridgeRecipe:
    """The recipe with sizes cut to small models: the same parts, none of them out of proportion.

    Insides are no wider or deeper than the language model, queries half as many as the patches of a
    picture, patches no larger than the encoder's.

    Args:
        recipe: with the paper's sizes.
        imagebind: the encoder, with a vision tower.
        language: the language model.
    """
    vision, lm = imagebind.config.vision, language.lm.config
    assert vision is not None, "recipes are fitted to an encoder that sees"
    layers, width = int(lm.num_hidden_layers), language.language_dim
    sizes = recipe.projector.resampler
    queries = min(sizes.num_queries, max(vision.grid[0] * vision.grid[1] // 2, 1))
    if recipe.projector.type == "position2d":
        queries = int(queries**0.5) ** 2
    sizes = replace(sizes, num_queries=queries, depth=min(sizes.depth, layers))
    if sizes.dim > width:
        heads = math.gcd(width, int(lm.num_attention_heads))
        sizes = replace(sizes, dim=width, num_heads=heads)
    longest = 4 * vision.image_size
    tilers = {
        name: replace(tiler, max_side=min(tiler.max_side, longest))
        for name, tiler in recipe.tilers.items()
    }
    adapter = recipe.adapter
    if adapter.gated_attention is not None:
        every = min(adapter.gated_attention.every, max(layers // 2, 1))
        gated = replace(adapter.gated_attention, every=every)
        adapter = replace(adapter, gated_attention=gated)
    return replace(
        recipe,
        class_every=min(recipe.class_every, max(vision.num_blocks // 4, 1)),
        patch_size=min(recipe.patch_size, vision.patch_size),
        tilers=tilers,
        projector=replace(recipe.projector, resampler=sizes),
        adapter=adapter,
    )


def trainable_parameters(bridge: Bridge, recipe: BridgeRecipe) -> dict[str, nn.Parameter]:
    """Freeze all that the recipe does not train, and give what it does by its name in the bridge.

    Args:
        bridge: built from the recipe.
        recipe: whose `train` decides.
    """
    chosen: set[int] = set()
    for part in recipe.train:
        chosen |= {id(parameter) for parameter in _parameters_of(bridge, part)}
    found: dict[str, nn.Parameter] = {}
    for name, parameter in bridge.named_parameters():
        parameter.requires_grad_(id(parameter) in chosen)
        if id(parameter) in chosen:
            found[name] = parameter
    return found


def _parameters_of(bridge: Bridge, part: str) -> list[nn.Parameter]:
    if part == "projector":
        return list(bridge.projectors.parameters())
    updates = adapter_parameters(bridge.encoders)
    if part == "encoder_adapter":
        return updates
    if part == "encoder":
        apart = {id(p) for p in updates}
        encoders = [cast(Encoder, encoder) for encoder in bridge.encoders.values()]
        return [p for one in encoders for p in one.own_parameters() if id(p) not in apart]
    own = list(bridge.language.adapter.trainable())
    if part == "adapter":
        return own
    known = {id(p) for p in own}
    return [p for p in bridge.language.lm.parameters() if id(p) not in known]


def _check_train(recipe: BridgeRecipe) -> None:
    missing = {
        "adapter": recipe.adapter.kind is None,
        "encoder_adapter": recipe.encoder_adapter.type == "none",
        "encoder": recipe.readout == "pixels",
    }
    for part in recipe.train:
        if missing.get(part):
            raise ConfigError(
                f"bridge: train {part} does not go with a recipe that has none: leave {part} out "
                f"of train, or give the recipe one"
            )
    if not recipe.train:
        raise ConfigError("train: expected at least one part; got none")
    if "language" in recipe.train and recipe.adapter.lora is not None:
        raise ConfigError(
            "bridge: train language does not go with adapter lora, whose base stays as it is: "
            "leave language out of train, or set adapter.lora to null"
        )


def _put_in(config: AdapterConfig, language: LanguageModel) -> None:
    adapter = language.adapter
    if type(adapter) is not NoAdapter:
        wanted = config.put_into(language.config)
        if wanted == language.config and config.kind is not None:
            return
        raise ConfigError(
            f"bridge: adapter {config.kind or 'none'} does not go with a language model that has "
            f"{chosen_adapter(language.config) or 'one'} already: give a model without an adapter"
        )
    language.config = config.put_into(language.config)
    language.adapter = build_adapter(language.config)
    language.adapter.install(language.lm)
