"""Hostile and damaged files: a generated corpus, lists of other files, and what errors say."""

import os
import random
import re
import struct
import time
from pathlib import Path

import pytest

from anyany import media
from anyany.errors import MEDIA_CODES, MediaError
from anyany.media.containers import open_container
from anyany.media.source import Source

READERS = {"image": media.read_image, "video": media.read_video, "audio": media.read_audio}
NAMES = (
    *("image.png", "image.jpg", "image.webp", "image.gif", "image.bmp"),
    *("video.mp4", "video.webm", "video.avi", "video.gif", "video.webp"),
    *("audio.wav", "audio.flac", "audio.mp3", "audio.m4a", "audio.aac", "audio.ogg"),
)
UNMEASURED = ("audio.mp3", "audio.aac")  # formats that do not say how long they are

# What no message may hold: addresses, paths, objects, the words of libraries.
LEAK = re.compile(
    r"0x[0-9a-f]|/|\\|<|Error|Errno|Invalid data|libav|ffmpeg|sndfile|PIL|cannot identify|broken",
)


def check_message(error: MediaError, name: str) -> None:
    assert error.code in MEDIA_CODES
    assert str(error).startswith(f"{name}: ")
    assert "\n" not in str(error)
    assert not LEAK.search(str(error)), str(error)
    assert error.__cause__ is None
    assert error.__context__ is None or error.__suppress_context__


@pytest.mark.parametrize("name", NAMES)
def test_every_cut_is_noticed(corpus: dict[str, bytes], tmp_path: Path, name: str) -> None:
    path, data = tmp_path / name, corpus[name]
    for part in (0.01, 0.1, 0.3, 0.5, 0.7, 0.9, 0.98):
        path.write_bytes(data[: max(1, int(len(data) * part))])
        if name in UNMEASURED:
            check_shorter(path, data, part)
            continue
        with pytest.raises(MediaError) as caught:
            READERS[name.split(".")[0]](path)
        check_message(caught.value, name)
        assert caught.value.code in ("corrupt", "unsupported")


def check_shorter(path: Path, data: bytes, part: float) -> None:
    try:
        cut = media.read_audio(path).waveform.shape[1]
    except MediaError as error:
        check_message(error, path.name)
    else:
        whole = media.read_audio(data).waveform.shape[1]
        assert cut <= whole if part > 0.9 else cut < whole


@pytest.mark.parametrize("name", NAMES)
def test_flipped_and_zeroed_bytes_decode_or_fail_cleanly(
    corpus: dict[str, bytes], tmp_path: Path, name: str
) -> None:
    path, failures = tmp_path / name, 0
    dice = random.Random(name)
    for mutation in range(24):
        data = bytearray(corpus[name])
        if mutation % 3 == 0:  # anywhere
            for _ in range(1 + mutation):
                data[dice.randrange(len(data))] ^= dice.randrange(1, 256)
        elif mutation % 3 == 1:  # in the headers
            data[dice.randrange(min(200, len(data)))] ^= dice.randrange(1, 256)
        else:
            start = dice.randrange(min(300, len(data)))
            data[start : start + 16] = bytes(len(data[start : start + 16]))
        path.write_bytes(bytes(data))
        started = time.perf_counter()
        try:
            READERS[name.split(".")[0]](path)
            media.read_provenance(path)
        except MediaError as error:
            check_message(error, name)
            failures += 1
        assert time.perf_counter() - started < 30  # seconds: no hang, even on a busy machine
    assert failures > 0


@pytest.mark.parametrize("name", NAMES)
def test_a_zeroed_opening_is_unsupported(
    corpus: dict[str, bytes], tmp_path: Path, name: str
) -> None:
    path = tmp_path / name
    path.write_bytes(bytes(16) + corpus[name][16:])
    with pytest.raises(MediaError) as caught:
        READERS[name.split(".")[0]](path)
    check_message(caught.value, name)
    assert caught.value.code == "unsupported"


