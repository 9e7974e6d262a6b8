"""`anyany generate`: what it prints and writes, and a line for every bad input."""

# ruff: noqa: F811 (fixtures are imported)

import io
import json
import struct
import sys
import zlib
from dataclasses import replace
from pathlib import Path

import pytest
from cli_runs import SHORT, Anyany, anyany, loaded, system  # noqa: F401
from PIL import Image

from anyany import AnyToAny
from anyany.media import read_provenance
from anyany.messages import ImagePart, TextPart


@pytest.fixture
def bell(tmp_path: Path) -> Path:
    path = tmp_path / "bell.png"
    Image.new("RGB", (64, 64), "red").save(path)
    return path


def test_text_and_pictures_are_printed_and_saved_in_order(
    anyany: Anyany, loaded: AnyToAny, tmp_path: Path
) -> None:
    run = anyany(
        *("generate", "a small red bell", "--to", "text,image", "-o", "out", "--seed", "7"),
        *("--steps", "2", *SHORT),
    )

    assert run.code == 0
    lines = run.out.splitlines()
    reply = json.loads((tmp_path / "out" / "reply.json").read_text())
    said = [p["text"] if p["type"] == "text" else f"out/{p['file']}" for p in reply["parts"]]
    assert lines == said
    assert {part["type"] for part in reply["parts"]} == {"text", "image"}
    record = read_provenance(tmp_path / "out" / "image_0.png")
    assert record is not None
    assert record.seed == reply["seed"] == 7
    assert record.settings["num_inference_steps"] == 2


def test_text_alone_writes_no_files(
    anyany: Anyany, loaded: AnyToAny, bell: Path, tmp_path: Path
) -> None:
    run = anyany("generate", "what is this?", "bell.png", "--to", "text", "-q", *SHORT)

    assert run.code == 0
    assert len(run.out.splitlines()) >= 1
    assert run.err == ""
    assert [path.name for path in tmp_path.iterdir()] == ["bell.png"]


def test_a_drawn_seed_is_noted_on_stderr(anyany: Anyany, loaded: AnyToAny) -> None:
    run = anyany("generate", "a bell", "--to", "image", "--steps", "1", *SHORT)

    assert run.code == 0
    seed = next(line for line in run.err.splitlines() if line.startswith("seed ")).split()[1]
    record = read_provenance(run.out.strip())
    assert record is not None
    assert record.seed == int(seed)


def test_no_metadata_leaves_nothing_in_the_file(
    anyany: Anyany, loaded: AnyToAny, tmp_path: Path
) -> None:
    run = anyany(
        *("generate", "a secret bell", "--to", "image", "--steps", "1", "--no-metadata", *SHORT)
    )

    assert run.code == 0
    data = (tmp_path / "out" / "image_0.png").read_bytes()
    assert read_provenance(data) is None
    assert b"anyany" not in data
    with Image.open(io.BytesIO(data)) as picture:
        assert picture.info == {}


def test_json_is_one_object(anyany: Anyany, loaded: AnyToAny) -> None:
    run = anyany(
        *("generate", "a bell", "--to", "text,image", "--steps", "1", "--json", "--seed", "3"),
        *SHORT,
    )

    assert run.code == 0
    record = json.loads(run.out)
    assert record["model"] == "pocket"
    assert record["seed"] == 3
    assert {part["type"] for part in record["parts"]} == {"text", "image"}
    assert all(Path(part["file"]).is_file() for part in record["parts"] if "file" in part)
    assert "decode.image" in record["timings"]


def test_streamed_text_is_the_text(anyany: Anyany, loaded: AnyToAny) -> None:
    whole = anyany("generate", "hello", "--to", "text", *SHORT)
    streamed = anyany("generate", "hello", "--to", "text", "--stream", *SHORT)

    assert streamed.code == 0
    assert streamed.out.strip() == whole.out.strip() != ""


def test_the_prompt_can_come_from_stdin(
    anyany: Anyany, loaded: AnyToAny, monkeypatch: pytest.MonkeyPatch
) -> None:
    stdin = io.TextIOWrapper(io.BytesIO(b"hello\n"), encoding="utf-8")
    monkeypatch.setattr(sys, "stdin", stdin)
    piped = anyany("generate", "-", "--to", "text", *SHORT)

    assert piped.code == 0
    assert piped.out == anyany("generate", "hello", "--to", "text", *SHORT).out


