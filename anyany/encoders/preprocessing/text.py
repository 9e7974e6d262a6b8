"""Text to ImageBind's token ids: CLIP's cleaning and byte-pair encoding.

The vocabulary is not part of this project; it comes with any CLIP tokenizer folder.

Shapes: B batch, T tokens (the context length).
"""

from __future__ import annotations

import html
import re
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import ftfy
import torch
from torch import Tensor

from anyany.errors import CheckpointError

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

WHITESPACE = re.compile(r"\s+")


class TextPreparation:
    """Clean, tokenise, cut to the context (the end mark stays), pad with 0.

    ImageBind pools the state at the highest id, so the tokenizer's end of text must be its
    highest id, as it is in CLIP's.

    Args:
        tokenizer: adds a start and an end mark by itself.
        context_length: T.
    """

    def __init__(self, tokenizer: PreTrainedTokenizerBase, context_length: int = 77) -> None:
        self.tokenizer = tokenizer
        self.context_length = context_length

    @classmethod
    def from_folder(cls, folder: str | Path, context_length: int = 77) -> TextPreparation:
        """Load a CLIP tokenizer folder, such as `tokenizer/` of a Stable Diffusion.

        Raises:
            CheckpointError: the folder has no tokenizer files.
        """
        from transformers import CLIPTokenizer

        folder = Path(folder)
        if not (folder / "tokenizer.json").is_file() and not (folder / "merges.txt").is_file():
            raise CheckpointError(
                f"{folder}: expected a CLIP tokenizer (tokenizer.json, or vocab.json and "
                "merges.txt); found none"
            )
        return cls(CLIPTokenizer.from_pretrained(folder, local_files_only=True), context_length)

    def __call__(self, texts: Sequence[str]) -> Tensor:
        """Token ids.

        Args:
            texts: any strings.

        Returns:
            int64 [B, T].
        """
        encoded = self.tokenizer(
            [clean_text(text) for text in texts],
            max_length=self.context_length,
            truncation=True,
            padding="max_length",
            return_tensors="pt",
        )
        # CLIP's tokenizer pads with its end mark; the published ids are padded with 0.
        ids: Tensor = encoded["input_ids"] * encoded["attention_mask"]
        return ids.to(torch.int64)


def clean_text(text: str) -> str:
    """Mend broken encodings, undo HTML escapes (twice), join runs of blanks, lower the case."""
    mended = html.unescape(html.unescape(ftfy.fix_text(text)))
    return WHITESPACE.sub(" ", mended).strip().lower()
