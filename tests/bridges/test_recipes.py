"""The recipes that ship: each builds, learns, is saved and loaded, and speaks."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from recipe_toys import (
    ARCHITECTURE,
    IMAGEBIND,
    LANGUAGE,
    MEDIA,
    SMALL,
    clip,
    learn,
    photo,
    read,
    stir,
    talk,
    toy_bridge,
    toy_imagebind,
    toy_language,
)

from anyany import AnyToAny
from anyany.bridges import (
    BridgeConfig,
    BridgeRecipe,
    build_bridge,
    fitted,
    load_recipe,
    recipe_names,
    trainable_parameters,
)
from anyany.config import from_dict, to_dict
from anyany.encoders import ProjectorConfig
from anyany.errors import ConfigError
from anyany.system_config import EncoderConfig, SystemConfig, with_recipe

NAMES = recipe_names()
KINDS_OF_FILES = ("lavin", "monkey", "nextgpt", "otterhd")  # the others have no file of their own
# Tokens of a picture of 40 x 26 pixels, of five seconds of video at a frame a second, and of a
# second of sound. A view of 16 x 16 pixels has 4 x 4 patches, of sound 2 x 4.
TOKENS = {
    "blip2": (8, 8, 8),
    "cogvlm": (16, 16, 8),
    "flamingo": (8, 8, 8),
    "instructblip": (8, 8, 8),
    "lavin": (2, 2, 2),
    "llama-vid": (2, 5 * 2, 2),
    "llava": (16, 16, 8),
    "llava-1.5": (16, 16, 8),
    # 40 x 26 in 32 x 32 pixels, of 8 x 8 patches: 6 rows with some picture, a newline after each
    "llava-next": (16 + 6 * (8 + 1), 4 * (4 + 1), 2 * (4 + 1)),
    # 3 x 2 slices of about 16 x 16 pixels and the whole, a separator after each slice
    "llava-uhd": ((3 * 2 + 1) * 4 + 3 * 2, 4, 4),
    "moe-llava": (16, 16, 8),
    "monkey": (5 * 4, 4, 4),
    "nextgpt": (1, 1, 1),
    "otterhd": (7 * (10 + 1), 4 * (4 + 1), 4 * (8 + 1)),
    "qwen-vl": (4, 4, 4),
    "xcomposer": (8, 8, 8),
    "yi-vl": (16, 16, 8),
}


def test_seventeen_systems_have_a_mechanism_of_their_own() -> None:
    assert sorted(TOKENS) == NAMES
    for name in NAMES:
        recipe = load_recipe(name)
        assert recipe.name == name
        assert recipe.title
        assert recipe.source
        assert from_dict(to_dict(recipe), BridgeRecipe, source="memory") == recipe


@pytest.mark.parametrize("name", NAMES)
def test_every_recipe_learns_and_every_parameter_of_it(name: str) -> None:
    recipe = load_recipe(name)
    bridge = toy_bridge(recipe)
    trained = trainable_parameters(bridge, recipe)
    assert trained
    assert {n for n, p in bridge.named_parameters() if p.requires_grad} == set(trained)
    losses, still = learn(bridge, trained)
    assert all(math.isfinite(loss) for loss in losses)
    assert len(set(losses)) == len(losses)
    told = bridge.without_gradient()
    assert still <= set(told), sorted(still - set(told))
    assert all(told.values())


@pytest.mark.parametrize("name", NAMES)
def test_tokens_of_every_recipe(name: str) -> None:
    bridge = toy_bridge(load_recipe(name)).eval()
    with torch.no_grad():
        made = tuple(read(bridge, talk(part))[0].shape for part in MEDIA.values())
    assert made == tuple((count, 16) for count in TOKENS[name])


def small_system(recipe: BridgeRecipe) -> AnyToAny:
    """A system of toy parts with the recipe's bridge, moved from where it begins."""
    encoder = EncoderConfig(IMAGEBIND, preprocessing=SMALL)
    plain = SystemConfig(
        "toy", encoder, BridgeConfig(ProjectorConfig(encoder_dim=16, language_dim=16)), LANGUAGE
    )
    imagebind, language = toy_imagebind(), toy_language()
    small = fitted(recipe, imagebind, language)
    config = with_recipe(plain, small)
    torch.manual_seed(2)
    bridge = build_bridge(
        small, imagebind, language, config.encoder.modalities, preprocessing=SMALL
    )
    stir(bridge)
    return AnyToAny(config, bridge, {}, {})


