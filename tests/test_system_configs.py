"""The published systems at full size: configurations build on the meta device, counts agree."""

import pytest

from anyany.system import AnyToAny
from anyany.system_config import load_system_config, system_names

VICUNA = 6_738_415_616
IMAGEBIND = 1_200_781_057
VIDEO_PROJECTOR = 32_090_112
AUDIO_PROJECTOR = 31_788_544


@pytest.mark.parametrize(
    ("name", "added_tokens", "input_projector", "image_projector", "lora"),
    [
        ("nextgpt-7b-v0", 2, 4_198_400, 31_958_784, 33_554_432),
        ("nextgpt-7b-v1.5", 0, 53_144_912, 32_090_112, 319_815_680),
    ],
)
def test_published_systems_have_the_published_counts(
    name: str, added_tokens: int, input_projector: int, image_projector: int, lora: int
) -> None:
    system = AnyToAny.from_config(load_system_config(name), device="meta")
    counts = system.num_parameters()
    assert counts["encoder"] == IMAGEBIND
    assert counts["input_projector"] == input_projector
    assert counts["language"] == VICUNA + 2 * added_tokens * 4096
    assert counts["adapter"] == lora
    assert counts["signal_rows"] == 2 * 36 * 4096
    assert counts["output_projectors.image"] == image_projector
    assert counts["output_projectors.video"] == VIDEO_PROJECTOR
    assert counts["output_projectors.audio"] == AUDIO_PROJECTOR


def test_the_spans_of_both_generations_come_from_the_configuration() -> None:
    old = load_system_config("nextgpt-7b-v0").language.signals
    new = load_system_config("nextgpt-7b-v1.5").language.signals
    lengths = [(old.span_length(m), new.span_length(m)) for m in ("image", "video", "audio")]
    assert lengths == [(4, 7), (24, 47), (8, 15)]


def test_names_are_listed() -> None:
    assert {"nextgpt-7b-v0", "nextgpt-7b-v1.5"} <= set(system_names())
