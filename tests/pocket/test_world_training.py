"""No training ever draws a held-out picture: every task and source is watched as it renders."""

from __future__ import annotations

import ast
import importlib.util
import pkgutil
import random
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

import anyany.pocket
from anyany.alignment.order import Draws
from anyany.messages import ImagePart
from anyany.pocket import image_denoiser, image_vae, imagebind, samples
from anyany.pocket.check import _color
from anyany.pocket.render import Color, render_image
from anyany.pocket.world import HELD_OUT_PAIRS, Scene, all_scenes, draw_scene

# Modules that turn scenes into pixels; the tests below watch what training ones render. The
# renderer's own module, the checker (bare silhouettes) and the evaluation are no training.
TRAINING = {"image_denoiser", "image_vae", "imagebind", "samples"}
NO_TRAINING = {"render", "check", "evaluate_cases"}


def test_no_unwatched_module_renders() -> None:
    renderers = set()
    for module in pkgutil.iter_modules(anyany.pocket.__path__):
        spec = importlib.util.find_spec(f"anyany.pocket.{module.name}")
        assert spec is not None
        assert spec.origin is not None
        names = {
            node.id if isinstance(node, ast.Name) else node.name
            for node in ast.walk(ast.parse(Path(spec.origin).read_text(encoding="utf-8")))
            if isinstance(node, ast.Name | ast.alias)
        }
        if names & {"render_image", "render_pixels", "draw_thing"}:
            renderers.add(module.name)
    assert renderers == TRAINING | NO_TRAINING


class _Watch:
    """Renders, and keeps which scenes were rendered, in which nameless colors."""

    def __init__(self, result: Any) -> None:
        self.scenes: list[Scene] = []
        self.tints: list[tuple[str | None, Color]] = []
        self.result = result

    def __call__(self, scene: Scene, *_: object, tint: Color | None = None) -> Any:
        self.scenes.append(scene)
        if tint is not None:
            self.tints.append((scene.thing, tint))
        return self.result

    def check(self, at_least: int, *, tints: int = 0) -> None:
        assert len(self.scenes) >= at_least
        assert not [scene for scene in self.scenes if scene.held_out]
        assert len(self.tints) >= tints
        for thing, tint in self.tints:  # what the checker would call such a color
            seen = _color(np.array([tint] * 64, dtype=np.float32))
            assert (thing, seen) not in HELD_OUT_PAIRS


def _draws(number: int) -> Draws:
    return Draws(0, "batch", epochs=[0] * number, indices=range(number))


_PIXELS = np.zeros((64, 64, 3), dtype=np.uint8)


def test_the_autoencoder_sees_no_held_out_picture(monkeypatch: pytest.MonkeyPatch) -> None:
    watch = _Watch(_PIXELS)
    monkeypatch.setattr(image_vae, "render_pixels", watch)
    task = image_vae.ImageVaeTask(image_vae.build_image_vae(), crop=32)
    task.batch(range(1500), _draws(1500))
    watch.check(1500, tints=300)


def test_the_latent_pool_holds_no_held_out_picture(monkeypatch: pytest.MonkeyPatch) -> None:
    watch = _Watch(_PIXELS)
    monkeypatch.setattr(image_denoiser, "render_pixels", watch)
    monkeypatch.setattr(
        image_denoiser, "encode_latents", lambda vae, pixels: torch.zeros(len(pixels), 8, 8, 8)
    )
    monkeypatch.setattr(image_denoiser, "JITTERS", 4)
    pool = image_denoiser.LatentPool(nn.Identity())  # type: ignore[arg-type]
    watch.check(1600 * 5, tints=1600)
    named = {scene for scene in pool.scenes if scene.color}
    assert named == set(all_scenes(held_out=False))


def test_imagebind_sees_no_held_out_picture(monkeypatch: pytest.MonkeyPatch) -> None:
    watch = _Watch(render_image(draw_scene(random.Random(0))))
    monkeypatch.setattr(imagebind, "render_image", watch)
    monkeypatch.setattr(imagebind.BindTask, "token_ids", lambda self, captions: torch.zeros(1))
    task = imagebind.BindTask(nn.Identity(), None)  # type: ignore[arg-type]
    task.batch(range(200), _draws(200))
    watch.check(400, tints=80)


def test_the_stages_show_no_held_out_picture(monkeypatch: pytest.MonkeyPatch) -> None:
    watch = _Watch(ImagePart(render_image(draw_scene(random.Random(0)))))
    monkeypatch.setattr(samples, "picture", watch)
    sources = (samples.DescribeSource(), samples.DrawSource(), samples.DialogueSource())
    for source in sources:
        for index in range(1000):
            source.sample(index, 0)
    watch.check(1200)
