"""Pocket's ImageBind with clips and sounds: sizes, pairs, one step of training."""

import random
from pathlib import Path

import pytest
import torch

from anyany.alignment.trainer import TrainConfig, train
from anyany.encoders import ImageBind, ImageBindEncoder
from anyany.encoders.preprocessing.videos import clip_frame_indices
from anyany.pocket.animation import CLIP_FRAMES_PER_SECOND, render_clip
from anyany.pocket.clips import Clip
from anyany.pocket.imagebind import shows
from anyany.pocket.imagebind_media import (
    MEDIA_PREPROCESSING,
    MediaBindTask,
    clip_pair,
    media_imagebind_config,
    prepared_clip,
    prepared_sound,
    sound_pair,
)
from anyany.pocket.sounds import Sound, draw_sound
from anyany.pocket.tokenizer import train_tokenizer


def test_media_are_prepared_as_the_towers_take_them() -> None:
    rng = random.Random(0)
    clip = Clip("bell", "red", "white", "left")
    assert prepared_clip(clip, rng).shape == (3, 3, 2, 64, 64)  # three pairs of frames
    heard = torch.stack([prepared_sound(draw_sound(rng), rng) for _ in range(16)])
    assert heard.shape == (16, 1, 1, 64, 198)
    assert abs(float(heard.mean())) < 0.7
    assert 0.5 < float(heard.std()) < 2.0


def test_pairs_differ_in_one_thing_and_are_never_held_out() -> None:
    rng = random.Random(0)
    for _ in range(50):
        for pair in (clip_pair(rng), sound_pair(rng)):
            assert len(pair) == 2
            for subject, _ in pair:
                assert not subject.held_out


def test_a_part_fits_all_that_show_it() -> None:
    assert shows(Sound("bell", "once", "high"), Sound(thing="bell"))
    assert not shows(Sound("bell", "once", "high"), Sound(thing="drum"))
    assert shows(Clip("bell", None, "white", "up"), Clip(motion="up"))


@pytest.mark.parametrize("modality", ["image", "video", "audio"])
def test_a_step_of_training_and_an_encoder_of_each_modality(modality: str, tmp_path: Path) -> None:
    torch.manual_seed(0)
    tokenizer = train_tokenizer(num_dialogues=50)
    imagebind = ImageBind(media_imagebind_config(tokenizer))
    encoder = ImageBindEncoder(
        imagebind,
        modality,  # type: ignore[arg-type]
        preprocessing=MEDIA_PREPROCESSING,
    )
    assert encoder.num_tokens == {"image": 16, "video": 16, "audio": 48}[modality]
    if modality != "audio":
        return
    task = MediaBindTask(imagebind, tokenizer, evaluation=4)
    before = imagebind.modality_trunks["audio"].state_dict()
    before = {name: tensor.clone() for name, tensor in before.items()}
    config = TrainConfig(steps=1, batch_size=6, lr=1e-3, threads=None, evaluate_every=1)
    result = train(task, config, tmp_path / "run", progress=False)

    assert result.step == 1
    assert {"image", "video", "audio"} <= result.metrics.keys()
    after = imagebind.modality_trunks["audio"].state_dict()
    assert any(not torch.equal(before[name], after[name]) for name in before)


def test_a_clip_is_seen_from_its_first_frame_to_its_last_in_short_pairs() -> None:
    frames = render_clip(Clip("bell", "red", "white", "left"))
    assert frames.shape == (8, 64, 64, 3)
    video = MEDIA_PREPROCESSING.video
    chosen = clip_frame_indices(len(frames), CLIP_FRAMES_PER_SECOND, video)
    assert chosen == [[0, 3], [2, 5], [4, 7]]
