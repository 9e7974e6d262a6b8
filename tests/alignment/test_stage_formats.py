"""Data files as they are found in the wild, mixing, and embeddings on disk."""

import json
import logging
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import save_file
from stage_toys import SPECS, toy_parts

from anyany.alignment.formats import DataFile, FileSource, open_data
from anyany.alignment.mixing import BLOCK, JoinedSource, MixedSource
from anyany.alignment.samples import (
    ListSource,
    MediaFile,
    MediaTarget,
    Sample,
    read_embedding,
    turn,
)
from anyany.errors import ConfigError, UsageError
from anyany.messages import TextPart


def write(path: Path, rows: list[Any], *, lines: bool = False) -> Path:
    text = "\n".join(json.dumps(row) for row in rows) if lines else json.dumps(rows, indent=1)
    path.write_text(text)
    return path


@pytest.fixture
def media(tmp_path: Path) -> Path:
    folder = tmp_path / "media"
    folder.mkdir()
    for name in ("a.jpg", "b.jpg"):
        Image.new("RGB", (8, 8)).save(folder / name)
    (folder / "s.wav").write_bytes(b"RIFF")
    return folder


def shown(sample: Sample) -> list[tuple[str, list[object]]]:
    """Roles, texts, file names and captions, as plain values."""

    def plain(part: object) -> object:
        if isinstance(part, TextPart):
            return part.text
        if isinstance(part, MediaFile):
            return Path(part.path).name
        assert isinstance(part, MediaTarget)
        return (part.modality, part.caption)

    return [(one.role, [plain(part) for part in one.parts]) for one in sample.messages]


def test_our_own_json_lines(tmp_path: Path, media: Path) -> None:
    save_file({"prompt_embeds": torch.ones(3, 6)}, tmp_path / "e.safetensors")
    row = {
        "messages": [
            {"role": "system", "content": "be brief"},
            {"role": "user", "content": [{"type": "image", "path": "media/a.jpg"},
                                         {"type": "text", "text": "in blue"}]},
            {"role": "assistant", "content": [{"type": "text", "text": "here."},
                                              {"type": "image", "caption": "a blue bell",
                                               "embedding": "e.safetensors",
                                               "path": "media/b.jpg"}]},
        ]
    }  # fmt: skip
    path = write(tmp_path / "own.jsonl", [row], lines=True)
    source = FileSource(DataFile(path, embeddings=tmp_path))
    sample = source.sample(0, 0)
    assert shown(sample) == [
        ("system", ["be brief"]),
        ("user", ["a.jpg", "in blue"]),
        ("assistant", ["here.", ("image", "a blue bell")]),
    ]
    (target,) = sample.targets.values()
    assert list(sample.targets) == [1]
    assert isinstance(target.medium, MediaFile)
    assert torch.equal(read_embedding(target, SPECS["image"])["prompt_embeds"], torch.ones(1, 3, 6))
    assert FileSource(DataFile(path)).sample(0, 0).targets[1].embedding is None


def test_nextgpt_comprehension_and_generation(tmp_path: Path, media: Path) -> None:
    asked = [
        {"input_image": "a.jpg", "conversations": [
            {"from": "human", "value": "<image>\nWhat is it about?"},
            {"from": "gpt", "value": "a bell"}]},
        {"input_image": "gone.jpg", "conversations": [
            {"from": "human", "value": "<image>\nWhat is it about?"},
            {"from": "gpt", "value": "a drum"}]},
    ]  # fmt: skip
    source = FileSource(DataFile(write(tmp_path / "c.json", asked), "conversations", media=media))
    assert source.num_samples == 1
    assert source.skipped == {"c.json:2": "missing image gone.jpg"}
    assert shown(source.sample(0, 3)) == [
        ("user", ["a.jpg", "What is it about?"]),
        ("assistant", ["a bell"]),
    ]
    drawn = [
        {"output_audio": "s.wav", "audio_captions": "a drum\r\n",
         "audio_caption_embeddings": "s.wav.npy", "conversations": [
            {"from": "human", "value": "Make a drum"},
            {"from": "gpt", "value": "Here is an audio: <audio>"}]},
    ]  # fmt: skip
    np.save(tmp_path / "s.wav.npy", np.full(5, 0.5, np.float16))
    path = write(tmp_path / "g.json", drawn)
    sample = FileSource(DataFile(path, "conversations", media, tmp_path)).sample(0, 0)
    assert shown(sample)[1] == ("assistant", ["Here is an audio:", ("audio", "a drum")])
    embedded = read_embedding(sample.targets[0], SPECS["audio"])["class_labels"]
    assert torch.equal(embedded, torch.full((1, 5), 0.5))
    with pytest.raises(UsageError, match=r"g.json:1: missing embedding s.wav.npy"):
        FileSource(DataFile(path, "conversations", media, media))


