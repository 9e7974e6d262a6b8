"""Writing: atomic, deterministic, strict about what it is given."""

import errno
import json
import os
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest
from PIL import Image

from anyany import media
from anyany.errors import ResourceError, UsageError
from anyany.media import Provenance, encode

Frames = npt.NDArray[np.uint8]
Waveform = npt.NDArray[np.float32]


def test_equal_content_gives_equal_bytes_on_any_day(
    encode_one: Callable[[Provenance | None], bytes],
    provenance: Provenance,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    first = encode_one(provenance)
    monkeypatch.setattr(time, "time", lambda: 4e9)
    assert encode_one(provenance) == first


def test_the_clock_of_the_day_is_in_no_file(
    encode_one: Callable[[Provenance | None], bytes], provenance: Provenance
) -> None:
    now = int(time.time())
    data = encode_one(provenance)
    for epoch in (0, 2_082_844_800):  # of Unix and of MP4
        for order in ("big", "little"):
            stamps = {(now + epoch + late).to_bytes(4, order) for late in range(-2, 3)}
            assert not any(stamp in data for stamp in stamps)


def test_files_hold_what_encode_gives(
    tmp_path: Path,
    picture: Image.Image,
    frames: Frames,
    waveform: Waveform,
    provenance: Provenance,
) -> None:
    written = media.write_image(picture, tmp_path / "a.png", provenance=provenance)
    assert written.read_bytes() == media.encode_image(picture, provenance)
    written = media.write_video(frames, 8, tmp_path / "a.mp4", provenance=provenance)
    assert written.read_bytes() == media.encode_video(frames, 8, provenance)
    written = media.write_audio(waveform, 16_000, tmp_path / "a.wav", provenance=provenance)
    assert written.read_bytes() == media.encode_audio(waveform, 16_000, provenance)
    assert sorted(os.listdir(tmp_path)) == ["a.mp4", "a.png", "a.wav"]


def test_endings_choose_the_format_in_any_case(tmp_path: Path, picture: Image.Image) -> None:
    assert media.write_image(picture, tmp_path / "A.PNG").read_bytes().startswith(b"\x89PNG")
    assert media.write_image(picture, str(tmp_path / "a.jpg")).read_bytes()[:2] == b"\xff\xd8"


def test_unknown_endings_name_the_known(
    tmp_path: Path, picture: Image.Image, frames: Frames, waveform: Waveform
) -> None:
    cases: list[tuple[Callable[[], Path], str]] = [
        (lambda: media.write_image(picture, tmp_path / "a.bmp"), "a picture to be written as .png"),
        (lambda: media.write_video(frames, 8, tmp_path / "a"), "a clip to be written as .mp4"),
        (
            lambda: media.write_audio(waveform, 8_000, tmp_path / "a.mp3"),
            "a recording to be written as .wav, .flac; got '.mp3'",
        ),
    ]
    for write, expected in cases:
        with pytest.raises(UsageError, match=expected):
            write()
    assert os.listdir(tmp_path) == []


@pytest.mark.parametrize(
    "frames",
    [
        np.zeros((2, 8, 8, 3), np.float32),
        np.zeros((8, 8, 3), np.uint8),
        np.zeros((0, 8, 8, 3), np.uint8),
        np.zeros((2, 8, 8, 4), np.uint8),
    ],
)
def test_malformed_frames_are_named(frames: npt.NDArray[np.generic]) -> None:
    with pytest.raises(UsageError, match=r"expected frames as uint8 \[F, H, W, 3\], got "):
        media.encode_video(frames, 8)  # type: ignore[arg-type]


def test_odd_sizes_fit_gif_and_webp_but_not_mp4() -> None:
    frames = np.stack([np.zeros((7, 9, 3), np.uint8), np.full((7, 9, 3), 255, np.uint8)])
    with pytest.raises(UsageError, match="even height and width for MP4, got 7 x 9; write GIF"):
        media.encode_video(frames, 8)
    for ending in (".gif", ".webp"):
        read = media.read_video(media.encode_video(frames, 8, extension=ending))
        assert read.frames.shape == frames.shape


@pytest.mark.parametrize("rate", [0, -1, float("nan"), 1e9])
def test_senseless_frame_rates_are_named(frames: Frames, rate: float) -> None:
    with pytest.raises(UsageError, match="expected a frame rate above 0 and up to 1000"):
        media.encode_video(frames, rate)


@pytest.mark.parametrize(
    ("waveform", "text"),
    [
        (np.zeros(8, np.float32), r"expected a waveform as float \[channels, samples\]"),
        (np.zeros((1, 8), np.int16), r"got int16 \[1, 8\]"),
        (np.zeros((1, 0), np.float32), r"got float32 \[1, 0\]"),
        (np.zeros((9, 8), np.float32), "expected at most 8 channels, got 9"),
        (np.array([[np.nan]], np.float32), "expected a waveform of finite numbers"),
    ],
)
def test_malformed_waveforms_are_named(waveform: Waveform, text: str) -> None:
    with pytest.raises(UsageError, match=text):
        media.encode_audio(waveform, 16_000)


def test_loud_samples_are_clipped() -> None:
    read = media.read_audio(media.encode_audio(np.array([[2.0, -2.0]], np.float32), 8_000))
    np.testing.assert_array_equal(read.waveform, [[32_767 / 32_768, -1.0]])


@pytest.mark.parametrize("rate", [0, 7, 10**7])
def test_senseless_sample_rates_are_named(waveform: Waveform, rate: int) -> None:
    with pytest.raises(UsageError, match="expected a sample rate of 1,000 to 384,000 Hz"):
        media.encode_audio(waveform, rate)


def test_without_x264_mpeg4_is_written(frames: Frames, monkeypatch: pytest.MonkeyPatch) -> None:
    import av

    monkeypatch.setattr(av, "codecs_available", av.codecs_available - {"libx264"})
    data = media.encode_video(frames, 8)
    assert b"mp4v" in data
    assert data == media.encode_video(frames, 8)
    assert np.abs(media.read_video(data).frames.astype(int) - frames).mean() < 8


def test_a_missing_folder_is_named_without_its_path(tmp_path: Path, picture: Image.Image) -> None:
    with pytest.raises(UsageError) as caught:
        media.write_image(picture, tmp_path / "absent" / "a.png")
    assert str(caught.value) == "a.png: cannot be written, its folder does not exist"


def test_a_folder_in_the_way_is_an_error(tmp_path: Path, picture: Image.Image) -> None:
    (tmp_path / "a.png").mkdir()
    with pytest.raises(UsageError, match=r"a\.png: cannot be written here"):
        media.write_image(picture, tmp_path / "a.png")
    assert os.listdir(tmp_path) == ["a.png"]


def test_a_full_disk_leaves_the_old_file_whole(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = media.write_bytes(b"old", tmp_path / "a.bin")

    def no_space(handle: int) -> None:
        raise OSError(errno.ENOSPC, "No space left on device", "secret")

    monkeypatch.setattr(os, "fsync", no_space)
    with pytest.raises(ResourceError) as caught:
        media.write_bytes(b"new", path)
    assert str(caught.value) == "a.bin: cannot be written, the disk is full"
    assert path.read_bytes() == b"old"
    assert os.listdir(tmp_path) == ["a.bin"]


def test_json_is_utf8_and_finite(tmp_path: Path) -> None:
    path = media.write_json({"a": "é", "b": [1, None]}, tmp_path / "a.json")
    assert json.loads(path.read_text(encoding="utf-8")) == {"a": "é", "b": [1, None]}
    for record in ({"a": float("nan")}, {"a": object()}):
        with pytest.raises(UsageError, match=r"b\.json: expected plain, finite JSON values"):
            media.write_json(record, tmp_path / "b.json")
    assert os.listdir(tmp_path) == ["a.json"]


def test_a_record_too_long_for_jpeg_says_what_to_do(
    picture: Image.Image, provenance: Provenance
) -> None:
    from dataclasses import replace

    long = replace(provenance, prompt="x" * 70_000)
    with pytest.raises(UsageError, match="too long for a JPEG; write a PNG"):
        media.encode_image(picture, long, extension=".jpg")
    assert media.read_provenance(encode.encode_image(picture, long)) == long
