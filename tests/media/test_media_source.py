"""Opening files: what is refused, how it is named, and what modality it holds."""

import os
from pathlib import Path

import pytest

from anyany import media
from anyany.errors import MEDIA_CODES, InternalError, MediaError
from anyany.media.source import display_name


def failure(source: object, limits: media.Limits = media.DEFAULT_LIMITS) -> MediaError:
    with pytest.raises(MediaError) as caught:
        media.read_image(source, limits=limits)  # type: ignore[arg-type]
    assert caught.value.code in MEDIA_CODES
    assert "\n" not in str(caught.value)
    return caught.value


def test_the_codes_are_a_fixed_vocabulary() -> None:
    with pytest.raises(InternalError, match="expected a media error code"):
        MediaError("broken", "text")


def test_missing_empty_and_folder(tmp_path: Path) -> None:
    empty = tmp_path / "empty.png"
    empty.touch()
    cases = {
        tmp_path / "absent.png": ("missing", "absent.png: no such file"),
        empty / "below.png": ("missing", "below.png: no such file"),
        empty: ("empty", "empty.png: the file is empty (0 bytes)"),
        tmp_path: ("unsupported", f"{tmp_path.name}: expected a media file, got a folder"),
    }
    for path, (code, text) in cases.items():
        error = failure(path)
        assert (error.code, str(error)) == (code, text)
        assert str(tmp_path.parent) not in str(error)


def test_a_symbolic_link_is_refused_unless_allowed(
    tmp_path: Path, corpus: dict[str, bytes]
) -> None:
    target, link = tmp_path / "real.png", tmp_path / "link.png"
    target.write_bytes(corpus["image.png"])
    link.symlink_to(target)
    error = failure(link)
    assert error.code == "refused"
    assert str(error) == "link.png: a symbolic link; give the file that it points to"
    assert media.read_image(link, limits=media.Limits(allow_links=True)).size == (24, 16)


def test_devices_and_pipes_are_refused_without_waiting(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe.png")
    for path in (tmp_path / "pipe.png", Path("/dev/zero")):
        error = failure(path)
        assert error.code == "refused"
        assert "expected a regular file, got a device, pipe or socket" in str(error)


@pytest.mark.parametrize(
    "url",
    [
        *("http://user:secret@host/a.png", "https://host/a.png", "file:///etc/passwd"),
        *("data:image/png;base64,AAAA", "s3://bucket/key", "//host/share/a.png"),
        *("concat:a.png|b.png".replace(":", ":/"), "\\\\host\\share\\a.png"),
    ],
)
@pytest.mark.parametrize("kind", [str, Path])
def test_urls_are_refused_and_never_repeated(url: str, kind: type) -> None:
    error = failure(kind(url))
    assert error.code == "refused"
    assert str(error) == "expected a local file, got a URL; download the file first"


def test_a_name_with_nul_is_refused() -> None:
    error = failure("a\0b.png")
    assert (error.code, str(error)) == ("refused", "a?b.png: the path is not a valid file name")


def test_other_types_are_named() -> None:
    assert str(failure(3)) == "expected a path or bytes of a media file, got int"


def test_too_many_bytes_are_refused_for_files_and_bytes(
    tmp_path: Path, corpus: dict[str, bytes]
) -> None:
    path = tmp_path / "big.png"
    path.write_bytes(corpus["image.png"])
    for source, name in ((path, "big.png"), (corpus["image.png"], "the given bytes")):
        error = failure(source, media.Limits(file_bytes=50))
        assert error.code == "too_large"
        assert str(error) == f"{name}: the file is over the limit of 50 bytes"


def test_names_fit_one_printable_line() -> None:
    assert display_name("/secret/folder/a.png") == "a.png"
    assert display_name("C:\\secret\\a.png") == "a.png"
    assert display_name("a\nb\x1b[31m.png") == "a?b?[31m.png"
    assert len(display_name("x" * 300 + ".png")) <= 80


def test_sniff_tells_every_format_by_content(corpus: dict[str, bytes]) -> None:
    for name, data in corpus.items():
        assert media.sniff(data) == name.split(".")[0], name


def test_a_name_that_says_otherwise_is_an_error(tmp_path: Path, corpus: dict[str, bytes]) -> None:
    path = tmp_path / "clip.mp4"
    path.write_bytes(corpus["image.png"])
    with pytest.raises(MediaError) as caught:
        media.sniff(path)
    assert caught.value.code == "unsupported"
    assert str(caught.value) == (
        "clip.mp4: the name says .mp4, the content is a PNG picture; rename it"
    )
    swapped = tmp_path / "photo.png"
    swapped.write_bytes(corpus["image.jpg"])  # a picture is a picture
    assert media.read_image(swapped).size == (24, 16)


def test_reading_as_the_wrong_kind_says_what_came(corpus: dict[str, bytes]) -> None:
    with pytest.raises(MediaError, match=r"expected a picture \(.*\), got an MP4 or MOV file"):
        media.read_image(corpus["video.mp4"])
    with pytest.raises(MediaError, match=r"expected a clip \(.*\), got a PNG picture"):
        media.read_video(corpus["image.png"])
    with pytest.raises(MediaError, match=r"expected a recording \(.*\), got a GIF file"):
        media.read_audio(corpus["video.gif"])
    with pytest.raises(MediaError, match="found no sound inside"):
        media.read_audio(corpus["video.mp4"])
    with pytest.raises(MediaError, match="found no moving pictures inside"):
        media.read_video(corpus["audio.m4a"])


@pytest.mark.parametrize(
    "data", [b"hello", b"<html></html>", b"PK\x03\x04" + bytes(60), b"\0" * 64]
)
def test_anything_else_is_unsupported(data: bytes) -> None:
    with pytest.raises(
        MediaError, match="expected a picture, a clip or a recording, got"
    ) as caught:
        media.sniff(data)
    assert caught.value.code == "unsupported"
