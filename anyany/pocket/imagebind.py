"""Pocket's ImageBind: a small image tower and text tower, trained contrastively on the world.

Batches are made of near misses (a scene and the same scene with one attribute changed), so that
every attribute must be seen. Half of the captions say only some attributes and match every picture
that shows those: "a green thing" must lie near green bells and green birds alike, which makes
directions of attributes rather than of the pairs that were shown. The patch tokens, which bridges
read, are held to the same captions by their mean.

Legend: B batch, P patches, E embedding width, T tokens.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, TypeVar

import torch
from PIL import Image
from torch import Tensor

from anyany.alignment.losses import contrastive_loss
from anyany.alignment.trainer import LossOutput, Task
from anyany.encoders import (
    ImageBind,
    ImageBindConfig,
    ImagePreprocessing,
    PreprocessingConfig,
    TextConfig,
    VideoPreprocessing,
    VisionConfig,
)
from anyany.encoders.preprocessing.images import prepare_image
from anyany.pocket.captions import canonical_caption
from anyany.pocket.dialogues import draw_edit
from anyany.pocket.nameless import render_nameless
from anyany.pocket.render import IMAGE_SIZE, PALEST, Jitter, draw_tint, render_image
from anyany.pocket.text_encoder import CAPTION_TOKENS, say
from anyany.pocket.world import Described, Scene, draw_scene

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerFast

    from anyany.alignment.order import Draws

Subject = TypeVar("Subject", bound=Described)
EMBED_DIM: Final = 128
_TINTED: Final = 0.6  # of the pictures: in a nameless color
_NAMELESS: Final = 0.15  # of the pictures: shapes of no thing
_HALF: Final = (0.5, 0.5, 0.5)
PREPROCESSING: Final = PreprocessingConfig(
    image=ImagePreprocessing(size=IMAGE_SIZE, mean=_HALF, std=_HALF),
    video=VideoPreprocessing(
        size=IMAGE_SIZE, num_clips=3, clip_seconds=0.5, num_crops=1, mean=_HALF, std=_HALF
    ),
)


def imagebind_config(tokenizer: PreTrainedTokenizerFast) -> ImageBindConfig:
    """Sizes; the text tower's highest id is an end-of-text mark of its own."""
    return ImageBindConfig(
        embed_dim=EMBED_DIM,
        vision=VisionConfig(
            dim=128, num_blocks=4, num_heads=4, image_size=IMAGE_SIZE, patch_size=16
        ),
        text=TextConfig(
            dim=128,
            num_blocks=2,
            num_heads=4,
            vocab_size=len(tokenizer) + 1,
            context_length=CAPTION_TOKENS,
        ),
    )


class BindTask(Task):
    """Bring pictures of trainable scenes and their captions together.

    Args:
        imagebind: trained.
        tokenizer: the world's.
        evaluation: held-out scenes for retrieval at each evaluation.
    """

    def __init__(
        self,
        imagebind: ImageBind,
        tokenizer: PreTrainedTokenizerFast,
        *,
        evaluation: Sequence[Scene] = (),
    ) -> None:
        super().__init__(imagebind, num_samples=None)
        self.imagebind = imagebind
        self.tokenizer = tokenizer
        self.evaluation = list(evaluation)

    def batch(self, indices: Sequence[int], draws: Draws) -> dict[str, Tensor]:
        """Pictures [B, 3, H, W], captions [B, T] and which caption fits which picture [B, B]."""
        pictures, captions = [], []
        scenes: list[Scene] = []
        said: list[Scene] = []
        for index in indices:
            rng = random.Random(f"bind:{index}")
            for scene, picture in _picture_pair(rng):
                pictures.append(prepare_image(picture, PREPROCESSING.image))
                scenes.append(scene)
                said.append(part_of(scene, rng))
                captions.append(say(said[-1], rng))
        return {
            "pictures": torch.stack(pictures),
            "ids": self.token_ids(captions),
            "same": torch.tensor([[shows(scene, one) for one in said] for scene in scenes]),
        }

    def loss(self, batch: Any, draws: Draws) -> LossOutput:
        """InfoNCE of captions with the pooled read-out and with the patches' mean."""
        seen = self.imagebind.features("vision", batch["pictures"])
        said = self.imagebind.features("text", batch["ids"]).pooled  # [B, E]
        same = batch["same"]
        scaling: Any = self.imagebind.modality_postprocessors["text"]
        scale = scaling[1].log_logit_scale
        pooled = contrastive_loss(seen.pooled, said, log_scale=scale, same=same)
        patches = contrastive_loss(seen.tokens.mean(1), said, log_scale=scale, same=same)
        top1 = same.gather(1, (seen.pooled @ said.T).argmax(1, keepdim=True)).float().mean()
        return LossOutput(
            pooled + patches, {"pooled": pooled, "patches": patches, "top1": top1}, weight=len(said)
        )

    def evaluate(self, folder: Path) -> dict[str, float]:
        """Which of all their captions is nearest to pictures of held-out scenes: top-1."""
        if not self.evaluation:
            return {}
        rng = random.Random(0)
        pictures = torch.stack(
            [
                prepare_image(render_image(scene, Jitter.draw(rng)), PREPROCESSING.image)
                for scene in self.evaluation
            ]
        )
        seen = self.imagebind.features("vision", pictures).pooled
        captions = [canonical_caption(scene) for scene in self.evaluation]
        said = self.imagebind.features("text", self.token_ids(captions)).pooled
        nearest = (seen @ said.T).argmax(1)
        return {"top1": (nearest == torch.arange(len(nearest))).float().mean().item()}

    def token_ids(self, captions: Sequence[str]) -> Tensor:
        """Ids [B, T] that end in the end-of-text mark, padded with 0."""
        end = len(self.tokenizer)
        rows = torch.zeros(len(captions), CAPTION_TOKENS, dtype=torch.long)
        encoded = self.tokenizer(list(captions), add_special_tokens=False).input_ids
        for row, ids in zip(rows, encoded, strict=True):
            kept = [*ids[: CAPTION_TOKENS - 1], end]
            row[: len(kept)] = torch.tensor(kept)
        return rows


def _picture_pair(rng: random.Random) -> list[tuple[Scene, Image.Image]]:
    """A trainable scene and a near miss of it, in part in nameless colors; or nameless shapes."""
    if rng.random() < _NAMELESS:
        shapes = [render_nameless(rng) for _ in range(2)]
        return [(shape.scene(), Image.fromarray(shape.pixels)) for shape in shapes]
    scene = draw_scene(rng)
    pair = []
    for shown in (scene, draw_edit(scene, rng)[1]):
        tint = None
        if rng.random() < _TINTED:
            assert shown.thing is not None
            tint = draw_tint(shown.thing, rng, palest=PALEST)
            shown = replace(shown, color=None)
        pair.append((shown, render_image(shown, Jitter.draw(rng), tint=tint)))
    return pair


def part_of(subject: Subject, rng: random.Random) -> Subject:
    """A scene, clip or sound, whole or in part, at even chance."""
    names = list(subject.said())
    if len(names) < 2 or rng.random() < 0.5:
        return subject
    return subject.only(rng.sample(names, rng.randint(1, len(names) - 1)))


def shows(subject: Described, said: Described) -> bool:
    """Whether a medium of the subject shows all that is said."""
    return all(getattr(subject, name) == value for name, value in said.said().items())
