"""Bad checkpoints and wrong bases are refused in one line, and nothing is touched."""

from __future__ import annotations

import json
import pickle
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from published_toys import (
    PIECES,
    TINY,
    Raw,
    save_flat,
    save_pickle,
    write_base,
    write_frozen,
    write_sentencepiece,
)
from safetensors.torch import load_file
from torch import Tensor

from anyany import dummy
from anyany.cli import main
from anyany.errors import AnyAnyError, CheckpointError, UsageError
from anyany.published import import_nextgpt


@pytest.fixture(scope="module")
def frozen(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Tiny decoders in folders, and a pickled ImageBind."""
    return write_frozen(tmp_path_factory.mktemp("frozen"))


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, Tensor]]:
    """A tiny Vicuna."""
    folder = tmp_path_factory.mktemp("base")
    return folder, write_base(folder)


class Evil:
    """Runs code when it is unpickled by a reader that lets it."""

    def __reduce__(self) -> tuple[Any, tuple[str]]:
        return eval, ("__import__('pathlib').Path('ran').write_text('x')",)


def spoil(kind: str, state: dict[str, Tensor], tmp_path: Path) -> Path:
    """A bad v0 file."""
    path = tmp_path / "pytorch_model.safetensors"
    if kind == "missing key":
        del state["llama_proj.bias"]
    elif kind == "extra key":
        state["gen_text_hidden_fcs.1.fc.bias"] = torch.zeros(3)
    elif kind == "wrong shape":
        state["llama_proj.weight"] = torch.zeros(3, 4)
    elif kind == "lora cut":
        state.pop(next(name for name in state if "lora_B" in name))
    elif kind == "twice":
        state["llama_model.lm_head.weight"] = torch.zeros(3)
    elif kind == "evil":
        path = tmp_path / "pytorch_model.pt"
        path.write_bytes(pickle.dumps({"llama_proj.bias": Evil()}))
        return path
    save_flat(state, path)
    if kind == "torn":
        path.write_bytes(path.read_bytes()[:-100])
    if kind == "torn pickle":
        path = save_pickle(state, tmp_path / "pytorch_model.pt")
        path.write_bytes(path.read_bytes()[:-1000])
    return path


@pytest.mark.parametrize(
    ("kind", "words"),
    [
        ("missing key", "1 missing: llama_proj.bias"),
        ("extra key", "1 unknown: gen_text_hidden_fcs.1.fc.bias"),
        ("wrong shape", "llama_proj.weight (expected [32, 16], got [3, 4])"),
        ("lora cut", "1 missing: llama_model.base_model.model.model.layers.0"),
        ("twice", "are the same tensor twice"),
        ("torn", "torn"),
        ("torn pickle", "torn"),
        ("evil", "refused"),
    ],
)
def test_bad_checkpoints_are_refused_in_one_line(
    kind: str,
    words: str,
    tmp_path: Path,
    base: tuple[Path, dict[str, Tensor]],
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(tmp_path)
    path = spoil(kind, dict(Raw(base[1], "v0").v0_state()), tmp_path)
    there = sorted(tmp_path.iterdir())
    command = ["import", "nextgpt-7b-v0", str(path), "--base", str(base[0]), "--config", str(TINY)]
    assert main([*command, "-o", str(tmp_path / "system")]) == 2
    lines = capsys.readouterr().err.strip().splitlines()
    assert len(lines) == 1
    assert words in lines[0]
    assert sorted(tmp_path.iterdir()) == there


@pytest.mark.parametrize(
    ("kind", "words"),
    [
        ("context", "max_position_embeddings"),
        ("norm", "rms_norm_eps"),
        ("width", "hidden_size"),
        ("kind", "model_type"),
        ("rope", "rope"),
        ("tokenizer", "vocabulary hash"),
        ("no tokenizer", "tokenizer.model"),
        ("rows", "median cosine"),
        ("cut", "missing"),
        ("frequencies", "rope_theta"),
        ("no folder", "found none"),
    ],
)
def test_a_wrong_base_is_refused(
    kind: str, words: str, tmp_path: Path, base: tuple[Path, dict[str, Tensor]]
) -> None:
    state = Raw(base[1], "v0").v0_state()
    path = save_flat(state, tmp_path / "ckpt" / "pytorch_model.safetensors")
    write_sentencepiece(tmp_path / "ckpt")
    folder = tmp_path / "base"
    every: dict[str, dict[str, Any]] = {
        "context": {"max_position_embeddings": 4096},
        "norm": {"rms_norm_eps": 1e-5},
        "width": {"hidden_size": 64},
        "rope": {"rope_theta": 500_000.0},
    }
    changes = every.get(kind, {})
    if kind != "no folder":
        write_base(folder, **changes)
    if kind == "kind":
        (folder / "config.json").write_text(json.dumps({"model_type": "gpt2"}))
    elif kind == "tokenizer":
        write_sentencepiece(folder, other=True)
    elif kind == "no tokenizer":
        (folder / "tokenizer.model").unlink()
    elif kind in ("rows", "cut", "frequencies"):
        for file in folder.glob("model-*.safetensors"):
            held = load_file(file)
            if kind == "rows" and "model.embed_tokens.weight" in held:
                held["model.embed_tokens.weight"] = torch.randn(PIECES + 1, 32).half()
            held.pop("model.norm.weight" if kind == "cut" else "", None)
            if kind == "frequencies":
                held = {n: t * 2 if n.endswith("inv_freq") else t for n, t in held.items()}
            save_flat(held, file)
    with pytest.raises(AnyAnyError, match=words) as caught:
        import_nextgpt("nextgpt-7b-v0", path, tmp_path / "system", base_folder=folder, config=TINY)
    assert caught.value.exit_code == 2
    assert "\n" not in str(caught.value)
    assert sorted(p.name for p in tmp_path.iterdir() if p.name != "base") == ["ckpt"]


def test_a_known_vocabulary_hash_is_asked_for(
    tmp_path: Path, base: tuple[Path, dict[str, Tensor]]
) -> None:
    state = Raw(base[1], "v0").v0_state()
    path = save_flat(state, tmp_path / "pytorch_model.safetensors")
    with pytest.raises(CheckpointError, match="expected a tokenizer of vocabulary hash 0123"):
        import_nextgpt(
            "nextgpt-7b-v0",
            path,
            tmp_path / "system",
            base_folder=base[0],
            config=TINY,
            vocabulary_sha256="0123" * 16,
        )


def test_a_folder_that_is_there_is_not_touched(tmp_path: Path) -> None:
    (tmp_path / "system").mkdir()
    (tmp_path / "system" / "mine").write_text("x")
    with pytest.raises(UsageError, match="new or empty folder"):
        import_nextgpt("nextgpt-7b-v0", tmp_path / "x.pt", tmp_path / "system")
    assert (tmp_path / "system" / "mine").read_text() == "x"


def test_pickled_decoders_become_safetensors(tmp_path: Path, frozen: Mapping[str, Path]) -> None:
    from anyany.published.components import place_decoder

    source = tmp_path / "sd"
    for path in frozen["audio"].rglob("*"):
        if path.is_file():
            target = source / path.relative_to(frozen["audio"])
            target.parent.mkdir(parents=True, exist_ok=True)
            target.write_bytes(path.read_bytes())
    held = source / "vocoder" / "model.safetensors"
    torch.save(load_file(held), source / "vocoder" / "pytorch_model.bin")
    before = load_file(held)
    held.unlink()
    scratch = tmp_path / "scratch"
    scratch.mkdir()
    entry = dummy.read_sizes(TINY)[0].decoders["audio"]
    out = tmp_path / "out"
    place = place_decoder("audio", entry, str(source), out=out, scratch=scratch)
    assert place == "decoders/audio"
    after = load_file(out / place / "vocoder" / "model.safetensors")
    assert all(torch.equal(after[name], tensor) for name, tensor in before.items())
    assert not list(out.rglob("*.bin"))