def test_media_go_before_the_text_or_where_they_stand(
    bell: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from anyany.cli.generate import read_prompt

    monkeypatch.chdir(tmp_path)
    by_option = read_prompt(["what is this?"], image=["bell.png", "bell.png"])
    in_order = read_prompt(["first", "bell.png", "then", str(bell)])

    assert [type(part) for part in by_option] == [ImagePart, ImagePart, TextPart]
    assert [type(part) for part in in_order] == [TextPart, ImagePart, TextPart, ImagePart]
    assert [type(part) for part in read_prompt(["draw a bell like bell.png"])] == [TextPart]


def chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def bomb() -> bytes:
    """A PNG of 20,000 x 20,000 pixels in a few kilobytes."""
    header = chunk(b"IHDR", struct.pack(">IIBBBBB", 20_000, 20_000, 1, 0, 0, 0, 0))
    rows = chunk(b"IDAT", zlib.compress(b"\0" * 2501 * 200))
    return b"\x89PNG\r\n\x1a\n" + header + rows + chunk(b"IEND", b"")


@pytest.fixture
def bad(bell: Path, tmp_path: Path) -> None:
    """One file of every bad kind, in the current folder."""
    (tmp_path / "empty.png").write_bytes(b"")
    (tmp_path / "torn.png").write_bytes(bell.read_bytes()[:-20])
    (tmp_path / "text.png").write_text("not a picture")
    (tmp_path / "bomb.png").write_bytes(bomb())
    (tmp_path / "song.mp3").write_bytes(bell.read_bytes())
    (tmp_path / "link.png").symlink_to(bell)
    (tmp_path / "folder").mkdir()
    (tmp_path / "notes.txt").write_text("hello")


@pytest.mark.parametrize(
    ("arguments", "line"),
    [
        (["what is this?", "gone.png"], "gone.png: no such file"),
        (["what is this?", "--image", "gone.jpg"], "gone.jpg: no such file"),
        (["what is this?", "empty.png"], "empty.png: the file is empty (0 bytes)"),
        (["what is this?", "torn.png"], "torn.png: the file is cut short"),
        (
            ["what is this?", "text.png"],
            "text.png: expected a picture, a clip or a recording, got something else",
        ),
        (
            ["what is this?", "--image", "notes.txt"],
            "notes.txt: expected a picture (PNG, JPEG, WebP, GIF or BMP), got something else",
        ),
        (
            ["what is this?", "song.mp3"],
            "song.mp3: the name says .mp3, the content is a PNG picture; rename it",
        ),
        (
            ["what is this?", "bomb.png"],
            "bomb.png: 20000 x 20000 pixels are over the limit of 50,000,000",
        ),
        (["hello", "--image", "folder"], "folder: expected a media file, got a folder"),
        (
            ["hello", "--image", "link.png"],
            "link.png: a symbolic link; give the file that it points to",
        ),
        (
            ["hello", "--image", "http://example.org/a.png"],
            "expected a local file, got a URL; download the file first",
        ),
        (
            ["hello", "--audio", "bell.png"],
            "bell.png: expected a recording (WAV, FLAC, MP3, AAC, M4A, Ogg, or a clip with sound), "
            "got a PNG picture",
        ),
        (
            ["hello", "--to", "smell"],
            "--to: expected a list of text, image, video, audio; got 'smell'",
        ),
        (["hello", "--to", ","], "--to: expected a list of text, image, video, audio; got nothing"),
        ([], "the prompt is empty: give it text, or at least one media file"),
        ([""], "the prompt is empty: give it text, or at least one media file"),
        (["  "], "the prompt is empty: give it text, or at least one media file"),
        (["hello", "--json", "--stream"], "expected --json or --stream, got both: leave one out"),
        (
            ["hello", "--to", "text", "--steps", "5"],
            "--steps and its like are for media, and --to text asks for none",
        ),
        (["hello", "-o", "notes.txt"], "--out: expected a folder, got the file 'notes.txt'"),
        (
            ["hello", "--steps", "0"],
            "num_inference_steps: expected a whole number from 1 to 1000; got 0",
        ),
        (["hello", "--preset", "best"], "settings: expected reference or fast; got 'best'"),
    ],
)
def test_bad_input_is_refused_before_a_model_is_loaded(
    anyany: Anyany,
    bad: None,
    monkeypatch: pytest.MonkeyPatch,
    arguments: list[str],
    line: str,
) -> None:
    def from_pretrained(*_: object, **__: object) -> AnyToAny:
        raise AssertionError("a model was loaded")

    monkeypatch.setattr(AnyToAny, "from_pretrained", from_pretrained)

    assert anyany("generate", *arguments) == (2, "", f"error: {line}\n")


def test_what_a_system_does_not_make_is_refused(
    anyany: Anyany, loaded: AnyToAny, monkeypatch: pytest.MonkeyPatch
) -> None:
    for modality in ("video", "audio"):
        monkeypatch.delitem(loaded.decoders, modality, raising=False)
    run = anyany("generate", "-q", "hello", "--to", "video")
    line = "expected outputs among text, image; got video: this system has no decoder for it"
    assert run == (2, "", f"error: {line}\n")


@pytest.mark.parametrize(
    ("arguments", "line"),
    [
        (
            ["word " * 2000],
            "tokens and max_new_tokens is 24, but the language model's context is 512: shorten "
            "the prompt or lower max_new_tokens",
        ),
        (
            ["hello", "--to", "text,image", "--max-new-tokens", "4"],
            "max_new_tokens is 4, but text, image needs at least 5: set max_new_tokens to 5 or "
            "more",
        ),
        (["hello", "--temperature", "-1"], "temperature: expected 0 or more, got -1.0"),
        (
            ["hello", "--condition", "mood"],
            'expected condition "signal" or "caption"; got \'mood\'',
        ),
        (["hello", "--seed", "-1"], "expected a seed from 0 to 2**63 - 1; got -1"),
    ],
)
def test_what_only_the_model_can_judge_is_refused_as_clearly(
    anyany: Anyany, loaded: AnyToAny, arguments: list[str], line: str
) -> None:
    run = anyany("generate", "-q", *SHORT, *arguments)

    assert run.code == 2
    assert run.out == ""
    assert run.err.startswith("error: ")
    assert run.err.endswith(f"{line}\n")
    assert run.err.count("\n") == 1


@pytest.mark.parametrize(
    ("arguments", "line"),
    [
        (["-m", "no-such-folder"], "expected one of pocket, or a folder with config.json; got"),
        (["-m", "nextgpt-7b-v1.5"], "nextgpt-7b-v1.5 has a configuration but no weights here"),
        (["--device", "abacus"], "device: expected auto, cpu, cuda, cuda:INDEX or mps; got"),
        (["--dtype", "float8", "--device", "cpu"], "dtype: expected one of float32"),
    ],
)
def test_a_model_that_cannot_be_loaded_is_a_line(
    anyany: Anyany, arguments: list[str], line: str
) -> None:
    run = anyany("generate", "hello", "--threads", "1", *arguments)

    assert run.code == 2
    assert run.out == ""
    assert run.err.startswith(f"error: {line}")
    assert run.err.count("\n") == 1


def test_a_hub_name_without_the_hub_is_a_line_and_opens_no_socket(
    anyany: Anyany, monkeypatch: pytest.MonkeyPatch
) -> None:
    def connect(*_: object) -> None:
        raise AssertionError("a socket was opened")

    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    monkeypatch.setattr("socket.socket.connect", connect)
    run = anyany("generate", "hello", "-m", "nobody/no-such-system", "--threads", "1")

    assert run == (
        2,
        "",
        "error: cannot fetch 'nobody/no-such-system' from the Hub: check the name and the "
        "connection, or give a local folder\n",
    )


def test_the_card_of_a_non_commercial_system_is_shown(
    anyany: Anyany, loaded: AnyToAny, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = replace(loaded.config, card="Non-commercial use only: weights of others.")
    monkeypatch.setattr(loaded, "config", config)
    run = anyany("generate", "hello", "--to", "text", *SHORT)

    assert run.code == 0
    assert "warning: Non-commercial use only: weights of others.\n" in run.err
