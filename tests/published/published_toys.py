"""Checkpoints with the published names at small size, made without the importer's own tables."""

from __future__ import annotations

import functools
import json
import struct
import warnings
from collections import OrderedDict
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from anyany import system_files
from anyany.dummy import decoder_sizes, read_sizes
from anyany.encoders import GroupedConfig, GroupedProjector, ImageBind, ProjectorConfig
from anyany.language import LoraSettings, SignalSpec
from anyany.system_config import SystemConfig

TINY = Path(__file__).parents[2] / "benchmarks" / "tiny" / "system.yaml"
PIECES = 300
WIDTH = 32
SIGNALS = 13
QUERIES = {"image": (77, 32), "video": (77, 32), "audio": (1, 24)}  # rows, width of a condition
WORDS = ("th", "he", "▁t", "▁th", "the", "▁the", "in", "er", "an", "▁a", "▁an", "re", "on", "▁▁")


@functools.cache
def v0_config() -> SystemConfig:
    """The tiny system: v0 in all but size."""
    return read_sizes(TINY)[0]


@functools.cache
def v15_config() -> SystemConfig:
    """The same with v1.5's grouped projector, patch tokens and spaced spans."""
    config = v0_config()
    sizes = GroupedConfig(dim=8, num_heads=2, depths=(1, 1), num_groups=(4,), mlp_ratio=2)
    projector = ProjectorConfig("grouped", 16, WIDTH, grouped=sizes)
    signals = SignalSpec(4, 6, 3, "<{modality}_{index:02d}>", stride=2, separator_id=259)
    lora = LoraSettings(r=4, alpha=8, dropout=0.05, target_modules=("q_proj", "down_proj"))
    return replace(
        config,
        encoder=replace(config.encoder, readout="patches"),
        bridge=replace(config.bridge, projector=projector),
        language=replace(
            config.language,
            template="vicuna_v1",
            slot_prefix="",
            slot_suffix="",
            signals=signals,
            lora=lora,
        ),
        language_architecture={**config.language_architecture, "vocab_size": PIECES},
    )


def pieces() -> list[tuple[str, float]]:
    """Pieces and scores of a small Llama tokenizer."""
    letters = [BLANK, *"etaoinshrdlcumwfgypbvkxjqz"]
    known = ["<unk>", "<s>", "</s>", *(f"<0x{byte:02X}>" for byte in range(256))]
    merged = [*WORDS[: PIECES - len(known) - len(letters)]]
    scores = [(piece, 0.0) for piece in known]
    scores += [(piece, -100.0 - number) for number, piece in enumerate(letters)]
    return scores + [(piece, -float(number)) for number, piece in enumerate(merged)]


BLANK = "▁"


def write_sentencepiece(folder: Path, *, other: bool = False) -> None:
    """tokenizer.model, a protocol buffer, as SentencePiece writes it."""
    folder.mkdir(parents=True, exist_ok=True)
    message = b""
    for piece, score in pieces():
        text = (piece[::-1] if other and piece == "th" else piece).encode()
        body = b"\x0a" + _varint(len(text)) + text + b"\x15" + struct.pack("<f", score)
        body += b"\x18\x01"  # type: normal
        message += b"\x0a" + _varint(len(body)) + body
    message += b"\x12\x02\x08\x01"  # a trainer_spec that is skipped
    (folder / "tokenizer.model").write_bytes(message)


