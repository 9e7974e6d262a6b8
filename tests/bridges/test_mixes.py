"""Mixes of parts: any that can work does, and any other is refused before something loads."""

from __future__ import annotations

import itertools
import math
import random
from typing import Any, Final

import pytest
from recipe_toys import (
    SMALL,
    cached,
    clip,
    learn,
    photo,
    sound,
    stir,
    talk,
    toy_bridge,
    toy_imagebind,
    toy_language,
    uncached,
)

from anyany.bridges import BridgeRecipe, build_bridge, load_recipe, trainable_parameters
from anyany.config import from_dict
from anyany.encoders import MERGES, PROJECTORS
from anyany.errors import ConfigError
from anyany.language.adapters import ADAPTERS
from anyany.messages import Message, TextPart
from anyany.system_config import SystemConfig

SIZES: Final = {"num_queries": 4, "dim": 16, "num_heads": 2, "depth": 2, "max_words": 16}
TILERS: Final = ("single", "grid", "anyres", "uhd", "native")
OPTIONS: Final[dict[str, dict[str, Any]]] = {
    "none": {},
    "lora": {"r": 2, "dropout": 0.0},
    "gated_attention": {"every": 1, "ffn_dim": 16},
    "modality_adapter": {"r": 2, "dropout": 0.0},
    "modality_expert": {},
    "experts": {"num": 3, "top_k": 2, "every": 1, "capacity": None},
}
GROUPED: Final = {"dim": 16, "num_heads": 2, "depths": [1, 1], "num_groups": [4], "mlp_ratio": 2}


def mix(tiler: str, projector: str, merge: str, adapter: str, inside: str) -> dict[str, Any]:
    pixels = projector == "patch_linear"
    made: dict[str, Any] = {
        "name": "mix",
        "title": "Mix",
        "readout": "pixels" if pixels else "patches",
        "patch_size": 4 if pixels else 0,
        "tilers": {
            "image": {"type": tiler, "max_side": 32},
            "video": {"type": "frames", "num_tiles": 2, "frames_per_tile": 1},
        },
        "projector": {
            "type": projector, "hidden_dim": 8, "resampler": SIZES, "grouped": GROUPED
        },
        "merge": merge,
        "encoder_adapter": {"type": inside, "r": 2},
        "train": ["projector", *(["encoder_adapter"] if inside != "none" else [])],
    }  # fmt: skip
    if adapter != "none":
        made["adapter"] = {adapter: OPTIONS[adapter]}
        made["train"].append("adapter")
    return made


def can_work(tiler: str, projector: str, merge: str, adapter: str, inside: str) -> bool:
    """Said once more, from what the parts are."""
    rows = {"linear", "mlp", "mlp_norm", "bottleneck", "swiglu", "patch_linear"}
    return (
        (merge != "newline" or projector in rows)
        and (merge != "schema" or projector != "perceiver")
        and (inside == "none" or projector != "patch_linear")
        and (inside != "tile_lora" or tiler in ("grid", "anyres", "uhd"))
    )


ALL: Final = tuple(
    itertools.product(TILERS, PROJECTORS, MERGES, OPTIONS, ("none", "tile_lora", "routed"))
)


def sample(number: int, seed: int) -> list[tuple[str, ...]]:
    """Mixes that can work, every part of every kind among them."""
    draw = random.Random(seed)
    working = [one for one in ALL if can_work(*one)]
    draw.shuffle(working)
    chosen: list[tuple[str, ...]] = []
    missing = {part for one in working for part in enumerate(one)}
    while missing:  # whatever has most new parts first
        chosen.append(max(working, key=lambda one: len(missing & set(enumerate(one)))))
        missing -= set(enumerate(chosen[-1]))
    return (chosen + [one for one in working if one not in chosen])[: max(number, len(chosen))]


def check(parts: tuple[str, ...]) -> None:
    """Builds, runs forward and backward, learns, and decodes as an uncached forward does."""
    recipe = from_dict(mix(*parts), BridgeRecipe, source="mix")
    bridge = toy_bridge(recipe)
    trained = trainable_parameters(bridge, recipe)
    losses, still = learn(bridge, trained)
    assert all(math.isfinite(loss) for loss in losses)
    assert still <= set(bridge.without_gradient()), parts
    stir(bridge)
    bridge.eval()
    bridge.language.stop_ids = ()  # so that replies are long
    talks = [
        [Message("user", (photo(), TextPart("what is"), photo(24, 60, seed=1), TextPart("this")))],
        [
            *talk(clip(3), answer="a red bell ."),
            Message("user", (sound(), TextPart("and then ?"))),
        ],
    ]
    for messages in talks:
        assert cached(bridge, messages) == uncached(bridge, messages), parts


@pytest.mark.parametrize("parts", sample(0, seed=0), ids=" ".join)
def test_mixes_that_can_work_do(parts: tuple[str, ...]) -> None:
    check(parts)


@pytest.mark.slow
@pytest.mark.parametrize("parts", sample(150, seed=1), ids=" ".join)
def test_many_mixes_that_can_work_do(parts: tuple[str, ...]) -> None:
    check(parts)


def test_all_other_mixes_are_refused_when_they_are_read() -> None:
    for parts in ALL:
        if parts[3] != "none":  # what hangs in the language model goes with all others
            continue
        line = _refusal(parts)
        assert (line is None) == can_work(*parts), (parts, line)
        assert line is None or (" does not go with " in line and "\n" not in line)


def _refusal(parts: tuple[str, ...]) -> str | None:
    try:
        from_dict(mix(*parts), BridgeRecipe, source="mix")
    except ConfigError as error:
        return str(error)
    return None


