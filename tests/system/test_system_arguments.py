"""AnyToAny's arguments: overrides flat and nested, and the line for each mistake."""

# ruff: noqa: F811 (fixtures are imported)

from typing import Any

import pytest
from system_fixtures import pocket  # noqa: F401

from anyany import AnyToAny
from anyany.errors import PromptError, UsageError
from anyany.overrides import resolve_overrides

BOTH: Any = ("image", "video")


def test_nested_and_flat_overrides_mean_the_same() -> None:
    nested = resolve_overrides({"image": {"num_inference_steps": 5}}, ["image"], None)
    flat = resolve_overrides({"num_inference_steps": 5}, ["image"], None)
    chosen = resolve_overrides({"num_inference_steps": 5}, BOTH, {"image"})

    assert nested == flat == chosen == {"image": {"num_inference_steps": 5}}


def test_names_of_other_libraries_are_understood_and_nested_wins() -> None:
    resolved = resolve_overrides(
        {"image": {"negative_prompt": "red", "preset": "fast"}, "negative": "blue"}, ["image"], None
    )

    assert resolved == {"image": {"negative": "red", "settings": "fast"}}


@pytest.mark.parametrize(
    ("given", "decoders", "line"),
    [
        ({"num_steps": 5}, ["image"], "got 'num_steps'; nearest is 'num_inference_steps'"),
        ({"image": {"seconds": 5}}, ["image"], "expected an argument among .*got 'seconds'"),
        ({"image": 5}, ["image"], 'expected image={"num_inference_steps": 20, ...}; got int'),
        ({"num_inference_steps": 5}, BOTH, "the request may make image, video: write image="),
        ({"num_inference_steps": 5}, [], "the request may make none"),
        ({"num_inference_steps": 0}, ["image"], "a whole number from 1 to 1000; got 0"),
        ({"num_inference_steps": True}, ["image"], "a whole number from 1 to 1000; got True"),
        ({"num_inference_steps": 2.5}, ["image"], "a whole number from 1 to 1000; got 2.5"),
        ({"guidance_scale": -1}, ["image"], "guidance_scale: expected a number from 0 to 100"),
        ({"guidance_scale": float("nan")}, ["image"], "expected a number from 0 to 100; got nan"),
        ({"scheduler": "magic"}, ["image"], "scheduler: expected one of native, ddim.*got 'magic'"),
        ({"preset": "best"}, ["image"], "settings: expected reference or fast; got 'best'"),
        ({"negative": 3}, ["image"], "negative: expected text; got 3"),
        ({"eta": 2}, ["image"], "eta: expected a number from 0 to 1; got 2"),
    ],
)
def test_mistaken_overrides(given: dict[str, Any], decoders: Any, line: str) -> None:
    with pytest.raises(UsageError) as caught:
        resolve_overrides(given, decoders, None)

    import re

    assert re.search(line.replace("{", r"\{").replace("}", r"\}").replace("...", r"\.\.\."),
                     str(caught.value))  # fmt: skip
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("arguments", "kind", "line"),
    [
        ({"prompt": ""}, PromptError, "the prompt is empty"),
        ({"prompt": []}, PromptError, "the prompt is empty"),
        ({"prompt": "  \n"}, PromptError, "the prompt is empty"),
        ({"prompt": 5}, UsageError, "expected text, a pathlib.Path.*got int"),
        ({"outputs": {"smell"}}, UsageError, "expected outputs among text.*got 'smell'"),
        ({"outputs": set()}, PromptError, "outputs is empty"),
        ({"outputs": 5}, UsageError, "expected outputs as a set of modalities; got 5"),
        ({"outputs": {"video"}}, UsageError, "got video: this system has no decoder for it"),
        ({"seed": -1}, UsageError, "expected a seed from 0"),
        ({"seed": 1.5}, UsageError, "expected a seed from 0"),
        ({"max_new_tokens": 0}, PromptError, "set max_new_tokens to 1 or more"),
        ({"max_new_tokens": "9"}, UsageError, "max_new_tokens: expected a whole number; got '9'"),
        (
            {"max_new_tokens": 4, "outputs": {"text", "image"}},
            PromptError,
            "max_new_tokens is 4, but text, image needs at least 5: set max_new_tokens to 5",
        ),
        ({"prompt": "word " * 2000}, PromptError, "context is 512: shorten the prompt"),
        ({"max_new_tokens": 100_000}, PromptError, "context is 512: shorten .* or lower"),
        ({"temperature": -1.0}, PromptError, "temperature: expected 0 or more"),
        ({"temperature": "hot"}, UsageError, "temperature: expected a number; got 'hot'"),
        ({"top_p": 0.0}, PromptError, "top_p: expected 0 < top_p <= 1"),
        ({"top_k": -1}, PromptError, "top_k: expected 0"),
        ({"condition": "mood"}, UsageError, 'expected condition "signal" or "caption"'),
        ({"truncate": "middle"}, UsageError, 'expected truncate "oldest_turns"'),
        ({"image": {"height": 60}, "outputs": {"image"}}, UsageError, "height as a multiple of"),
    ],
)
def test_mistaken_requests(
    pocket: AnyToAny,
    monkeypatch: pytest.MonkeyPatch,
    arguments: dict[str, Any],
    kind: type[Exception],
    line: str,
) -> None:
    monkeypatch.delitem(pocket.decoders, "video", raising=False)
    with pytest.raises(kind, match=line) as caught:
        pocket.generate(**{"prompt": "hello", "seed": 7, **arguments})

    assert "\n" not in str(caught.value)


def test_overrides_reach_the_decoder(pocket: AnyToAny) -> None:
    reply = pocket.generate(
        "a red bell",
        outputs={"image"},
        seed=7,
        max_new_tokens=24,
        image={"num_inference_steps": 2, "scheduler": "euler", "height": 32, "width": 48},
    )
    (picture,) = reply.images

    assert picture.image.size == (48, 32)
    assert picture.provenance is not None
    assert picture.provenance.settings["scheduler"] == "euler"


def test_the_caption_can_be_what_decoders_are_told(pocket: AnyToAny) -> None:
    common: Any = {"outputs": {"image"}, "seed": 7, "max_new_tokens": 24, "num_inference_steps": 1}
    by_signal = pocket.generate("a red bell", **common)
    by_caption = pocket.generate("a red bell", condition="caption", **common)

    assert by_signal.images[0].image.tobytes() != by_caption.images[0].image.tobytes()