def write_base(folder: Path, **changes: Any) -> dict[str, Tensor]:
    """A tiny Llama in half precision, in two shards, with one row for [PAD] as Vicuna v0 has."""
    from transformers import LlamaConfig, LlamaForCausalLM

    values = dict(v0_config().language_architecture)
    values |= {"vocab_size": PIECES + 1, **changes}
    values.pop("model_type")
    torch.manual_seed(0)
    made: Any = LlamaForCausalLM(LlamaConfig(**values))
    model = made.half()
    state = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    names = sorted(state)
    halves = {"a": names[::2], "b": names[1::2]}
    folder.mkdir(parents=True, exist_ok=True)
    frequencies = 10_000.0 ** -(torch.arange(0, 8, 2) / 8)
    places: dict[str, str] = {}
    for tag, own in halves.items():
        file = f"model-{tag}.safetensors"
        extra = {"model.layers.0.self_attn.rotary_emb.inv_freq": frequencies} if tag == "a" else {}
        save_file({**{name: state[name] for name in own}, **extra}, folder / file)
        places |= dict.fromkeys([*own, *extra], file)
    (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": places}))
    record = {"model_type": "llama", "torch_dtype": "float16", "pad_token_id": -1, **values}
    (folder / "config.json").write_text(json.dumps(record))
    write_sentencepiece(folder)
    (folder / "added_tokens.json").write_text(json.dumps({"[PAD]": PIECES}))
    return state


class TextFcLayer(nn.Module):
    """The published output projector, with its attribute names of either generation."""

    def __init__(self, rows: int, width: int, *, first: str, last: str) -> None:
        super().__init__()
        self.query_embs = nn.Parameter(torch.randn(1, rows, 16))
        setattr(self, first, nn.Linear(WIDTH, 16))
        with warnings.catch_warnings():
            warnings.simplefilter(
                "ignore", UserWarning
            )  # nested tensors, which norm_first excludes
            self.tfm = nn.Transformer(
                16, 2, 1, 1, 24, dropout=0.0, norm_first=True, batch_first=True
            )
        setattr(self, last, nn.Linear(16, width))
        self.names = (first, last)

    def forward(self, states: Tensor) -> Tensor:
        """[B, S, D] -> [B, rows, width]."""
        narrow = getattr(self, self.names[0])(states)
        asked = self.query_embs.expand(len(states), -1, -1)
        made: Tensor = getattr(self, self.names[1])(self.tfm(narrow, asked))
        return made


class Raw:
    """A checkpoint's tensors and the direct computation with them.

    Args:
        base: tensors of the base.
        generation: whose names.
    """

    def __init__(self, base: Mapping[str, Tensor], generation: str) -> None:
        torch.manual_seed(1)
        self.base, self.old = base, generation == "v0"
        self.config = v0_config() if self.old else v15_config()
        rows = PIECES + (2 if self.old else 0) + SIGNALS
        self.tokens = {}
        for name in ("model.embed_tokens.weight", "lm_head.weight"):
            fresh = 0.02 * torch.randn(rows, WIDTH)
            fresh[:PIECES] = base[name][:PIECES].float() + 0.002 * torch.randn(PIECES, WIDTH)
            self.tokens[name] = fresh.half()
        self.lora = {}
        targets = self.config.language.lora.target_modules if self.config.language.lora else ()
        for name, tensor in base.items():
            site = name.removesuffix(".weight")
            if site.rpartition(".")[2] in targets:
                self.lora[f"{site}.lora_A"] = torch.randn(4, tensor.shape[1]).half() * 0.2
                self.lora[f"{site}.lora_B"] = torch.randn(tensor.shape[0], 4).half() * 0.2
        self.input = (
            nn.Linear(16, WIDTH) if self.old else GroupedProjector(self.config.bridge.projector)
        )
        names = ("fc", "model") if self.old else ("in_fc", "out_fc")
        self.heads = {
            modality: TextFcLayer(*sizes, first=names[0], last=names[1])
            for modality, sizes in QUERIES.items()
        }
        for module in (self.input, *self.heads.values()):
            module.eval().half().float()

    def v0_state(self, prefix: str = "llama_model.base_model.model.", tag: str = ".default") -> Any:
        """The published file's dictionary."""
        state = OrderedDict((prefix + name, tensor) for name, tensor in self.tokens.items())
        for name, tensor in self.lora.items():
            state[f"{prefix}{name}{tag}.weight"] = tensor
        state |= {f"llama_proj.{n}": t.half() for n, t in self.input.state_dict().items()}
        for modality, ending in (("image", ""), ("video", "_video"), ("audio", "_audio")):
            for name, tensor in self.heads[modality].state_dict().items():
                state[f"gen_text_hidden_fcs{ending}.0.{name}"] = tensor.half()
        return state

    def v15_parts(self) -> dict[str, dict[str, Tensor]]:
        """Tensors of v1.5 by kind: tokens, lora, input, output; names as in a merged folder."""
        output = {
            f"model.mm_output_{tag}_projector.{name}": tensor.half()
            for modality, tag in (("image", "img"), ("video", "vid"), ("audio", "aud"))
            for name, tensor in self.heads[modality].state_dict().items()
        }
        held = {
            f"model.mm_input_projector.{n}": t.half() for n, t in self.input.state_dict().items()
        }
        lora = {f"base_model.model.{name}.weight": t for name, t in self.lora.items()}
        return {"tokens": dict(self.tokens), "lora": lora, "input": held, "output": output}

    def run(self, ids: list[int]) -> tuple[Tensor, Tensor, Tensor]:
        """Embeddings, last hidden states and logits of ids, in float32."""
        from transformers import LlamaConfig, LlamaForCausalLM

        values = dict(self.config.language_architecture)
        values |= {"vocab_size": len(self.tokens["lm_head.weight"])}
        values.pop("model_type")
        made: Any = LlamaForCausalLM(LlamaConfig(**values))
        model = made.eval()
        state = {name: tensor.float() for name, tensor in {**self.base, **self.tokens}.items()}
        lora = self.config.language.lora
        for name, tensor in self.lora.items():
            site, _, kind = name.rpartition(".")
            if kind == "lora_B" and lora is not None:
                update = tensor.float() @ self.lora[f"{site}.lora_A"].float()
                state[f"{site}.weight"] = state[f"{site}.weight"] + lora.alpha / lora.r * update
        model.load_state_dict(state)
        with torch.no_grad():
            out = model(torch.tensor([ids]), output_hidden_states=True)
            embeds = model.get_input_embeddings()(torch.tensor([ids]))
        return embeds, out.hidden_states[-1], out.logits


def save_pickle(state: Mapping[str, Tensor], path: Path) -> Path:
    """As training wrote it: an ordered dictionary of parameters."""
    held = OrderedDict((name, nn.Parameter(tensor)) for name, tensor in state.items())
    torch.save(held, path)
    return path


def save_flat(state: Mapping[str, Tensor], path: Path) -> Path:
    """The same as safetensors."""
    path.parent.mkdir(parents=True, exist_ok=True)
    save_file({name: tensor.contiguous() for name, tensor in state.items()}, path)
    return path


def _varint(number: int) -> bytes:
    out = b""
    while number > 0x7F:
        out, number = out + bytes([number & 0x7F | 0x80]), number >> 7
    return out + bytes([number])


def write_frozen(folder: Path) -> dict[str, Path]:
    """Tiny decoders in folders, and a pickled ImageBind."""
    places = {}
    for modality, entry in read_sizes(TINY)[0].decoders.items():
        kind = system_files.DECODERS[modality]
        decoder = kind.from_config(decoder_sizes(modality, entry), device="cpu")
        decoder.save_pretrained(folder / modality)
        spec = decoder.condition.tensors
        zeros = {name: torch.zeros(1, *tensor.shape) for name, tensor in spec.items()}
        save_flat(zeros, folder / modality / "unconditional.safetensors")
        places[modality] = folder / modality
    torch.manual_seed(2)
    places["imagebind"] = folder / "imagebind_huge.pth"
    torch.save(ImageBind(read_sizes(TINY)[0].encoder.imagebind).state_dict(), folder / "i")
    (folder / "i").rename(places["imagebind"])
    return places