def test_text_to_text_and_media_with_positional_captions(tmp_path: Path) -> None:
    row = {"image_captions": ["one", "two"], "conversations": [
        {"from": "human", "value": "two pictures", "input_modality": "text"},
        {"from": "gpt", "value": "<image> and <image>"},
        {"from": "human", "value": "a sound"},
        {"from": "gpt", "value": "<audio>", "caption": "bang", "output_modality": "audio"},
    ]}  # fmt: skip
    sample = FileSource(DataFile(write(tmp_path / "t.json", [row]), "conversations")).sample(0, 0)
    assert shown(sample)[1] == ("assistant", [("image", "one"), "and", ("image", "two")])
    assert shown(sample)[3] == ("assistant", [("audio", "bang")])


def test_llava_and_swift(tmp_path: Path, media: Path) -> None:
    llava = [
        {"id": "1", "image": "a.jpg", "conversations": [
            {"from": "human", "value": "What is it?\n<image>"},
            {"from": "gpt", "value": "a bell"}]},
        {"id": "2", "image": "b.jpg", "conversations": [
            {"from": "human", "value": "What is it?"}, {"from": "gpt", "value": "a bell"}]},
    ]  # fmt: skip
    source = FileSource(DataFile(write(tmp_path / "l.json", llava), "conversations", media))
    assert shown(source.sample(0, 0))[0] == ("user", ["What is it?", "a.jpg"])
    assert shown(source.sample(1, 0))[0] == ("user", ["b.jpg", "What is it?"])
    swift = {"messages": [{"role": "user", "content": "<image><image>which is red?"},
                          {"role": "assistant", "content": "the first"}],
             "images": ["a.jpg", "b.jpg"]}  # fmt: skip
    path = write(tmp_path / "s.jsonl", [swift], lines=True)
    sample = FileSource(DataFile(path, "swift", media)).sample(0, 0)
    assert shown(sample)[0] == ("user", ["a.jpg", "b.jpg", "which is red?"])


def test_pairs_to_describe_and_to_draw(tmp_path: Path, media: Path) -> None:
    path = write(tmp_path / "p.json", [{"id": 1, "image_name": "a.jpg", "caption": "a {red} bell"}])
    describe = FileSource(DataFile(path, "pairs", media))
    assert {shown(describe.sample(0, 0))[1][1][0]} == {"a {red} bell"}
    wordings = {str(shown(describe.sample(0, epoch))[0][1][1]) for epoch in range(9)}
    assert len(wordings) > 2
    assert shown(describe.sample(0, 5)) == shown(describe.sample(0, 5))
    draw = FileSource(DataFile(path, "pairs", tmp_path, use="draw")).sample(0, 0)
    assert "a {red} bell" in str(shown(draw)[0][1][0])
    assert shown(draw)[1][1][1] == ("image", "a {red} bell")


@pytest.mark.parametrize(
    ("row", "why"),
    [
        ({"conversations": []}, "expected turns of user and assistant"),
        ({"conversations": [{"from": "gpt", "value": "x"}]}, "expected turns of user"),
        ({"conversations": [{"from": "human", "value": "x"}]}, "the assistant's turn last"),
        ({"conversations": [{"from": "cat", "value": "x"}]}, "got 'cat'"),
        ({"conversations": [{"from": "human", "value": 3}]}, "expected a turn's text"),
        ({"turns": []}, "expected the key 'conversations'"),
        ([], "expected a JSON object"),
        (
            {"conversations": [{"from": "human", "value": "<image>"}]},
            "more <image> in the text than image files",
        ),
        (
            {"image": ["a", "b"], "conversations": [{"from": "human", "value": "<image> x"}]},
            "missing image a",
        ),
        (
            {"conversations": [{"from": "human", "value": "x"}, {"from": "gpt", "value": " "}]},
            "a turn is empty",
        ),
    ],
)
def test_a_row_that_cannot_be_used_says_why(row: Any, why: str, tmp_path: Path) -> None:
    path = write(tmp_path / "bad.json", [row])
    with pytest.raises(UsageError, match=r"found no usable one: bad\.json:1") as caught:
        FileSource(DataFile(path, "conversations"))
    assert why in str(caught.value)


