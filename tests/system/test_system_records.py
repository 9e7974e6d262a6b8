"""Provenance: what a file says of itself, and that this is enough to make it again."""

# ruff: noqa: F811 (fixtures are imported)

import getpass
import json
import platform
from dataclasses import replace
from pathlib import Path

import pytest
from system_fixtures import picture, pocket  # noqa: F401

from anyany import AnyToAny, ImagePart
from anyany.errors import CheckpointError, UsageError
from anyany.media import AI_MARK, Provenance, read_provenance
from anyany.records import part_sha256, request_from_record

FAST = {"outputs": {"text", "image"}, "max_new_tokens": 24, "num_inference_steps": 2}


@pytest.fixture(scope="module")
def drawn(pocket: AnyToAny, picture: ImagePart) -> ImagePart:
    reply = pocket.generate([picture, "make it blue"], seed=11, guidance_scale=1.5, **FAST)  # type: ignore[arg-type]
    return reply.images[0]


@pytest.fixture
def record(drawn: ImagePart) -> Provenance:
    assert drawn.provenance is not None
    return drawn.provenance


def test_the_record_holds_what_decides_the_bytes(
    pocket: AnyToAny, picture: ImagePart, record: Provenance
) -> None:
    assert record.model == "pocket"
    assert record.model_sha256 == pocket.model_sha256
    assert (record.seed, record.modality, record.index) == (11, "image", 0)
    assert record.prompt == "make it blue"
    assert [(item.modality, item.sha256) for item in record.inputs] == [
        ("image", part_sha256(picture))
    ]
    assert record.settings["num_inference_steps"] == 2
    assert record.settings["guidance_scale"] == 1.5
    assert record.settings["outputs"] == ["image", "text"]
    assert record.settings["threads"] == 1
    assert record.settings["device"] == "cpu"
    assert record.settings["dtype"] == "float32"
    assert {"anyany", "torch", "diffusers", "transformers", "python"} <= set(record.versions)


def test_the_record_is_in_the_file_with_the_mark_and_names_no_place(
    drawn: ImagePart, record: Provenance, tmp_path: Path
) -> None:
    path = drawn.save(tmp_path / "drawn.png")
    text = path.read_bytes().decode("latin-1")

    assert read_provenance(path) == record
    assert AI_MARK in text
    said = json.dumps(json.loads(record.to_json()))
    for secret in (str(tmp_path), str(Path.home()), platform.node(), f"/{getpass.getuser()}/"):
        assert secret not in said
    bare = drawn.save(tmp_path / "bare.png", metadata=False)
    assert read_provenance(bare) is None


def test_a_record_makes_its_part_again(
    pocket: AnyToAny, picture: ImagePart, drawn: ImagePart, record: Provenance, tmp_path: Path
) -> None:
    again = pocket.regenerate(record, {part_sha256(picture): picture})

    first, second = drawn.save(tmp_path / "a.png"), again.save(tmp_path / "b.png")
    assert first.read_bytes() == second.read_bytes()


def test_missing_inputs_are_named_by_hash(
    pocket: AnyToAny, picture: ImagePart, record: Provenance
) -> None:
    with pytest.raises(UsageError, match=f"missing inputs.*image {part_sha256(picture)[:12]}"):
        pocket.regenerate(record, {})


def test_a_redacted_record_says_so_and_keeps_no_word(picture: ImagePart, pocket: AnyToAny) -> None:
    reply = pocket.generate(
        "a secret bell",
        seed=1,
        **{**FAST, "image": {"negative": "secret drum"}},  # type: ignore[arg-type]
    )
    record = reply.images[0].provenance
    assert record is not None
    redacted = record.redacted()

    assert "secret" in record.to_json()
    assert "secret" not in redacted.to_json()
    with pytest.raises(UsageError, match="prompt was redacted"):
        request_from_record(redacted, {})


def test_a_picture_without_words_is_no_redacted_prompt(
    pocket: AnyToAny, picture: ImagePart, tmp_path: Path
) -> None:
    (drawn,) = pocket.generate(picture, seed=1, **{**FAST, "outputs": {"image"}}).images  # type: ignore[arg-type]
    assert drawn.provenance is not None
    again = pocket.regenerate(drawn.provenance, {part_sha256(picture): picture})

    assert part_sha256(again) == part_sha256(drawn)


def test_other_weights_are_refused(pocket: AnyToAny, record: Provenance) -> None:
    with pytest.raises(CheckpointError, match="expected the weights that made the file"):
        pocket.regenerate(replace(record, model_sha256="0" * 64), {})


@pytest.mark.parametrize("name", ["outputs", "max_new_tokens", "decoding", "condition"])
def test_a_record_without_its_settings_is_refused(
    picture: ImagePart, record: Provenance, name: str
) -> None:
    settings = {key: value for key, value in record.settings.items() if key != name}

    with pytest.raises(UsageError, match="not of this version"):
        request_from_record(replace(record, settings=settings), {part_sha256(picture): picture})
