"""No training ever shows a held-out medium: every task and source is watched as it renders."""

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
from PIL import Image
from torch import nn

import anyany.pocket
from anyany.alignment.order import Draws
from anyany.messages import ImagePart
from anyany.pocket import (
    audio_denoiser,
    bridge_task,
    image_denoiser,
    image_vae,
    imagebind,
    imagebind_media,
    mel_vae,
    nameless_clips,
    samples,
    video_denoiser,
)
from anyany.pocket.check import _color
from anyany.pocket.clips import Clip
from anyany.pocket.nameless import Nameless
from anyany.pocket.render import BACKGROUND_RGB, COLOR_RGB, Color, render_image
from anyany.pocket.sounds import Sound, all_sounds
from anyany.pocket.world import HELD_OUT_PAIRS, Scene, all_scenes, draw_scene

# Modules that turn scenes, clips and sounds into media; the tests below watch what training ones
# render. The renderers' own modules, the checkers (bare silhouettes), the evaluation and what a
# stage shows at its evaluations are no training.
TRAINING = {
    "picture": {"image_denoiser", "image_vae", "imagebind", "samples", "bridge_task"},
    "clip": {"video_denoiser", "nameless_clips", "samples", "bridge_task"},
    "sound": {"audio_denoiser", "mel_vae", "imagebind_media", "samples", "bridge_task"},
}
NO_TRAINING = {
    # imagebind_media: for its evaluation
    "picture": {"render", "check", "check_clip", "animation", "evaluate_kinds", "imagebind_media"},
    "clip": {"animation", "evaluate_kinds", "imagebind_media"},
    # the vocoder's trained on what mel_vae draws
    "sound": {"synthesis", "vocoder", "evaluate_kinds"},
}
RENDERERS = {
    "picture": {"render_image", "render_pixels", "draw_thing"},
    "clip": {"render_clip"},
    "sound": {"render_sound"},
}


@pytest.mark.parametrize("kind", list(RENDERERS))
def test_no_unwatched_module_renders(kind: str) -> None:
    renderers = set()
    for module in pkgutil.iter_modules(anyany.pocket.__path__):
        spec = importlib.util.find_spec(f"anyany.pocket.{module.name}")
        assert spec is not None
        assert spec.origin is not None
        names = {
            node.id if isinstance(node, ast.Name) else node.name
            for node in ast.walk(ast.parse(Path(spec.origin).read_text(encoding="utf-8")))
            if isinstance(node, ast.Name | ast.alias | ast.FunctionDef)
        }
        if names & RENDERERS[kind]:
            renderers.add(module.name)
    assert renderers == TRAINING[kind] | NO_TRAINING[kind]


class _Watch:
    """Renders, and keeps which scenes were rendered, in which nameless colors."""

    def __init__(self, result: Any) -> None:
        self.scenes: list[Any] = []
        self.tints: list[tuple[str | None, Color]] = []
        self.result = result

    def __call__(
        self, scene: Any, *_: object, tint: Color | None = None, course: object = None
    ) -> Any:
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


WHITE = Clip(background="white")
_PIXELS = np.zeros((64, 64, 3), dtype=np.uint8)


def test_the_autoencoder_sees_no_held_out_picture(monkeypatch: pytest.MonkeyPatch) -> None:
    watch = _Watch(_PIXELS)
    monkeypatch.setattr(image_vae, "render_pixels", watch)
    task = image_vae.ImageVaeTask(image_vae.build_image_vae(), crop=32)
    shape = Nameless(_PIXELS, (0, 0, 0), (0, 0, 0), (32.0, 32.0))
    monkeypatch.setattr(image_vae, "render_nameless", lambda rng: shape)
    task.batch(range(1500), _draws(1500))
    watch.check(900, tints=200)


def test_the_latent_pool_holds_no_held_out_picture(monkeypatch: pytest.MonkeyPatch) -> None:
    watch = _Watch(_PIXELS)
    monkeypatch.setattr(image_denoiser, "render_pixels", watch)
    monkeypatch.setattr(
        image_denoiser, "encode_latents", lambda vae, pixels: torch.zeros(len(pixels), 8, 8, 8)
    )
    monkeypatch.setattr(image_denoiser, "JITTERS", 4)
    pool = image_denoiser.LatentPool(nn.Identity())  # type: ignore[arg-type]
    watch.check(1600 * 5, tints=1600)
    named = {scene for scene in pool.said if scene.color}
    assert named == set(all_scenes(held_out=False))


def test_imagebind_sees_no_held_out_picture(monkeypatch: pytest.MonkeyPatch) -> None:
    watch = _Watch(render_image(draw_scene(random.Random(0))))
    monkeypatch.setattr(imagebind, "render_image", watch)
    monkeypatch.setattr(imagebind.BindTask, "token_ids", lambda self, captions: torch.zeros(1))
    task = imagebind.BindTask(nn.Identity(), None)  # type: ignore[arg-type]
    task.batch(range(600), _draws(600))
    watch.check(900, tints=300)