def test_rows_left_out_are_counted_and_named(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    good = {"conversations": [{"from": "human", "value": "x"}, {"from": "gpt", "value": "y"}]}
    path = write(tmp_path / "mixed.json", [good, {}, good, *[{}] * 6])
    with caplog.at_level(logging.WARNING):
        assert FileSource(DataFile(path, "conversations")).num_samples == 2
    assert "mixed.json: 7 of 9 rows left out: mixed.json:2: expected the key" in caplog.text
    assert "and 2 more" in caplog.text


def test_files_that_are_none(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="no such data file"):
        open_data([DataFile(tmp_path / "lost.jsonl")])
    (tmp_path / "torn.json").write_text('[{"a": 1}, ')
    with pytest.raises(UsageError, match="JSON list, found none that is whole"):
        open_data([DataFile(tmp_path / "torn.json")])
    (tmp_path / "torn.jsonl").write_text('{"a": 1}\n{"a": ')
    with pytest.raises(UsageError, match="line 2 is no JSON"):
        open_data([DataFile(tmp_path / "torn.jsonl")])
    (tmp_path / "empty.jsonl").write_text("\n")
    with pytest.raises(UsageError, match="the file is empty"):
        open_data([DataFile(tmp_path / "empty.jsonl")])
    with pytest.raises(UsageError, match="no data to learn from"):
        open_data([])


def named(prefix: str, size: int) -> ListSource:
    return ListSource(
        [Sample((turn("user", "x"), turn("assistant", "y")), f"{prefix}{n}") for n in range(size)]
    )


def test_a_mixture_holds_its_shares_and_whole_epochs() -> None:
    sources = [named("a", 7), named("b", 500)]
    mixed = MixedSource(sources, [3, 1], seed=5)
    keys = [mixed.sample(index, 0).key for index in range(2 * BLOCK)]
    for block in (keys[:BLOCK], keys[BLOCK:]):
        assert Counter(key[0] for key in block) == {"a": 750, "b": 250}
    assert Counter(key for key in keys if key[0] == "b").most_common(1)[0][1] == 1
    turns = [key for key in keys if key[0] == "a"]
    assert all(len(set(turns[n : n + 7])) == 7 for n in range(0, 1400, 7))
    assert turns[:7] != turns[7:14]
    assert [mixed.sample(index, 0).key for index in (1500, 3)] == [keys[1500], keys[3]]
    other = MixedSource(sources, [3, 1], seed=6)
    assert [other.sample(index, 0).key for index in range(50)] != keys[:50]
    with pytest.raises(UsageError, match="a weight above 0 for each of 2"):
        MixedSource(sources, [1.0])


def test_joined_sources_are_walked_in_order(tmp_path: Path) -> None:
    joined = JoinedSource([named("a", 2), named("b", 3)])
    assert joined.num_samples == 5
    assert [joined.sample(n, 0).key for n in range(5)] == ["a0", "a1", "b0", "b1", "b2"]
    with pytest.raises(UsageError, match="infinite source cannot be joined"):
        JoinedSource([joined, MixedSource([joined], [1])])
    row = {"messages": [{"role": "user", "content": "x"}, {"role": "assistant", "content": "y"}]}
    path = write(tmp_path / "x.jsonl", [row], lines=True)
    assert isinstance(open_data([DataFile(path), DataFile(path)]), JoinedSource)
    both = [DataFile(path, weight=1.0), DataFile(path, weight=2.0)]
    assert isinstance(open_data(both), MixedSource)
    with pytest.raises(ConfigError, match="a weight for every file"):
        open_data([DataFile(path, weight=1.0), DataFile(path)])
    with pytest.raises(ConfigError, match="a weight above 0"):
        DataFile(path, weight=0.0)


def test_embeddings_that_do_not_fit_are_named(tmp_path: Path) -> None:
    np.save(tmp_path / "e.npy", np.zeros((3, 5), np.float32))
    with pytest.raises(UsageError, match=r"e.npy: expected condition 'prompt_embeds'"):
        read_embedding(MediaTarget("image", embedding=tmp_path / "e.npy"), SPECS["image"])
    (tmp_path / "torn.safetensors").write_bytes(b"abc")
    for name, text in (("torn.safetensors", "whole .safetensors"), ("no.npy", "no such embedding")):
        with pytest.raises(UsageError, match=text):
            read_embedding(MediaTarget("image", embedding=tmp_path / name), SPECS["image"])


def test_targets_render_where_media_would_stand() -> None:
    bridge = toy_parts().bridge
    source = [
        turn("user", "draw a bell"),
        turn("assistant", "here it is .", MediaTarget("image", "a bell")),
    ]
    layout = bridge.layout(source, {}, training=True)
    (place,) = layout.spans
    first = bridge.language.vocab_size
    assert layout.token_ids[place.positions].tolist() == [first, first + 1, first + 2]
