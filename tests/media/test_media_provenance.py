"""The record in files: round trips through every format, independent readers, and bad records."""

import io
import json
import struct
import zlib
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest
import soundfile
from PIL import Image

from anyany import media
from anyany.errors import MediaError, UsageError
from anyany.media import AI_MARK, Provenance, content_sha256


def test_json_round_trip(provenance: Provenance) -> None:
    text = provenance.to_json()
    assert text.isascii()
    assert "\n" not in text
    assert Provenance.from_json(text) == provenance
    assert Provenance.from_json(text).to_json() == text
    assert json.loads(text)["ai_generated"] is True


def test_every_format_carries_the_record_and_can_be_stripped(
    encode_one: Callable[[Provenance | None], bytes], provenance: Provenance, tmp_path: Path
) -> None:
    data = encode_one(provenance)
    assert media.read_provenance(data) == provenance
    path = tmp_path / "file"
    path.write_bytes(data)
    assert media.read_provenance(path) == provenance
    assert AI_MARK.encode() in data
    stripped = encode_one(None)
    assert media.read_provenance(stripped) is None
    assert b"anyany" not in stripped


def test_the_record_does_not_change_the_content(
    encode_one: Callable[[Provenance | None], bytes], provenance: Provenance
) -> None:
    marked, plain = encode_one(provenance), encode_one(None)
    kind = media.sniff(plain)
    assert media.sniff(marked) == kind
    if kind == "image":
        assert media.read_image(marked).tobytes() == media.read_image(plain).tobytes()
    elif kind == "video":
        assert media.read_video(marked).frames.tobytes() == media.read_video(plain).frames.tobytes()
    else:
        np.testing.assert_array_equal(
            media.read_audio(marked).waveform, media.read_audio(plain).waveform
        )


def test_other_programs_find_the_record(
    picture: Image.Image, frames: Any, waveform: Any, provenance: Provenance
) -> None:
    record = provenance.to_json()
    with Image.open(io.BytesIO(media.encode_image(picture, provenance))) as png:
        assert png.text["anyany"] == record  # type: ignore[attr-defined]
        assert png.text["Comment"] == AI_MARK  # type: ignore[attr-defined]
        assert png.text["Software"] == "anyany 0.1.0"  # type: ignore[attr-defined]
    for ending in (".jpg", ".webp"):
        with Image.open(
            io.BytesIO(media.encode_image(picture, provenance, extension=ending))
        ) as image:
            assert image.getexif()[0x010E].endswith(record)
    with av.open(io.BytesIO(media.encode_video(frames, 8, provenance))) as clip:
        assert clip.metadata["comment"].endswith(record)
        assert clip.metadata["description"] == AI_MARK
    for ending in (".wav", ".flac"):
        data = media.encode_audio(waveform, 16_000, provenance, extension=ending)
        with soundfile.SoundFile(io.BytesIO(data)) as sound:
            assert sound.comment.startswith(AI_MARK)
            assert ending == ".wav" or sound.comment.endswith(record)  # libsndfile cuts in WAV


def test_redaction_leaves_no_word_of_the_prompt(provenance: Provenance) -> None:
    settings = {**provenance.settings, "negative_prompt": "keine Glocke"}
    redacted = replace(provenance, settings=settings).redacted()
    assert redacted.settings["steps"] == 20
    assert redacted.prompt is None
    assert "Glocke" not in redacted.to_json()
    assert redacted.inputs == provenance.inputs
    assert redacted.request[0]["content"][1] == provenance.request[0]["content"][1]
    plain = replace(provenance, request=[{"role": "user", "content": "eine Glocke"}])
    assert "Glocke" not in plain.redacted().to_json()
    assert Provenance.from_json(redacted.to_json()) == redacted