def test_the_stages_show_no_held_out_medium(monkeypatch: pytest.MonkeyPatch) -> None:
    watch = _Watch(ImagePart(render_image(draw_scene(random.Random(0)))))
    monkeypatch.setattr(samples, "medium", watch)
    sources = (
        samples.DescribeSource(("image", "video", "audio")),
        samples.DrawSource(),
        samples.DialogueSource(),
        samples.DialogueSource(all_media=True),
    )
    for source in sources:
        for index in range(1000):
            source.sample(index, 0)
    watch.check(2000)
    assert {type(one) for one in watch.scenes} == {Scene, Clip, Sound}


def test_the_stages_show_what_has_no_name_in_no_held_out_color(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    watch = _Watch(render_image(draw_scene(random.Random(0))))
    clips = _Watch(np.zeros((8, 64, 64, 3), dtype=np.uint8))
    moving = Clip(background="white", motion="left")
    shape = Nameless(_PIXELS, COLOR_RGB["red"], BACKGROUND_RGB["white"], (32.0, 32.0))
    monkeypatch.setattr(samples, "render_image", watch)
    monkeypatch.setattr(nameless_clips, "render_clip", clips)
    monkeypatch.setattr(samples, "render_nameless", lambda rng: shape)
    monkeypatch.setattr(samples, "render_nameless_clip", lambda rng: (moving, clips.result))
    for turns in (False, True):
        source = samples.NamelessSource(turns=turns)
        for index in range(600):
            source.sample(index, 0)
    watch.check(300, tints=300)
    clips.check(300, tints=150)


def test_nothing_is_said_of_what_has_no_name() -> None:
    source = samples.NamelessSource(turns=False)
    answers = [source.sample(index, 0).messages[-1].text for index in range(60)]
    assert all(answer.startswith(("it is ", "the background is ")) for answer in answers)
    source = samples.NamelessSource(turns=True)
    targets = [target for n in range(60) for target in source.sample(n, 0).targets.values()]
    assert {target.modality for target in targets} == {"image", "audio"}


def test_the_clip_pool_holds_no_held_out_clip(monkeypatch: pytest.MonkeyPatch) -> None:
    watch = _Watch(np.zeros((8, 64, 64, 3), dtype=np.uint8))
    monkeypatch.setattr(video_denoiser, "render_clip", watch)
    monkeypatch.setattr(
        video_denoiser, "encode_latents", lambda vae, pixels: torch.zeros(len(pixels), 8, 8, 8)
    )
    monkeypatch.setattr(video_denoiser, "render_nameless_clip", lambda rng: (WHITE, watch.result))
    video_denoiser.ClipPool(nn.Identity(), stride=3)  # type: ignore[arg-type]
    watch.check(600, tints=200)


def test_the_sound_pool_holds_no_held_out_sound(monkeypatch: pytest.MonkeyPatch) -> None:
    watch = _Watch(np.zeros(32_000, dtype=np.float32))
    monkeypatch.setattr(audio_denoiser, "render_sound", watch)
    monkeypatch.setattr(
        audio_denoiser, "encode_mels", lambda vae, mels: torch.zeros(len(mels), 8, 25, 8)
    )
    audio_denoiser.SoundPool(nn.Identity(), recordings=2)  # type: ignore[arg-type]
    watch.check(80)
    assert set(watch.scenes) == set(all_sounds(held_out=False))


def test_the_mel_autoencoder_and_the_vocoder_hear_no_held_out_sound(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    watch = _Watch(np.zeros(32_000, dtype=np.float32))
    monkeypatch.setattr(mel_vae, "render_sound", watch)
    for index in range(400):
        mel_vae.training_sound(index, "mel-vae")
    watch.check(200)


def test_the_encoder_meets_no_held_out_clip_or_sound(monkeypatch: pytest.MonkeyPatch) -> None:
    clips = _Watch(np.zeros((8, 64, 64, 3), dtype=np.uint8))
    sounds = _Watch(np.zeros(32_000, dtype=np.float32))
    monkeypatch.setattr(nameless_clips, "render_clip", clips)
    monkeypatch.setattr(imagebind_media, "render_sound", sounds)
    rng = random.Random(0)
    for _ in range(150):
        imagebind_media.clip_pair(rng)
        imagebind_media.sound_pair(rng)
    clips.check(200, tints=60)
    sounds.check(200)


@pytest.mark.parametrize("name", sorted(bridge_task.TASKS))
def test_compared_bridges_are_trained_on_no_held_out_medium(
    monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    results = {
        "render_image": Image.new("RGB", (64, 64)),
        "render_clip": np.zeros((8, 64, 64, 3), dtype=np.uint8),
        "render_sound": np.zeros(32_000, dtype=np.float32),
    }
    watches = {renderer: _Watch(result) for renderer, result in results.items()}
    for renderer, watch in watches.items():
        monkeypatch.setattr(bridge_task, renderer, watch)
    task = bridge_task.get_task(name)
    for split in ("train", "fresh"):
        task.source(split, 100, 0)  # type: ignore[arg-type]
    (used,) = [watch for watch in watches.values() if watch.scenes]
    used.check(200)
    task.source("never", 50, 0)
    assert all(subject.held_out for subject in used.scenes[200:])