def test_a_declared_size_of_4_gib_costs_nothing(corpus: dict[str, bytes], tmp_path: Path) -> None:
    data = bytearray(corpus["video.mp4"])
    at = data.index(b"mdat") - 4
    data[at : at + 4] = struct.pack(">I", 2**32 - 1)
    path = tmp_path / "clip.mp4"
    path.write_bytes(bytes(data))
    with pytest.raises(MediaError, match=r"clip\.mp4: the file is cut short") as caught:
        media.read_video(path)
    assert caught.value.code == "corrupt"


PLAYLISTS = {
    "ffconcat": "ffconcat version 1.0\nfile secret.wav\n",
    "m3u8": "#EXTM3U\n#EXT-X-TARGETDURATION:9\n#EXTINF:9,\nsecret.wav\n#EXT-X-ENDLIST\n",
    "sdp": "v=0\nc=IN IP4 127.0.0.1\nm=audio 9 RTP/AVP 0\n",
    "mpd": '<?xml version="1.0"?>\n<MPD><BaseURL>secret.wav</BaseURL></MPD>',
}


@pytest.mark.parametrize("kind", PLAYLISTS)
@pytest.mark.parametrize("ending", [".mp4", ".wav", ".mkv", ".gif", ".ffconcat"])
def test_a_file_that_names_other_files_is_refused(
    corpus: dict[str, bytes],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    kind: str,
    ending: str,
) -> None:
    (tmp_path / "secret.wav").write_bytes(corpus["audio.wav"])
    monkeypatch.chdir(tmp_path)  # where such a list would find its file
    path = tmp_path / f"clip{ending}"
    path.write_text(PLAYLISTS[kind])
    for read in (media.sniff, *READERS.values()):
        for source in (path, path.read_bytes()):
            with pytest.raises(MediaError) as caught:
                read(source)
            assert caught.value.code == "refused"
            assert "names other files to read, which is never done" in str(caught.value)


def test_containers_never_open_a_second_file(
    corpus: dict[str, bytes], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Even if a list got past the first look, no demuxer would follow it."""
    (tmp_path / "secret.wav").write_bytes(corpus["audio.wav"])
    monkeypatch.chdir(tmp_path)
    listing = Source(PLAYLISTS["ffconcat"].encode(), "clip.mp4")
    for name in ("mov", "matroska", "avi", "mp3", "aac", "ogg"):
        try:
            with open_container(listing, name) as container:
                assert not list(container.streams), name
        except MediaError as error:
            check_message(error, "clip.mp4")
    with pytest.raises(MediaError, match="damaged"), open_container(listing, "concat"):
        pass
    assert os.listdir(tmp_path) == ["secret.wav"]


@pytest.mark.parametrize("name", NAMES)
def test_what_follows_the_end_is_not_read(corpus: dict[str, bytes], name: str) -> None:
    kind = name.split(".")[0]
    tailed = corpus[name] + b"PK\x03\x04 a zip behind" * 9
    assert media.sniff(tailed) == kind
    assert content(kind, tailed) == content(kind, corpus[name])


def content(kind: str, data: bytes) -> bytes:
    if kind == "image":
        return media.read_image(data).tobytes()
    if kind == "video":
        return media.read_video(data).frames.tobytes()
    return media.read_audio(data).waveform.tobytes()


@pytest.mark.parametrize(
    "text", ['<svg xmlns="http://www.w3.org/2000/svg"/>', "%!PS-Adobe-3.0 EPSF-3.0", "<html>"]
)
def test_vector_and_web_pages_are_not_pictures(tmp_path: Path, text: str) -> None:
    path = tmp_path / "page.png"
    path.write_text(text)
    with pytest.raises(MediaError) as caught:
        media.read_image(path)
    assert caught.value.code == "unsupported"
    check_message(caught.value, "page.png")