@pytest.mark.parametrize(
    ("change", "text"),
    [
        ({"model_sha256": "abc"}, "expected SHA-256 sums"),
        ({"model": "/srv/models/pocket"}, "expected the model's name in provenance, got a path"),
        ({"model": "C:\\models"}, "got a path"),
        ({"model": "../pocket"}, "got a path"),
        ({"seed": -1}, "expected seed and index"),
        ({"settings": {"x": float("nan")}}, "expected plain, finite JSON values"),
        ({"settings": {"x": object()}}, "expected plain, finite JSON values"),
        ({"request": [{"role": "user"}]}, "expected the request of provenance as turns"),
        ({"request": [{"role": "user", "content": [3]}]}, "as turns"),
    ],
)
def test_malformed_values_are_refused(
    provenance: Provenance, change: dict[str, Any], text: str
) -> None:
    with pytest.raises(UsageError, match=text):
        replace(provenance, **change)


def test_a_name_with_an_owner_is_no_path(provenance: Provenance) -> None:
    assert replace(provenance, model="owner/pocket").model == "owner/pocket"


def with_record(png: bytes, text: bytes, compressed: bool = False) -> bytes:
    content = b"anyany\0" + bytes([compressed, 0]) + b"\0\0" + text
    chunk = b"iTXt" + content
    framed = struct.pack(">I", len(content)) + chunk + struct.pack(">I", zlib.crc32(chunk))
    return png[:33] + framed + png[33:]


@pytest.mark.parametrize(
    "damage",
    [
        lambda text: text[:-5],
        lambda text: text.replace('"seed":7', '"seed":"7"'),
        lambda text: text.replace('"seed":7,', ""),
        lambda text: text.replace('"seed"', '"sead"'),
        lambda text: text.replace('"ai_generated":true', '"ai_generated":false'),
        lambda text: text.replace('"format_version":1', '"format_version":2'),
        lambda text: text.replace("a" * 64, "a" * 63),
        lambda text: "[" * 100_000,
        lambda text: "null",
        lambda text: "",
        lambda text: " " * (2**20 + 1),
    ],
)
def test_malformed_records_are_corrupt(
    picture: Image.Image, provenance: Provenance, damage: Callable[[str], str], tmp_path: Path
) -> None:
    path = tmp_path / "made.png"
    path.write_bytes(
        with_record(media.encode_image(picture), damage(provenance.to_json()).encode())
    )
    with pytest.raises(MediaError) as caught:
        media.read_provenance(path)
    assert caught.value.code == "corrupt"
    assert str(caught.value).startswith("made.png: the provenance record is ")


def test_a_compressed_record_is_corrupt(picture: Image.Image) -> None:
    bomb = with_record(media.encode_image(picture), zlib.compress(bytes(10**6)), compressed=True)
    with pytest.raises(MediaError, match="the provenance record is malformed"):
        media.read_provenance(bomb)


def test_other_files_and_comments_hold_no_record(corpus: dict[str, bytes]) -> None:
    for name, data in corpus.items():
        assert media.read_provenance(data) is None, name
    exif = Image.Exif()
    exif[0x010E] = "a holiday"
    buffer = io.BytesIO()
    Image.new("RGB", (4, 4)).save(buffer, "JPEG", exif=exif.tobytes())
    assert media.read_provenance(buffer.getvalue()) is None


def test_content_hash_sees_content_and_nothing_else(picture: Image.Image) -> None:
    pixels = np.asarray(picture)
    same = np.asarray(media.read_image(media.encode_image(picture)))
    assert content_sha256("image", pixels) == content_sha256("image", same)
    assert content_sha256("image", pixels[:, ::-1]) == content_sha256(
        "image", pixels[:, ::-1].copy()
    )
    others = [
        content_sha256("image", pixels),
        content_sha256("image", pixels[:, ::-1]),
        content_sha256("image", pixels.reshape(pixels.shape[1], pixels.shape[0], 3)),
        content_sha256("video", pixels[None], 8.0),
        content_sha256("video", pixels[None], 9.0),
    ]
    assert len(set(others)) == len(others)


def test_a_clip_has_the_same_bytes_every_time(provenance: Provenance) -> None:
    rng = np.random.default_rng(0)
    frames = rng.integers(0, 256, (8, 64, 64, 3), dtype=np.uint8)
    frames[:, :32] = 230
    assert len({media.encode_video(frames, 8.0, provenance) for _ in range(40)}) == 1
