"""Random weights at any size: built in the type, drawn once, everything decodable."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from published_toys import TINY

from anyany import AnyToAny, dummy, system_files
from anyany.cli import main
from anyany.errors import CheckpointError, ConfigError, UsageError
from anyany.language.model import DTYPES
from anyany.media import read_audio, read_image, read_video
from anyany.system_config import load_system_config

EVERYTHING: Any = {"text", "image", "video", "audio"}


def build(dtype: str | None = None) -> AnyToAny:
    return AnyToAny.from_pretrained(TINY, weights="dummy", device="cpu", dtype=dtype, threads=None)


def test_every_modality_from_the_command_line(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    command = ["generate", "hello", "--model", str(TINY), "--weights", "dummy", "--device", "cpu"]
    more = ["--to", "text,image,video,audio", "--max-new-tokens", "30", "--seed", "3", "--json"]
    threads = torch.get_num_threads()
    try:
        assert main([*command, *more, "--threads", "1"]) == 0
    finally:
        torch.set_num_threads(threads)
    answer = capsys.readouterr()
    assert "random weights" in answer.err
    parts = {part["type"]: part for part in json.loads(answer.out)["parts"]}
    assert set(parts) == EVERYTHING
    assert read_image(parts["image"]["file"]).size == (32, 32)
    assert read_video(parts["video"]["file"]).frames.shape[0] == 3
    assert np.isfinite(read_audio(parts["audio"]["file"]).waveform).all()


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
def test_weights_are_in_the_type_and_finite(dtype: str) -> None:
    system = build(dtype)
    wanted = DTYPES[dtype]
    modules = [system.language.lm, system.bridge.encoders, *system.decoders.values()]
    for module in modules:
        assert {parameter.dtype for parameter in module.parameters()} == {wanted}
        assert all(torch.isfinite(parameter).all() for parameter in module.parameters())
    reply = system.generate("hello", outputs=EVERYTHING, seed=1, max_new_tokens=30)
    assert np.asarray(reply.images[0].image).std() > 1
    assert np.isfinite(reply.audios[0].waveform).all()
    assert torch.get_default_dtype() == torch.float32


def test_the_seed_decides_every_weight() -> None:
    config = dummy.read_sizes(TINY)[0]
    one, same, other = (
        AnyToAny.from_config(config, device="cpu", seed=seed).model_sha256 for seed in (0, 0, 1)
    )
    assert one == same != other


def test_lora_is_merged_as_in_a_loaded_system() -> None:
    config = dummy.read_sizes(TINY)[0]
    plain = replace(config, language=replace(config.language, lora=None))
    built, unadapted = (AnyToAny.from_config(one, device="cpu") for one in (config, plain))
    names = [
        sorted(name for name, _ in system.language.lm.named_parameters())
        for system in (built, unadapted)
    ]
    assert names[0] == names[1]
    counts = AnyToAny.from_config(config).num_parameters()
    assert built.num_parameters() == counts
    assert unadapted.num_parameters() == {**counts, "adapter": 0}


def test_sizes_may_come_from_a_folder() -> None:
    system = AnyToAny.from_pretrained("pocket", weights="dummy", device="cpu", threads=None)
    packaged = system_files.find("pocket")
    assert system.folder is None
    assert set(system.decoders) == set(system_files.read_config(packaged).decoders)
    assert system.language.decode(system.language.encode_text("a bell")).strip() == "a bell"


def test_a_made_up_tokenizer_reads_and_writes_any_text() -> None:
    tokenizer = dummy.make_tokenizer(302, ("<Img>", "</Img>"))
    assert len(tokenizer) == 302
    ids = tokenizer("héllo\n", add_special_tokens=False)["input_ids"]
    assert tokenizer.decode(ids) == "héllo\n"
    assert tokenizer.convert_tokens_to_ids("</Img>") == 301
    with pytest.raises(ConfigError, match="vocab_size"):
        dummy.make_tokenizer(100)


def test_published_names_are_sizes() -> None:
    config, folder = dummy.read_sizes("nextgpt-7b-v0")
    assert folder is None
    assert config == load_system_config("nextgpt-7b-v0")
    with pytest.raises(CheckpointError, match="--weights dummy"):
        AnyToAny.from_pretrained("nextgpt-7b-v0")
    with pytest.raises(UsageError, match="weights"):
        AnyToAny.from_pretrained(TINY, weights="random")  # type: ignore[arg-type]
    with pytest.raises(UsageError, match="weights"):
        AnyToAny.from_pretrained(TINY, weights="dummy", quantization="nf4")
