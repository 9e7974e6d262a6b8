"""What pocket's parts are put together to."""

from __future__ import annotations

from typing import Any, cast

import torch
from fresh_pocket import fresh_pocket

from anyany.encoders.projectors.mixture import MixtureProjector
from anyany.pocket.language_model import world_words


def test_the_input_projector_speaks_in_words_of_the_language_model() -> None:
    with fresh_pocket() as system:
        projector = system.bridge.projectors["shared"]
        assert isinstance(projector, MixtureProjector)
        language = system.bridge.language
        table: Any = cast("Any", language.lm).get_input_embeddings().weight
        tokens = cast("Any", language.tokenizer)
    words = world_words()
    assert len(words) == len(set(words)) == len(projector.table)
    for number, word in enumerate(words):
        (only,) = tokens(f" {word}", add_special_tokens=False).input_ids
        torch.testing.assert_close(projector.table[number], table[only], rtol=0, atol=0)
