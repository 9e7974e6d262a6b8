"""Pocket's video parts: the text encoder of clips, the warm start, and the decoder."""

from __future__ import annotations

import random
from typing import Any

import numpy as np
import pytest
import torch

from anyany.alignment.order import Draws
from anyany.alignment.trainer import Task
from anyany.pocket import clip_text_encoder, image_denoiser, image_vae, video_denoiser
from anyany.pocket.clips import Clip, all_clips, parse_clip
from anyany.pocket.text_encoder import CAPTION_TOKENS, TEXT_DIM, build_text_encoder
from anyany.pocket.tokenizer import train_tokenizer
from anyany.pocket.world import HELD_OUT_PAIRS


def _draws(number: int) -> Draws:
    return Draws(0, "batch", epochs=[0] * number, indices=range(number))


def _step(task: Task, number: int) -> Any:
    """One step of training: a finite loss, and gradients in everything that is trained."""
    task.module.train()
    output = task.loss(task.batch(range(number), _draws(number)), _draws(number))
    assert torch.isfinite(output.total)
    torch.autograd.backward(output.total)
    for parameter in task.module.parameters():
        assert parameter.grad is None or torch.isfinite(parameter.grad).all()
    task.module.eval()
    return output


@pytest.fixture(scope="module")
def tokenizer() -> Any:
    return train_tokenizer(num_dialogues=50)


def test_the_text_encoder_of_clips_starts_as_that_of_pictures(tokenizer: Any) -> None:
    torch.manual_seed(0)
    encoder = build_text_encoder(tokenizer)
    task = clip_text_encoder.ClipTextTask(encoder, tokenizer)
    output = _step(task, 4)
    assert output.named["held"] < 1e-8  # nothing has moved yet
    with torch.no_grad():
        for parameter in encoder.parameters():
            parameter.add_(0.1)
    assert task.loss(task.batch(range(4), _draws(4)), _draws(4)).named["held"] > 1e-3
    assert "first" not in dict(task.module.named_children())  # it is not trained, nor saved


def test_near_misses_differ_in_one_attribute() -> None:
    rng = random.Random(0)
    for clip in all_clips()[::50]:
        other = clip_text_encoder._near_miss(clip, rng)
        assert len(other.said().items() - clip.said().items()) == 1


def test_the_denoiser_starts_as_pictures_frame_by_frame() -> None:
    torch.manual_seed(0)
    pictures = image_denoiser.build_image_unet().eval()
    unet = video_denoiser.build_video_unet(pictures).eval()
    own = dict(unet.named_parameters())
    for name, parameter in pictures.named_parameters():
        assert torch.equal(own[name], parameter)
    noisy = torch.randn(1, 8, 3, 8, 8)
    states = torch.randn(1, CAPTION_TOKENS, TEXT_DIM)
    steps = torch.tensor([500])
    frames = noisy.unbind(dim=2)
    with torch.no_grad():
        together = unet(noisy, steps, encoder_hidden_states=states).sample
        alone = torch.stack(
            [pictures(frame, steps, encoder_hidden_states=states).sample for frame in frames],
            dim=2,
        )
    # equal but for the heads of the lower level, which the 3D network splits otherwise
    assert (together - alone).norm() < 0.08 * alone.norm()


def test_a_denoiser_of_another_build_is_refused() -> None:
    from diffusers.models.unets.unet_2d_condition import UNet2DConditionModel

    values = {**image_denoiser.IMAGE_UNET, "class_embed_type": "timestep"}
    with pytest.raises(ValueError, match="a picture denoiser of the same build"):
        video_denoiser.warm_start(video_denoiser.build_video_unet(), UNet2DConditionModel(**values))


def test_the_decoder_of_these_parts_makes_eight_frames(tokenizer: Any) -> None:
    torch.manual_seed(0)
    vae = image_vae.build_image_vae()
    decoder = video_denoiser.assemble_video_decoder(
        video_denoiser.build_video_unet(), vae, build_text_encoder(tokenizer), tokenizer
    )
    assert decoder.latent_shape() == (8, 8, 8, 8)
    assert decoder.frames_per_second == 8.0
    pool = video_denoiser.ClipPool(vae, stride=160, jitters=1)
    assert len(pool) == 21  # five combinations, two tints of each, and six nameless clips
    assert pool.latents.shape == (21, 8, 8, 8, 8)
    assert 0.02 < pool.events.mean() < 0.5
    held_out = all_clips(held_out=True)[:1]
    task = video_denoiser.VideoDenoiseTask(decoder, pool, evaluation=held_out)
    _step(task, 1)
    gradients = [p.grad for p in task.unet.conv_in.parameters()]
    assert all(gradient is not None for gradient in gradients)
    made = video_denoiser.make_clips(decoder, held_out, num_inference_steps=2)
    assert [frames.shape for frames in made] == [(8, 64, 64, 3)]
    assert made[0].dtype == np.uint8


def test_training_captions_say_nothing_that_is_not_so() -> None:
    rng = random.Random(0)
    clip, nameless = Clip("bee", "red", "pink", "up"), Clip(background="gray", motion="left")
    task = object.__new__(video_denoiser.VideoDenoiseTask)  # captions need no networks
    for _ in range(300):
        for shown in (clip, nameless):
            parsed = parse_clip(task.caption(shown, rng))
            assert parsed is not None
            assert parsed.said().items() <= shown.said().items()


def test_the_pool_holds_no_held_out_clip(monkeypatch: pytest.MonkeyPatch) -> None:
    from anyany.pocket.check import _color

    drawn: list[tuple[Clip, Any]] = []

    def render(clip: Clip, *_: object, tint: Any = None) -> Any:
        drawn.append((clip, tint))
        return np.zeros((8, 64, 64, 3), np.uint8)

    def nameless(rng: random.Random) -> Any:
        return Clip(background="white"), np.zeros((8, 64, 64, 3), np.uint8)

    monkeypatch.setattr(video_denoiser, "render_clip", render)
    monkeypatch.setattr(video_denoiser, "render_nameless_clip", nameless)
    monkeypatch.setattr(
        video_denoiser, "encode_latents", lambda vae, pixels: torch.zeros(len(pixels), 1, 1, 1)
    )
    monkeypatch.setattr(
        video_denoiser, "to_pixels", lambda frames: torch.zeros(len(frames), 3, 8, 8)
    )
    video_denoiser.ClipPool(torch.nn.Identity(), jitters=1)  # type: ignore[arg-type]
    named = {clip for clip, tint in drawn if tint is None}
    assert named == set(all_clips(held_out=False))
    assert not [clip for clip, _ in drawn if clip.held_out]
    tints = [(clip.thing, tint) for clip, tint in drawn if tint is not None]
    assert len(tints) == 1600
    for thing, tint in tints:  # what the checker would call such a color
        assert (thing, _color(np.array([tint] * 64, dtype=np.float32))) not in HELD_OUT_PAIRS
