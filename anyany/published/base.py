"""The language model that a checkpoint was trained on: is it the right one, and in our layout.

What can be told: sizes, context and norm constants, the numbering of text (a hash over all
pieces), and whether the checkpoint's own input rows, which training began from the base's, still
lie along them. LLaMA 1, 2 and every Vicuna share their pieces; their rows tell LLaMA 1 from 2. The
versions of Vicuna on one LLaMA cannot be told apart for certain: the measured figure is reported.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

import torch
from torch import Tensor

from anyany.errors import CheckpointError
from anyany.published.layouts import CONSTANT, EMBED, HEAD, Shape, architecture, base_shapes
from anyany.published.tensors import Stored, list_tensors, read_object, weight_files, write_stored
from anyany.system_config import SystemConfig

KINSHIP: Final = 0.5  # least median cosine of input rows; unrelated rows have 0 +- 1/sqrt(D)
CHUNK: Final = 4_096  # rows compared at a time
_COMPARED: Final = (
    "hidden_size",
    "intermediate_size",
    "num_hidden_layers",
    "num_attention_heads",
    "num_key_value_heads",
    "head_dim",
    "hidden_act",
    "max_position_embeddings",
    "rms_norm_eps",
    "rope_parameters",
    "tie_word_embeddings",
    "attention_bias",
    "mlp_bias",
)
_READ: Final = ("vocab_size", "rope_theta", "rope_scaling")
_ALIASES: Final = {"nextgpt_llama": "llama"}


def check_architecture(folder: Path, config: SystemConfig, num_pieces: int) -> None:
    """Compare a base's config.json with the configuration, value by value.

    Args:
        folder: of the base.
        config: what the checkpoint was trained on.
        num_pieces: tokens without those that were added later.

    Raises:
        CheckpointError: it is another architecture; the line names the first value that differs.
    """
    from transformers import AutoConfig

    wanted = architecture(config)
    record: dict[str, Any] = dict(read_object(folder / "config.json"))
    kind = str(record.get("model_type", ""))
    kind = _ALIASES.get(kind, kind)
    record.setdefault("max_position_embeddings", record.get("max_sequence_length", 2_048))
    values = {key: record[key] for key in (*_COMPARED, *_READ) if record.get(key) is not None}
    if kind != wanted.model_type:
        raise CheckpointError(
            f"{folder}: wrong base for {config.name}: expected model_type {wanted.model_type}, "
            f"got {kind or 'none'}"
        )
    try:
        got = AutoConfig.for_model(kind, **values)
    except (ValueError, TypeError, KeyError):
        raise CheckpointError(f"{folder / 'config.json'}: expected values of a {kind}") from None
    for key in _COMPARED:
        ours, theirs = getattr(wanted, key, None), getattr(got, key, None)
        if ours != theirs:
            raise CheckpointError(
                f"{folder}: wrong base for {config.name}: expected {key} {ours}, got {theirs}"
            )
    if got.vocab_size < num_pieces:
        raise CheckpointError(
            f"{folder}: wrong base for {config.name}: expected rows for {num_pieces} pieces, "
            f"got {got.vocab_size}"
        )


def check_kinship(base: Stored, trained: Stored, num_pieces: int, *, folder: Path) -> float:
    """Whether a checkpoint's input rows began as this base's.

    Args:
        base: input rows [>= V, D] of the base.
        trained: input rows [V + ..., D] of the checkpoint.
        num_pieces: V.
        folder: of the base, for people.

    Returns:
        Median cosine of a row with the same row of the base.

    Raises:
        CheckpointError: the rows are unrelated: another base.
    """
    cosines: list[Tensor] = []
    for start in range(0, num_pieces, CHUNK):
        stop = min(start + CHUNK, num_pieces)
        pair = (base.rows(start, stop).float(), trained.rows(start, stop).float())
        cosines.append(torch.nn.functional.cosine_similarity(*pair, dim=1))
    median = float(torch.cat(cosines).median())
    if not median >= KINSHIP:
        raise CheckpointError(
            f"{folder}: wrong base: the checkpoint's token rows did not begin as this model's "
            f"(median cosine {median:.2f}, expected {KINSHIP} or more)"
        )
    return median


class BaseWeights:
    """The weights of a base folder, listed file by file.

    Args:
        folder: in transformers' layout.
        scratch: for what pickles are turned into.
        config: of the system.
        num_pieces: V without tokens that were added later.

    Raises:
        CheckpointError: a name or shape is not the architecture's, or a file is torn.
    """

    def __init__(
        self, folder: Path, scratch: Path, *, config: SystemConfig, num_pieces: int
    ) -> None:
        files = weight_files(folder)
        if not files:
            raise CheckpointError(
                f"{folder}: expected model.safetensors or pytorch_model.bin, whole or in shards"
            )
        self.shards = [list_tensors(path, scratch) for path in files]
        found: dict[str, Stored] = {}
        for shard in self.shards:
            for name, stored in shard.items():
                if name in found:
                    raise CheckpointError(f"{folder}: {name!r} is in two files")
                found[name] = stored
        wanted = base_shapes(config)
        _check_names(folder, found, wanted, num_pieces)
        check_constants(found, config, folder)
        self.embed = found[EMBED]


def check_constants(found: Mapping[str, Stored], config: SystemConfig, folder: Path) -> None:
    """Old files carry the rotary frequencies: constants, which must be the architecture's.

    Raises:
        CheckpointError: they are others: another base.
    """
    wanted = architecture(config)
    width = wanted.head_dim
    theta = float(wanted.rope_parameters["rope_theta"])
    frequencies = theta ** -(torch.arange(0, width, 2, dtype=torch.float64) / width)
    for name, stored in found.items():
        if not CONSTANT.fullmatch(name):
            continue
        came = stored.read().double()
        if came.shape != frequencies.shape or not torch.allclose(came, frequencies, rtol=2e-2):
            raise CheckpointError(f"{folder}: wrong base: {name} is not of rope_theta {theta:g}")


def write_language(
    folder: Path,
    shards: list[dict[str, Stored]],
    *,
    embed: Tensor,
    head: Tensor,
    config: SystemConfig,
) -> None:
    """Write the language model in transformers' layout, shard by shard, types kept.

    Args:
        folder: to write.
        shards: the base's tensors, file by file; input rows and head among them are replaced.
        embed: input rows [V, D] of the checkpoint.
        head: output rows [V, D].
        config: of the system; its architecture becomes config.json.
    """
    folder.mkdir(parents=True, exist_ok=True)
    own: dict[str, Tensor] = {EMBED: embed, HEAD: head}
    kept: list[dict[str, Stored | Tensor]] = []
    for shard in shards:
        chosen: dict[str, Stored | Tensor] = {
            name: own.pop(name) if name in own else stored
            for name, stored in shard.items()
            if not CONSTANT.fullmatch(name)
        }
        kept += [chosen] if chosen else []
    if own:
        kept[0] |= own
    places: dict[str, str] = {}
    total = 0
    for number, chosen in enumerate(kept):
        name = f"model-{number + 1:05d}-of-{len(kept):05d}.safetensors"
        write_stored(folder / name, chosen)
        places |= dict.fromkeys(sorted(chosen), name)
        total += (folder / name).stat().st_size
    index = {"metadata": {"total_size": total}, "weight_map": places}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index, indent=1) + "\n")
    written = architecture(config)
    written.architectures = ["LlamaForCausalLM"]
    written.save_pretrained(folder)


def _check_names(
    folder: Path, found: Mapping[str, Stored], wanted: Mapping[str, Shape], num_pieces: int
) -> None:
    strange = sorted(
        name for name in found.keys() ^ wanted.keys() if not CONSTANT.fullmatch(name)
    ) or sorted(
        name
        for name, shape in wanted.items()
        if name not in (EMBED, HEAD) and found[name].shape != shape
    )
    if strange:
        kind = "missing" if strange[0] in wanted and strange[0] not in found else "strange"
        raise CheckpointError(
            f"{folder}: wrong base: {len(strange)} of its tensors are missing, unknown or of "
            f"another shape, first {strange[0]!r} ({kind})"
        )
    rows = found[EMBED].shape
    if rows[0] < num_pieces or rows[1] != wanted[EMBED][1] or found[HEAD].shape != rows:
        raise CheckpointError(
            f"{folder}: wrong base: expected token rows [{num_pieces} or more, {wanted[EMBED][1]}] "
            f"in both matrices, got {list(rows)} and {list(found[HEAD].shape)}"
        )
