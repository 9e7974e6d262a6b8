"""`anyany repro`: the same bytes again, or the reason why not."""

# ruff: noqa: F811 (fixtures are imported)

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from cli_runs import SHORT, Anyany, anyany, loaded, system  # noqa: F401
from PIL import Image

from anyany import AnyToAny, ImagePart
from anyany.media import read_provenance


@pytest.fixture
def drawn(anyany: Anyany, loaded: AnyToAny, tmp_path: Path) -> Path:
    """A picture that was made from words and another picture."""
    (tmp_path / "photos" / "inner").mkdir(parents=True)
    Image.new("RGB", (80, 64), "green").save(tmp_path / "photos" / "inner" / "any name.bmp")
    (tmp_path / "photos" / "notes.txt").write_text("no picture")
    run = anyany(
        *("generate", "make it blue", "photos/inner/any name.bmp", "--to", "image", "--steps", "2"),
        *("--seed", "5", *SHORT),
    )
    assert run.code == 0, run.err
    return tmp_path / "out" / "image_0.png"


def test_a_file_is_made_again_byte_for_byte(
    anyany: Anyany, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = anyany(
        *("generate", "a small red bell", "--to", "text,image", "--steps", "2", "--seed", "7"),
        *("--temperature", "0.7", *SHORT),
    )
    torch.set_num_threads(2)  # the record's own number must be taken
    run = anyany("repro", "out/image_0.png", "-o", "again.png")

    assert made.code == 0, made.err
    assert run == (0, "identical: out/image_0.png\n", "pocket on cpu, float32, 1 thread\n")
    assert torch.get_num_threads() == 1
    assert (tmp_path / "again.png").read_bytes() == (tmp_path / "out/image_0.png").read_bytes()


def test_inputs_are_found_by_content_under_any_name(anyany: Anyany, drawn: Path) -> None:
    run = anyany("repro", drawn, "--inputs", "photos")

    assert (run.code, run.out) == (0, f"identical: {drawn}\n")


def test_missing_inputs_are_named(anyany: Anyany, drawn: Path) -> None:
    record = read_provenance(drawn)
    assert record is not None
    line = f"error: missing inputs of the file: image {record.inputs[0].sha256[:12]}: give their"

    for arguments in (["repro", drawn], ["repro", drawn, "--inputs", "out"]):
        run = anyany(*arguments)
        assert run.code == 2
        assert run.err.startswith(line)
        assert run.err.count("\n") == 1


def test_a_changed_picture_is_told_from_a_changed_record(anyany: Anyany, drawn: Path) -> None:
    part = ImagePart.read(drawn)
    record = read_provenance(drawn)
    assert record is not None
    other = part.image.copy()
    other.putpixel((3, 3), (1, 2, 3))
    touched = drawn.with_name("touched.png")
    ImagePart(other, record).save(touched)
    elsewhere = drawn.with_name("elsewhere.png")
    versions = {**record.versions, "torch": "1.0"}
    ImagePart(part.image, replace(record, versions=versions)).save(elsewhere)

    changed = anyany("repro", touched, "--inputs", "photos")
    older = anyany("repro", elsewhere, "--inputs", "photos")

    assert (changed.code, older.code) == (1, 1)
    assert changed.out.startswith(f"different: {touched}: another image; the records agree")
    assert older.out.startswith(f"different: {elsewhere}: the image itself is the same; in the")
    assert older.out.endswith("versions differ\n")
    assert "the file was made with 1.0" in older.err


def test_files_that_cannot_be_made_again_are_refused(
    anyany: Anyany, drawn: Path, tmp_path: Path
) -> None:
    part, record = ImagePart.read(drawn), read_provenance(drawn)
    assert record is not None
    part.save(tmp_path / "bare.png")
    ImagePart(part.image, replace(record, model="owner/model")).save(tmp_path / "other.png")
    ImagePart(part.image, record.redacted()).save(tmp_path / "redacted.png")
    ImagePart(part.image, replace(record, settings={})).save(tmp_path / "hollow.png")
    ImagePart(part.image, replace(record, model_sha256="0" * 64)).save(tmp_path / "weights.png")
    lines = {
        "gone.png": "gone.png: no such file",
        "bare.png": "bare.png: it holds no record: anyany did not write it, or did so without",
        "other.png": "the file was made by 'owner/model', which is not packaged: give its folder",
        "redacted.png": "the file's prompt was redacted: it cannot be made again",
        "hollow.png": "the file's record is not of this version: it lacks settings",
        "weights.png": "expected the weights that made the file (pocket 000000000000)",
    }
    for name, line in lines.items():
        run = anyany("repro", name, "--inputs", "photos", "-q")

        assert (run.code, run.out) == (2, ""), name
        assert run.err.startswith(f"error: {line}")
        assert run.err.count("\n") == 1