REFUSED: Final[tuple[tuple[dict[str, Any], str], ...]] = (
    (
        {"tilers": {"video": {"type": "uhd"}}},
        "tiler uhd does not go with modality video, as it cuts image: "
        "take a tiler among single, frames for video",
    ),
    (
        {"tilers": {"image": {"type": "frames"}}},
        "tiler frames does not go with modality image, as it cuts video: "
        "take a tiler among single, grid, anyres, uhd, native for image",
    ),
    (
        {"projector": {"type": "qformer"}, "merge": "newline"},
        "merge newline does not go with projector qformer, which leaves no rows of patches to "
        "end: take merge flat or schema, or a projector among linear",
    ),
    (
        {
            "projector": {"type": "perceiver"},
            "merge": "schema",
            "tilers": {"image": {"type": "grid"}},
        },
        "merge schema does not go with projector perceiver, which makes one piece of all tiles: "
        "take merge flat, or a projector among",
    ),
    (
        {"merge": "schema"},
        "merge schema does not go with tiler single, which leaves nothing to stand between: "
        "take merge flat, or a tiler that cuts",
    ),
    (
        {"readout": "pooled", "merge": "newline"},
        "merge newline does not go with read-out pooled of the image encoder, which has no rows "
        "of patches: take merge flat, or a read-out among patches, penultimate, pixels",
    ),
    (
        {"projector": {"type": "patch_linear"}},
        "projector patch_linear does not go with read-out patches of the image encoder, as it "
        "maps raw patches: take read-out pixels, or projector linear",
    ),
    (
        {"readout": "pixels", "patch_size": 4, "encoder_adapter": {"type": "routed"}},
        "encoder_adapter routed does not go with read-out pixels of image, where there is no "
        "encoder to change: take encoder_adapter none, or another read-out",
    ),
    (
        {"readout": "pixels"},
        "read-out pixels does not go with patch_size 0: give the side of a patch in pixels",
    ),
    (
        {"encoder_adapter": {"type": "tile_lora"}},
        "encoder_adapter tile_lora does not go with the tilers, of which none cuts pictures: "
        "take tiler grid, anyres or uhd for images, or encoder_adapter none or routed",
    ),
    (
        {"adapter": {"lora": {}, "experts": {}}},
        "adapter.lora and adapter.experts: expected one adapter at most: set either to null",
    ),
    (
        {"train": ["adapter"]},
        "train adapter does not go with a recipe that has none: leave adapter out of train, or "
        "give the recipe one",
    ),
    (
        {"train": ["encoder"], "readout": "pixels", "patch_size": 4},
        "train encoder does not go with a recipe that has none",
    ),
    (
        {"train": ["language"], "adapter": {"lora": {}}},
        "train language does not go with adapter lora, whose base stays as it is: leave language "
        "out of train, or set adapter.lora to null",
    ),
    ({"train": []}, "train: expected at least one part"),
    ({"tilers": {"smell": {}}}, "tilers: expected modalities among image, video, audio"),
)


@pytest.mark.parametrize(("parts", "line"), REFUSED)
def test_a_refusal_names_both_parts_and_the_fix(parts: dict[str, Any], line: str) -> None:
    with pytest.raises(ConfigError) as told:
        from_dict({"name": "mine", "title": "Mine", **parts}, BridgeRecipe, source="mine.yaml")
    assert line in str(told.value)
    assert "\n" not in str(told.value)


def test_a_systems_configuration_is_refused_before_anything_loads() -> None:
    system: dict[str, Any] = {
        "name": "toy",
        "encoder": {
            "imagebind": {"embed_dim": 16, "vision": {"dim": 8, "num_heads": 2}},
            "modalities": ["image"],
            "readout": "patches",
        },
        "bridge": {"projector": {"encoder_dim": 16, "language_dim": 16}},
        "language": {"source": "nowhere"},
    }

    def told(**changes: Any) -> str:
        changed = {**system, "bridge": {**system["bridge"], **changes.pop("bridge", {})}}
        changed["encoder"] = {**system["encoder"], **changes}
        with pytest.raises(ConfigError) as error:
            from_dict(changed, SystemConfig, source="config.json")
        return str(error.value)

    from_dict(system, SystemConfig, source="config.json")
    assert "merge newline does not go with read-out pooled" in told(
        readout="pooled", bridge={"merge": "newline"}
    )
    assert "encoder_dim to that; got 16" in told(readout="penultimate")
    assert "audio does not go with encoder.imagebind, which has no audio tower" in told(
        modalities=["image", "audio"]
    )
    assert "readout pixels does not go with encoder.patch_size 0" in told(readout="pixels")
    assert "bridge.tilers: expected modalities among image; got 'video'" in told(
        bridge={"tilers": {"video": {"type": "frames"}}}
    )


def test_what_only_the_models_show_is_refused_in_one_line() -> None:
    recipe = load_recipe("flamingo")
    language = toy_language()
    build_bridge(
        from_dict(mix("single", "linear", "flat", "experts", "none"), BridgeRecipe, source="mix"),
        toy_imagebind(),
        language,
        preprocessing=SMALL,
    )
    with pytest.raises(ConfigError, match="gated_attention does not go with a language model that"):
        build_bridge(recipe, toy_imagebind(), language, preprocessing=SMALL)
    with pytest.raises(ConfigError, match="expected an ImageBind; got none"):
        build_bridge(recipe, None, toy_language(), preprocessing=SMALL)
    assert set(OPTIONS) == {"none", *ADAPTERS}  # none is forgotten above
