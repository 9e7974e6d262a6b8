"""A system with an adapter beside its language model, asked, saved and loaded."""

from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image

from anyany import AnyToAny
from anyany.language import (
    ExpertsSettings,
    GatedAttentionSettings,
    HookedAdapter,
    LoraAdapter,
    ModalityAdapterSettings,
    ModalityExpertSettings,
)
from anyany.language.adapters import ADAPTERS
from anyany.messages import ImagePart

SETTINGS: dict[str, Any] = {
    "gated_attention": GatedAttentionSettings(heads=2, ffn_dim=32, every=2),
    "modality_adapter": ModalityAdapterSettings(r=2),
    "modality_expert": ModalityExpertSettings(modules=("v_proj",)),
    "experts": ExpertsSettings(num=2, top_k=1),
}


@pytest.mark.slow
@pytest.mark.parametrize("kind", list(SETTINGS))
def test_saved_and_loaded_with_its_adapter(kind: str, tmp_path: Path) -> None:
    system = AnyToAny.from_pretrained("pocket", device="cpu", threads=None)
    lora = system.language.adapter
    assert isinstance(lora, LoraAdapter)
    with torch.no_grad():
        for site in lora._sites.values():  # the base as it is on disk: one adapter is saved
            assert site.kept is not None
            site.base.weight.copy_(site.kept)
    adapter = ADAPTERS[kind](SETTINGS[kind])
    assert isinstance(adapter, HookedAdapter)
    torch.manual_seed(0)
    adapter.install(system.language.lm)
    with torch.no_grad():
        for parameter in adapter.parameters():
            parameter.add_(0.05 * torch.randn_like(parameter))
    picture = ImagePart(Image.new("RGB", (64, 64), (200, 20, 20)))
    asked = {"outputs": {"text"}, "max_new_tokens": 12, "seed": 1}
    plain = system.num_parameters()
    system.language.adapter = adapter
    first = system.generate(["what is this?", picture], **asked)  # type: ignore[arg-type]
    again = AnyToAny.from_pretrained(
        system.save_pretrained(tmp_path / "system"), device="cpu", threads=None
    )
    assert getattr(again.config.language, kind) == SETTINGS[kind]
    second = again.generate(["what is this?", picture], **asked)  # type: ignore[arg-type]
    assert second.token_ids == first.token_ids
    counted = again.num_parameters()
    assert counted["language"] == plain["language"]
    assert counted["adapter"] == sum(p.numel() for p in adapter.parameters())
