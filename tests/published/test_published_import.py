"""Published checkpoints become folders that compute what their raw tensors say."""

from __future__ import annotations

import json
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
    v15_config,
    write_base,
    write_frozen,
    write_sentencepiece,
)
from safetensors import safe_open
from safetensors.torch import load_file
from torch import Tensor

from anyany import AnyToAny
from anyany.cli import main
from anyany.encoders import ImageBind
from anyany.errors import CheckpointError, UsageError
from anyany.messages import Modality
from anyany.published import import_nextgpt
from anyany.weights import verify

MODALITIES: tuple[Modality, ...] = ("image", "video", "audio")


@pytest.fixture(scope="module")
def frozen(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Tiny decoders in folders, and a pickled ImageBind."""
    return write_frozen(tmp_path_factory.mktemp("frozen"))


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, Tensor]]:
    """A tiny Vicuna."""
    folder = tmp_path_factory.mktemp("base")
    return folder, write_base(folder)


def check(system: AnyToAny, raw: Raw) -> None:
    """Logits, signal states, conditions and input projections equal the direct computation."""
    language = system.language
    first = language.vocab_size
    for modality in MODALITIES:
        span = list(language.signals.span(modality))
        ids = [1, 270, 280, *span, 2, first - 1]
        embeds, hidden, logits = raw.run(ids)
        tokens = torch.tensor([ids])
        with torch.no_grad():
            ours = language(language.embed(tokens))
            torch.testing.assert_close(ours, hidden, atol=2e-5, rtol=1e-4)
            torch.testing.assert_close(language.logits(ours), logits, atol=2e-5, rtol=1e-4)
            states = (embeds + hidden)[:, 3 : 3 + len(span)]
            direct = raw.heads[modality](states)
            ((name, spec),) = system.decoders[modality].condition
            if spec.normalize:
                direct = torch.nn.functional.normalize(direct.flatten(1), dim=-1)
            made = system.output_projectors[modality](states)[name]
        torch.testing.assert_close(made, direct, atol=2e-5, rtol=1e-4)
    features = torch.randn(2, 5, 16)
    with torch.no_grad():
        projected = system.bridge.projectors["shared"](features, None)
        wanted = raw.input(features) if raw.old else raw.input(features, None)
    torch.testing.assert_close(projected, wanted, atol=1e-5, rtol=1e-4)


def load(folder: Path) -> AnyToAny:
    return AnyToAny.from_pretrained(folder, device="cpu", threads=None)


def test_v0_from_the_command_line(
    tmp_path: Path,
    frozen: Mapping[str, Path],
    base: tuple[Path, dict[str, Tensor]],
    capsys: pytest.CaptureFixture[str],
) -> None:
    folder, state = base
    raw = Raw(state, "v0")
    save_pickle(raw.v0_state(), tmp_path / "pytorch_model.pt")
    signals = {f"[{code}{i}]" for code, n in (("IMG", 4), ("VID", 6), ("AUD", 3)) for i in range(n)}
    ordered = sorted(signals, key=lambda s: ("IMG VID AUD".index(s[1:4]), int(s[4:-1])))
    added = {"<Img>": PIECES, "</Img>": PIECES + 1}
    added |= {name: PIECES + 2 + number for number, name in enumerate(ordered)}
    (tmp_path / "added_tokens.json").write_text(json.dumps(added))
    write_sentencepiece(tmp_path)
    options = [f"--{name}-decoder={frozen[name]}" for name in MODALITIES]
    out = tmp_path / "system"
    command = ["import", "nextgpt-7b-v0", str(tmp_path / "pytorch_model.pt"), "--base"]
    command += [str(folder), "--imagebind", str(frozen["imagebind"]), *options]
    assert main([*command, "--config", str(TINY), "-o", str(out)]) == 0
    answer = capsys.readouterr()
    assert answer.out.strip() == str(out)
    assert "each accounted for" in answer.err
    assert not verify(out)
    assert not [path for path in tmp_path.iterdir() if path.name.startswith(".")]
    with safe_open(out / "language" / "model-00001-of-00002.safetensors", "pt") as file:
        assert {str(file.get_slice(name).get_dtype()) for name in file.keys()} == {"F16"}  # noqa: SIM118
    assert load_file(out / "signal_rows.safetensors")["input_rows"].dtype == torch.float16

    system = load(out)
    check(system, raw)
    tokenizer = system.language.tokenizer
    assert tokenizer.convert_tokens_to_ids(["<Img>", "</Img>"]) == [PIECES, PIECES + 1]
    assert PIECES not in system.language.encode_text("<Img> hello")  # users cannot spell it
    for modality in MODALITIES:
        for number in system.language.signals.ids(modality):
            assert added[system.language.signals.name(number)] == number
    reply = system.generate(
        "the an", outputs={"text", "image", "video", "audio"}, max_new_tokens=30, seed=1
    )
    assert [part.modality for part in reply.parts if part.modality != "text"] == list(MODALITIES)

    from peft import LoraConfig

    assert LoraConfig.from_pretrained(str(out / "adapter")).r == 4


def test_v0_of_the_first_upload_has_no_lora(
    tmp_path: Path, frozen: Mapping[str, Path], base: tuple[Path, dict[str, Tensor]]
) -> None:
    folder, state = base
    raw = Raw(state, "v0")
    raw.lora.clear()
    path = save_flat(raw.v0_state("llama_model."), tmp_path / "pytorch_model.safetensors")
    done = import_nextgpt(
        "nextgpt-7b-v0",
        path,
        tmp_path / "system",
        base_folder=folder,
        imagebind=None,
        decoders={name: str(frozen[name]) for name in MODALITIES},
        config=TINY,
    )
    assert done.missing == ("encoder/imagebind_huge.safetensors",)
    assert done.kinship is not None
    assert done.kinship > 0.9
    record = json.loads((tmp_path / "system" / "config.json").read_text())
    assert record["language"]["lora"] is None
    assert not (tmp_path / "system" / "adapter").exists()
    with pytest.raises(CheckpointError, match="imagebind"):
        load(tmp_path / "system")


def import_v15(
    paths: list[Path], out: Path, base: Path | None, frozen: Mapping[str, Path], **more: Any
) -> Any:
    return import_nextgpt(
        "nextgpt-7b-v1.5",
        paths,
        out,
        base_folder=base,
        decoders={name: str(frozen[name]) for name in MODALITIES},
        config=v15_config(),
        **more,
    )


def imagebind_file(tmp_path: Path) -> Path:
    torch.manual_seed(2)
    state = ImageBind(v15_config().encoder.imagebind).state_dict()
    return save_flat(state, tmp_path / "imagebind.safetensors")


def test_v15_stages_and_lora(
    tmp_path: Path, frozen: Mapping[str, Path], base: tuple[Path, dict[str, Tensor]]
) -> None:
    folder, state = base
    raw = Raw(state, "v1.5")
    parts = raw.v15_parts()
    stale = {name: torch.zeros_like(tensor) for name, tensor in parts["tokens"].items()}
    save_flat({**parts["input"], **stale}, tmp_path / "enc" / "mm_input_projector.safetensors")
    save_flat({**parts["output"], **stale}, tmp_path / "dec" / "mm_output_projector.safetensors")
    lora = tmp_path / "lora"
    save_flat(parts["lora"], lora / "adapter_model.safetensors")
    settings = {"peft_type": "LORA", "r": 4, "lora_alpha": 8, "lora_dropout": 0.05}
    settings["target_modules"] = ["down_proj", "q_proj"]
    (lora / "adapter_config.json").write_text(json.dumps(settings))
    tokens = {f"base_model.model.{name}": t for name, t in parts["tokens"].items()}
    save_flat(tokens, lora / "non_lora_trainables.safetensors")
    done = import_v15(
        [lora, tmp_path / "dec", tmp_path / "enc"],
        tmp_path / "system",
        folder,
        frozen,
        imagebind=imagebind_file(tmp_path),
    )
    assert done.overridden == 4
    system = load(tmp_path / "system")
    assert system.language.signals.span_length("video") == 11
    check(system, raw)


def test_v15_stages_without_lora_and_merged(
    tmp_path: Path,
    frozen: Mapping[str, Path],
    base: tuple[Path, dict[str, Tensor]],
) -> None:
    folder, state = base
    raw = Raw(state, "v1.5")
    raw.lora.clear()
    parts = raw.v15_parts()
    merged = tmp_path / "nextgpt-v1.5-7b"
    body = {name: t for name, t in state.items() if name not in parts["tokens"]}
    tower = {
        f"model.multimodal_tower.multimodal_tower.{name}": tensor
        for name, tensor in load_file(imagebind_file(tmp_path)).items()
    }
    whole = {**body, **parts["tokens"], **parts["input"], **parts["output"], **tower}
    save_flat(whole, merged / "model.safetensors")
    record = json.loads((folder / "config.json").read_text())
    (merged / "config.json").write_text(json.dumps({**record, "model_type": "nextgpt_llama"}))
    write_sentencepiece(merged)
    done = import_v15([merged], tmp_path / "from-merged", None, frozen)
    assert done.kinship is None
    assert done.missing == ()
    check(load(tmp_path / "from-merged"), raw)

    save_flat({**parts["input"], **parts["tokens"]}, tmp_path / "mm_input_projector.safetensors")
    save_flat(parts["output"], tmp_path / "mm_output_projector.safetensors")
    stages = [tmp_path / f"mm_{side}put_projector.safetensors" for side in ("in", "out")]
    import_v15(stages, tmp_path / "from-stages", folder, frozen)
    for part in ("signal_rows.safetensors", "output_projectors/audio.safetensors"):
        one, other = (load_file(tmp_path / name / part) for name in ("from-merged", "from-stages"))
        assert one.keys() == other.keys()
        assert all(torch.equal(one[name], other[name]) for name in one)
    with pytest.raises(CheckpointError, match=r"missing: model\.mm_output_img_projector.*stage"):
        import_v15(stages[:1], tmp_path / "half", folder, frozen)
    with pytest.raises(UsageError, match="--base"):
        import_v15(stages, tmp_path / "half", None, frozen)
    assert not (tmp_path / "half").exists()


def test_a_decoder_may_be_a_hub_repository(
    tmp_path: Path,
    frozen: Mapping[str, Path],
    base: tuple[Path, dict[str, Tensor]],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    import huggingface_hub

    asked: list[tuple[str, list[str]]] = []

    def fetch(repository: str, *, revision: str | None, allow_patterns: list[str]) -> str:
        asked.append((repository, allow_patterns))
        return str(frozen["image"])

    monkeypatch.setattr(huggingface_hub, "snapshot_download", fetch)
    places = {**frozen, "image": Path("owner/painter")}
    raw = Raw(base[1], "v1.5")
    raw.lora.clear()
    parts = raw.v15_parts()
    save_flat({**parts["input"], **parts["tokens"]}, tmp_path / "mm_input_projector.safetensors")
    save_flat(parts["output"], tmp_path / "mm_output_projector.safetensors")
    stages = [tmp_path / f"mm_{side}put_projector.safetensors" for side in ("in", "out")]
    out = tmp_path / "system"
    done = import_v15(stages, out, base[0], places, imagebind=imagebind_file(tmp_path))
    assert done.missing == ("owner/painter",)
    assert not asked
    check(load(out), raw)
    assert [repository for repository, _ in asked] == ["owner/painter"]
    assert not [pattern for _, patterns in asked for pattern in patterns if "bin" in pattern]
