"""`anyany chat`: turns, media in and out, commands, and what goes wrong."""

from __future__ import annotations

import io
import json
import sys
from pathlib import Path

import pytest

from anyany import AnyToAny
from anyany.cli import main
from anyany.cli.chat import Chat, _next_number
from anyany.decoders.config import DecoderPresets, DecoderSettings
from anyany.errors import MediaError, UsageError
from anyany.media import read_provenance
from anyany.messages import ImagePart


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """Two denoising steps."""
    original = DecoderPresets.get

    def get(self: DecoderPresets, name: str | None = None) -> DecoderSettings:
        settings = original(self, name)
        return DecoderSettings(2, settings.guidance_scale, settings.scheduler, settings.eta)

    monkeypatch.setattr(DecoderPresets, "get", get)


def say(lines: str, monkeypatch: pytest.MonkeyPatch, *options: str) -> int:
    monkeypatch.setattr(sys, "stdin", io.StringIO(lines))
    return main(["chat", "--threads", "1", *options])


def test_a_conversation_through_a_pipe(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    out, saved = tmp_path / "out", tmp_path / "talk.jsonl"
    lines = f"draw a red bell\n\n/to text\nwhat is this?\n/save {saved}\n/quit\nnot said\n"
    code = say(lines, monkeypatch, "-o", str(out), "--seed", "5", "--to", "text,image")
    shown = capsys.readouterr().out.splitlines()
    assert code == 0
    assert shown[1] == str(out / "reply_001_image_0.png")
    assert shown[3] == str(saved)
    record = read_provenance(out / "reply_001_image_0.png")
    assert record is not None
    assert record.seed == 5
    turns = [json.loads(line) for line in saved.read_text(encoding="utf-8").splitlines()]
    assert [turn["role"] for turn in turns] == ["user", "assistant"] * 2
    assert turns[1]["content"][1]["type"] == "image_url"
    assert turns[1]["content"][0]["text"] == shown[0]
    assert turns[3]["content"][0]["text"] == shown[2]


def test_mistakes_are_lines_and_an_exit_code(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    lines = "/what\n/attach none.png\n/to smell\n/seed x\n/retry\n/attach\n/save\n/help\n"
    assert say(lines, monkeypatch, "-o", str(tmp_path)) == 3
    shown = capsys.readouterr()
    assert "/attach FILE" in shown.out
    assert shown.err.count("error: ") == 7
    assert "none.png: no such file" in shown.err
    assert main(["chat", "--attach", str(tmp_path / "none.png")]) == 2


@pytest.fixture(scope="module")
def system() -> AnyToAny:
    return AnyToAny.from_pretrained("pocket", threads=None)


def test_what_is_attached_is_said_and_a_reply_can_be_had_again(
    system: AnyToAny, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    chat = Chat(system, tmp_path, {}, {"image"}, seed=1)
    assert chat.take("draw a blue drum")
    picture = tmp_path / "reply_001_image_0.png"
    chat.take(f"/attach '{picture}'")
    chat.take("/to text")
    chat.take("what is this?")
    assert len(chat.messages) == 4
    assert isinstance(chat.messages[2].parts[0], ImagePart)
    wanted = system.generate(chat.messages[:3], outputs={"text"}, seed=2)
    assert chat.messages[3].text == wanted.text
    chat.take("/retry")
    assert len(chat.messages) == 4
    chat.take("/new")
    assert (chat.messages, chat.attached) == ([], [])
    assert not chat.take("/quit")
    assert wanted.text in capsys.readouterr().out


def test_a_failed_turn_leaves_the_conversation_as_it_was(system: AnyToAny, tmp_path: Path) -> None:
    chat = Chat(system, tmp_path, {"max_new_tokens": 1}, {"text", "image"})
    with pytest.raises(UsageError):
        chat.take("draw a bell")
    assert chat.messages == []
    (tmp_path / "x.png").write_bytes(b"no picture")
    with pytest.raises(MediaError):
        chat.take(f"/attach {tmp_path / 'x.png'}")


def test_names_of_an_earlier_conversation_stay(tmp_path: Path) -> None:
    (tmp_path / "reply_001_image_0.png").touch()
    assert _next_number(tmp_path, 0) == 2
    assert _next_number(tmp_path, 4) == 5
