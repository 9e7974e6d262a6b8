"""Parts, prompts in every accepted form, and replies on disk."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from anyany import media
from anyany.errors import MediaError, UsageError
from anyany.messages import (
    AudioPart,
    ImagePart,
    Message,
    Reply,
    TextPart,
    VideoPart,
    read_part,
    to_messages,
    to_part,
)


def red() -> Image.Image:
    return Image.new("RGB", (8, 6), (200, 10, 10))


def frames() -> Any:
    shades = np.arange(4, dtype=np.uint8)[:, None, None, None]
    return np.broadcast_to(shades * 60, (4, 8, 8, 3)).copy()


def samples() -> Any:
    return np.linspace(-0.5, 0.5, 1_600, dtype=np.float32)[None]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    media.write_image(red(), tmp_path / "a.png")
    media.write_video(frames(), 8, tmp_path / "a.mp4")
    media.write_audio(samples(), 16_000, tmp_path / "a.wav")
    return tmp_path


@pytest.mark.parametrize(
    ("name", "kind"), [("a.png", ImagePart), ("a.mp4", VideoPart), ("a.wav", AudioPart)]
)
def test_a_file_becomes_the_part_that_its_content_is(folder: Path, name: str, kind: type) -> None:
    assert type(read_part(folder / name)) is kind
    assert type(to_part(folder / name)) is kind


def test_parts_save_what_they_read(folder: Path, tmp_path: Path) -> None:
    picture = ImagePart.read(folder / "a.png")
    assert picture.save(tmp_path / "b.png").read_bytes() == (folder / "a.png").read_bytes()
    clip = VideoPart.read((folder / "a.mp4").read_bytes())
    assert (clip.frames.shape, clip.frames_per_second) == ((4, 8, 8, 3), 8)
    sound = AudioPart.read(folder / "a.wav")
    assert sound.save(tmp_path / "b.wav").read_bytes() == (folder / "a.wav").read_bytes()


def test_text_is_never_a_path(folder: Path) -> None:
    part = to_part(str(folder / "a.png"))
    assert isinstance(part, TextPart)


def test_pictures_in_memory_become_rgb() -> None:
    part = to_part(Image.new("RGBA", (2, 2), (0, 0, 0, 0)))
    assert isinstance(part, ImagePart)
    assert part.image.mode == "RGB"
    assert part.image.getpixel((0, 0)) == (255, 255, 255)


def test_parts_pass_through() -> None:
    part = TextPart("x")
    assert to_part(part) is part
    assert part.modality == "text"


@pytest.mark.parametrize("item", [3, None, b"bytes", np.zeros(3)])
def test_anything_else_is_named(item: object) -> None:
    with pytest.raises(UsageError, match=f"or a part; got {type(item).__name__}: wrap it in"):
        to_part(item)


def test_prompts_in_every_form(folder: Path) -> None:
    one = to_messages("hello")
    assert [(m.role, m.text) for m in one] == [("user", "hello")]
    mixed = to_messages(["what is", red(), folder / "a.wav", "this?"])
    assert [part.modality for part in mixed[0].parts] == ["text", "image", "audio", "text"]
    assert mixed[0].text == "what is this?"
    turn = Message("user", (TextPart("x"),))
    assert to_messages(turn) == [turn]
    assert to_messages([turn, turn]) == [turn, turn]
    assert [m.role for m in to_messages(red())] == ["user"]


def test_chats_in_the_form_of_transformers(folder: Path) -> None:
    chat = [
        {"role": "system", "content": "be brief"},
        {
            "role": "user",
            "content": [
                {"type": "image", "image": str(folder / "a.png")},
                {"type": "image", "image": red()},
                {"type": "image", "image": (folder / "a.png").read_bytes()},
                {"type": "video", "path": str(folder / "a.mp4")},
                {"type": "audio", "audio": AudioPart(samples(), 16_000)},
                {"type": "text", "text": "what?"},
            ],
        },
    ]
    system, user = to_messages(chat)
    assert (system.role, system.text) == ("system", "be brief")
    kinds = [part.modality for part in user.parts]
    assert kinds == ["image", "image", "image", "video", "audio", "text"]


@pytest.mark.parametrize(
    ("item", "text"),
    [
        (
            {"role": "robot", "content": "x"},
            "expected a role among system, user, assistant; got 'r",
        ),
        (
            {"role": "user", "content": 3},
            '"content" to be text or a list of parts; got int',
        ),
        ({"role": "user"}, "got NoneType"),
        ({"role": "user", "content": [{"type": "smell"}]}, "expected a chat part like"),
        ({"role": "user", "content": [{"type": ["text"]}]}, "expected a chat part like"),
        ({"role": "user", "content": [{"type": "text"}]}, "got keys \\['type'\\] with type 'text'"),
        ({"role": "user", "content": [{"type": "audio", "audio": red()}]}, "with type 'audio'"),
        ({"role": "user", "content": [{"type": "image"}]}, "with type 'image'"),
    ],
)
def test_malformed_chats_are_named(item: dict[str, Any], text: str) -> None:
    with pytest.raises(UsageError, match=text):
        to_messages([item])


def test_a_chat_never_fetches(folder: Path) -> None:
    chat = [{"role": "user", "content": [{"type": "image", "image": "http://host/a.png"}]}]
    with pytest.raises(MediaError) as caught:
        to_messages(chat)
    assert caught.value.code == "refused"


def a_reply() -> Reply:
    return Reply(
        parts=(
            TextPart("a bell"),
            ImagePart(red()),
            AudioPart(samples(), 16_000),
            ImagePart(red()),
            VideoPart(frames(), 8),
            TextPart("done"),
        ),
        raw_text="a bell done",
        seed=7,
        timings={"total": 1.0},
    )


def test_a_reply_sorts_its_parts() -> None:
    reply = a_reply()
    assert reply.text == "a bell done"
    assert (len(reply.images), len(reply.videos), len(reply.audios)) == (2, 1, 1)
    assert list(reply) == list(reply.parts)
    assert reply.message().role == "assistant"
    assert reply.message().parts == reply.parts


def test_a_reply_saves_in_order(tmp_path: Path) -> None:
    paths = a_reply().save(tmp_path / "out")
    names = ["image_0.png", "audio_0.wav", "image_1.png", "video_0.mp4", "reply.json"]
    assert [path.name for path in paths] == names
    record = json.loads(paths[-1].read_text(encoding="utf-8"))
    assert record["seed"] == 7
    assert [part["type"] for part in record["parts"]] == [
        *("text", "image", "audio", "image", "video", "text")
    ]
    assert record["parts"][3] == {"type": "image", "file": "image_1.png"}
    assert media.read_image(paths[0]).getpixel((0, 0)) == (200, 10, 10)


def test_metadata_is_written_unless_told_not_to(tmp_path: Path) -> None:
    record = media.Provenance(
        model="pocket",
        model_sha256="0" * 64,
        config_sha256="1" * 64,
        seed=7,
        modality="image",
        index=0,
        prompt="a bell",
        inputs=(),
        versions={"anyany": "0"},
        settings={},
        request=[{"role": "user", "content": "a bell"}],
    )
    part = ImagePart(red(), record)
    assert media.read_provenance(part.save(tmp_path / "a.png")) == record
    assert media.read_provenance(part.save(tmp_path / "b.png", metadata=False)) is None