@pytest.mark.parametrize(
    "name",
    [
        pytest.param(name, marks=() if name in KINDS_OF_FILES else pytest.mark.slow)
        for name in NAMES
    ],
)
def test_a_system_with_any_recipe_is_saved_loaded_and_speaks(name: str, tmp_path: Path) -> None:
    system = small_system(load_recipe(name))
    prompt = ["what is this ?", photo(), clip()]
    asked: dict[str, Any] = {"outputs": {"text"}, "max_new_tokens": 6, "seed": 1}
    first = system.generate(prompt, **asked)
    system.save_pretrained(tmp_path)
    again = AnyToAny.from_pretrained(tmp_path, device="cpu", threads=None)
    assert to_dict(again.config.bridge) == to_dict(system.config.bridge)
    assert again.num_parameters() == system.num_parameters()
    assert again.generate(prompt, **asked).token_ids == first.token_ids
    with torch.no_grad():
        media = talk(photo(), clip(), MEDIA["audio"])
        for index, rows in read(system.bridge, media).items():
            torch.testing.assert_close(read(again.bridge, media)[index], rows)


def test_a_system_yaml_of_a_recipe_builds_with_random_weights(tmp_path: Path) -> None:
    from omegaconf import OmegaConf

    system = small_system(load_recipe("monkey"))
    config = replace(
        system.config,
        language_architecture={**ARCHITECTURE, "model_type": "llama", "vocab_size": 300},
    )
    path = tmp_path / "monkey.yaml"
    OmegaConf.save(OmegaConf.create(to_dict(config)), path)
    made = AnyToAny.from_pretrained(path, weights="dummy", device="cpu", threads=None)
    counts = made.num_parameters()
    assert counts["encoder_adapter"] == system.num_parameters()["encoder_adapter"] > 0
    assert made.generate(["a", photo()], outputs={"text"}, max_new_tokens=3, seed=1).token_ids


def test_a_recipe_of_ones_own_and_wrong_names(tmp_path: Path) -> None:
    path = tmp_path / "mine.yaml"
    path.write_text("name: mine\ntitle: Mine\nprojector: {type: mlp}\nmerge: newline\n")
    recipe = load_recipe(path)
    assert recipe.merge == "newline"
    assert recipe.train == ("projector",)
    with pytest.raises(ConfigError, match=r"expected a bridge among blip2, .*; got 'lava'"):
        load_recipe("lava")
    path.write_text("name: mine\ntitle: Mine\nprojektor: {type: mlp}\n")
    with pytest.raises(ConfigError, match="unknown key 'projektor'; nearest valid key"):
        load_recipe(path)
    path.write_text("name: mine\ntitle: Mine\ntext_share: 1.0\n")
    with pytest.raises(ConfigError, match=r"text_share: expected from 0 to below 1; got 1\.0"):
        load_recipe(path)


def test_fitted_leaves_what_is_small_enough() -> None:
    imagebind, language = toy_imagebind(), toy_language()
    small = fitted(load_recipe("qwen-vl"), imagebind, language)
    assert fitted(small, imagebind, language) == small
    sizes = small.projector.resampler
    assert (sizes.num_queries, sizes.dim, sizes.num_heads) == (4, 16, 2)
    assert load_recipe("qwen-vl").projector.resampler.num_queries == 256
