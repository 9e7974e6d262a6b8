"""Any set of modalities in, any set out: all 225 pairs of sets, through `generate_batch`.

The system is pocket's own composition with fresh weights: what is asked must come, well formed and
decodable, whatever the model would rather have said.
"""

import itertools
import random
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
import torch

from anyany import AnyToAny, Reply
from anyany.encoders import ImageBind
from anyany.messages import MODALITIES, Modality
from anyany.pocket.audio_denoiser import assemble_audio_decoder, build_audio_unet
from anyany.pocket.clap import build_clap
from anyany.pocket.clips import draw_clip
from anyany.pocket.compose import compose
from anyany.pocket.image_denoiser import assemble_image_decoder, build_image_unet
from anyany.pocket.image_vae import build_image_vae
from anyany.pocket.imagebind_media import media_imagebind_config
from anyany.pocket.language_model import build_language_model
from anyany.pocket.mel_vae import build_mel_vae
from anyany.pocket.samples import medium
from anyany.pocket.sounds import draw_sound
from anyany.pocket.text_encoder import build_text_encoder
from anyany.pocket.tokenizer import train_tokenizer
from anyany.pocket.video_denoiser import assemble_video_decoder, build_video_unet
from anyany.pocket.vocoder import build_vocoder
from anyany.pocket.world import draw_scene

SETS: list[tuple[Modality, ...]] = [
    chosen
    for size in range(1, len(MODALITIES) + 1)
    for chosen in itertools.combinations(MODALITIES, size)
]
RUN = {"num_inference_steps": 2, "guidance_scale": 1.0}


@pytest.fixture(scope="module")
def system() -> Iterator[AnyToAny]:
    """Pocket with fresh weights, on one thread."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    torch.manual_seed(0)
    tokens = train_tokenizer(num_dialogues=100)
    vae = build_image_vae()
    image_unet = build_image_unet()
    yield compose(
        ImageBind(media_imagebind_config(tokens)),
        build_language_model(tokens),
        tokens,
        {
            "image": assemble_image_decoder(image_unet, vae, build_text_encoder(tokens), tokens),
            "video": assemble_video_decoder(
                build_video_unet(image_unet), vae, build_text_encoder(tokens), tokens
            ),
            "audio": assemble_audio_decoder(
                build_audio_unet(), build_mel_vae(), build_vocoder(), build_clap(tokens), tokens
            ),
        },
    )
    torch.set_num_threads(before)


def prompt(inputs: tuple[Modality, ...], rng: random.Random) -> list[Any]:
    """One part of each modality, in any order."""
    made: dict[Modality, Any] = {
        "text": "a bell",
        "image": medium(draw_scene(rng), 0),
        "video": medium(draw_clip(rng), 0),
        "audio": medium(draw_sound(rng), 0),
    }
    parts = [made[modality] for modality in inputs]
    rng.shuffle(parts)
    return parts


def check(reply: Reply, outputs: tuple[Modality, ...]) -> None:
    """Exactly the asked modalities, each part whole."""
    made = {part.modality for part in reply.parts}
    assert made - {"text"} == set(outputs) - {"text"}
    assert ("text" in outputs) or "text" not in made
    for image in reply.images:
        assert image.image.size == (64, 64)
    for video in reply.videos:
        assert video.frames.shape == (8, 64, 64, 3)
        assert video.frames.dtype == np.uint8
    for audio in reply.audios:
        assert audio.waveform.shape == (1, 32_000)
        assert np.isfinite(audio.waveform).all()


@pytest.mark.slow
@pytest.mark.timeout(1200)
def test_all_225_pairs_of_sets(system: AnyToAny) -> None:
    rng = random.Random(0)
    pairs = list(itertools.product(SETS, SETS))
    assert len(pairs) == 225
    requests = [
        {
            "prompt": prompt(inputs, rng),
            "outputs": outputs,
            "seed": number,
            "max_new_tokens": 24,
            **{modality: RUN for modality in outputs if modality != "text"},
        }
        for number, (inputs, outputs) in enumerate(pairs)
    ]
    for (_, outputs), reply in zip(pairs, system.generate_batch(requests), strict=True):
        assert isinstance(reply, Reply)
        check(reply, outputs)
