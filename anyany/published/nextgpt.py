"""NExT-GPT's published checkpoints, of both generations, to a folder of ours.

    checkpoint files -> canonical names -> slots (every key one, every slot one)
    base folder      -> architecture, vocabulary, kinship of rows -> language/, shard by shard

Both generations trained the whole token matrices, so `language/` gets the checkpoint's rows and
the signal tokens' rows stand beside it. All is checked before the first large file is written, in
a folder beside the target that takes its name only when it is whole.
"""

from __future__ import annotations

import json
import logging
import os
import shutil
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Final

from anyany.config import to_dict
from anyany.dummy import read_sizes
from anyany.errors import CheckpointError, ResourceError, UsageError
from anyany.language import LoraSettings
from anyany.language.adapters import ADAPTER_CONFIG, ADAPTER_WEIGHTS
from anyany.published import base, components
from anyany.published.layouts import EMBED, HEAD, TOWER, Generation, expected_slots, fill
from anyany.published.sources import Gathered, folders_of, gather
from anyany.published.tensors import Stored, read_object, write_stored
from anyany.published.vocabulary import (
    LLAMA_PIECES_SHA256,
    Vocabulary,
    read_vocabulary,
    write_tokenizer,
)
from anyany.system_config import SystemConfig, load_system_config
from anyany.weights import write_manifest

logger = logging.getLogger(__name__)

SYSTEMS: Final[Mapping[str, Generation]] = {"nextgpt-7b-v0": "v0", "nextgpt-7b-v1.5": "v1.5"}


@dataclass(frozen=True)
class Imported:
    """What an import made.

    Args:
        folder: the system.
        num_tensors: tensors of the checkpoint, each accounted for.
        kinship: median cosine of the checkpoint's input rows with the base's; None without a base.
        overridden: tensors that a later stage's file replaced.
        missing: frozen parts that are not here yet: to be put there, or Hub repositories.
    """

    folder: Path
    num_tensors: int
    kinship: float | None
    overridden: int
    missing: tuple[str, ...]


def import_nextgpt(
    system: str,
    checkpoint: Path | Sequence[Path],
    out: Path,
    *,
    base_folder: Path | None = None,
    imagebind: Path | None = None,
    decoders: Mapping[str, str] | None = None,
    config: SystemConfig | Path | None = None,
    vocabulary_sha256: str | None = None,
) -> Imported:
    """Turn a published checkpoint into a system's folder.

    Args:
        system: nextgpt-7b-v0 or nextgpt-7b-v1.5: which names the checkpoint has.
        checkpoint: v0's pytorch_model.pt; v1.5's files or folders: stage files, a LoRA folder, a
            merged folder. safetensors with the same names are taken as well.
        out: the folder to make; must not be there, or be empty.
        base_folder: the language model that it was trained on, in transformers' layout; a merged
            folder needs none.
        imagebind: imagebind_huge.pth, or safetensors.
        decoders: modality -> folder in diffusers' layout, or Hub repository.
        config: sizes, if not the published ones.
        vocabulary_sha256: of the base's pieces; None = LLaMA's for the published sizes, else only
            compared with the checkpoint's own tokenizer.

    Raises:
        CheckpointError: a file is missing, torn or not trusted, a key is missing, unknown or of
            another shape, or the base is another one; nothing is written then.
        UsageError: an argument is off, or `out` is there already.
        ResourceError: the disk is full.
    """
    if system not in SYSTEMS:
        raise UsageError(f"expected a system among {', '.join(SYSTEMS)}; got {system!r}")
    if config is None:
        sizes = load_system_config(system)
        vocabulary_sha256 = vocabulary_sha256 or LLAMA_PIECES_SHA256
    else:
        sizes = read_sizes(config)[0] if isinstance(config, Path) else config
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise UsageError(f"{out}: expected a new or empty folder to write to; it is there already")
    strange = sorted(set(decoders or {}) - set(sizes.decoders))
    if strange:
        raise UsageError(f"decoders: {sizes.name} has none for {strange[0]}")
    paths = (checkpoint,) if isinstance(checkpoint, Path) else tuple(checkpoint)
    staging = out.with_name(f".{out.name}.{os.getpid()}.part")
    try:
        staging.mkdir(parents=True)
        with tempfile.TemporaryDirectory(dir=out.parent, prefix=f".{out.name}.scratch.") as scratch:
            job = _Import(SYSTEMS[system], sizes, staging, Path(scratch), dict(decoders or {}))
            done = job.run(paths, base_folder, imagebind, vocabulary_sha256)
        os.replace(staging, out)
    except OSError as error:
        raise ResourceError(f"cannot write to {out.parent}: disk full, or not allowed?") from error
    finally:
        shutil.rmtree(staging, ignore_errors=True)
    return replace(done, folder=out)


@dataclass
class _Import:
    """One import on its way."""

    generation: Generation
    config: SystemConfig
    out: Path
    scratch: Path
    decoders: dict[str, str]

    def run(
        self,
        paths: Sequence[Path],
        base_folder: Path | None,
        imagebind: Path | None,
        sha256: str | None,
    ) -> Imported:
        added = self._added_tokens()
        num_pieces = int(self.config.language_architecture.get("vocab_size", 0)) - len(added)
        came = gather(self.generation, self.config, paths, self.scratch)
        lora, merged = came.lora, came.merged
        parts = self._place(came, str(paths[0]))
        folder = base_folder or merged
        if folder is None:
            raise UsageError("expected --base FOLDER: the language model that it was trained on")
        if not folder.is_dir():
            raise UsageError(f"{folder}: expected the base's folder; found none")
        base.check_architecture(merged or folder, self.config, num_pieces)
        vocabulary = self._vocabulary(folder, paths, num_pieces, sha256)
        self._check_added(paths, added, vocabulary)
        kinship, shards = self._base(folder, came, parts, num_pieces)
        self._write_language(parts, shards, vocabulary, added)
        self._write_tuned(parts, lora)
        written, missing = self._write_config(parts, lora, imagebind)
        (self.out / "config.json").write_text(json.dumps(to_dict(written), indent=1) + "\n")
        write_manifest(self.out)
        return Imported(self.out, len(came.found), kinship, came.overridden, missing)

    def _added_tokens(self) -> tuple[str, ...]:
        """Tokens between the pieces and the signal tokens: v0's <Img> and </Img>."""
        named = (self.config.language.slot_prefix, self.config.language.slot_suffix)
        return tuple(token for token in named if token)

    def _place(self, came: Gathered, source: str) -> dict[str, dict[str, Stored]]:
        conditions = {
            modality: components.condition_of(modality, entry, self.decoders.get(modality))
            for modality, entry in self.config.decoders.items()
        }
        slots = expected_slots(
            self.config,
            self.generation,
            conditions,
            lora=came.lora,
            merged=came.merged is not None,
            tower=any(key.startswith(TOWER) for key in came.found),
        )
        several = "give every stage's file or folder" if self.generation == "v1.5" else ""
        return fill(came.found, slots, source, hint=several)

    def _vocabulary(
        self, folder: Path, paths: Sequence[Path], num_pieces: int, sha256: str | None
    ) -> Vocabulary:
        """The base's, compared with the checkpoint's own and with the known hash."""
        vocabulary = read_vocabulary(folder, num_pieces)
        if vocabulary is None:
            raise CheckpointError(
                f"{folder}: expected the base's tokenizer (tokenizer.model or tokenizer.json)"
            )
        if sha256 is not None and vocabulary.sha256 != sha256:
            raise CheckpointError(
                f"{folder}: wrong base: expected a tokenizer of vocabulary hash {sha256[:12]}, "
                f"got {vocabulary.sha256[:12]}"
            )
        for beside in folders_of(paths):
            own = read_vocabulary(beside, num_pieces)
            if own is not None and own.sha256 != vocabulary.sha256:
                raise CheckpointError(
                    f"{folder}: wrong base: its tokenizer (vocabulary hash "
                    f"{vocabulary.sha256[:12]}) is not the checkpoint's ({own.sha256[:12]})"
                )
        return vocabulary

    def _check_added(
        self, paths: Sequence[Path], added: Sequence[str], vocabulary: Vocabulary
    ) -> None:
        """The checkpoint's own list of added tokens, if it is there, has our ids."""
        size = len(vocabulary.pieces)
        wanted = {token: size + number for number, token in enumerate(added)}
        signals = self.config.language.signals.at(size + len(added))
        for modality in signals.modalities:
            wanted |= {signals.name(number): number for number in signals.ids(modality)}
        for folder in folders_of(paths):
            own = folder / "added_tokens.json"
            if not own.is_file():
                continue
            listed = {k: v for k, v in read_object(own).items() if v != _piece(vocabulary, k)}
            if listed != wanted:
                strange = sorted(set(listed.items()) ^ set(wanted.items()), key=str)
                raise CheckpointError(
                    f"{own}: expected the added tokens of {self.config.name}; first difference "
                    f"{strange[0][0]!r} with id {strange[0][1]}"
                )

    def _base(
        self,
        folder: Path,
        came: Gathered,
        parts: Mapping[str, Mapping[str, Stored]],
        num_pieces: int,
    ) -> tuple[float | None, list[dict[str, Stored]]]:
        if came.merged is not None:
            base.check_constants(came.found, self.config, came.merged)
            by_file: dict[Path, dict[str, Stored]] = {}
            for name, stored in parts["base"].items():
                by_file.setdefault(stored.path, {})[name] = stored
            return None, list(by_file.values())
        weights = base.BaseWeights(folder, self.scratch, config=self.config, num_pieces=num_pieces)
        trained = parts["embed"][EMBED]
        kinship = base.check_kinship(weights.embed, trained, num_pieces, folder=folder)
        return kinship, weights.shards

    def _write_language(
        self,
        parts: Mapping[str, Mapping[str, Stored]],
        shards: list[dict[str, Stored]],
        vocabulary: Vocabulary,
        added: Sequence[str],
    ) -> None:
        size = len(vocabulary.pieces) + len(added)
        embed, head = parts["embed"][EMBED], parts["head"][HEAD]
        base.write_language(
            self.out / "language",
            shards,
            embed=embed.rows(0, size),
            head=head.rows(0, size),
            config=self.config,
        )
        write_tokenizer(self.out / "language", vocabulary, added)
        rows = {
            "input_rows": embed.rows(size, embed.shape[0]),
            "output_rows": head.rows(size, head.shape[0]),
        }
        write_stored(self.out / "signal_rows.safetensors", rows)

    def _write_tuned(
        self, parts: Mapping[str, Mapping[str, Stored]], lora: LoraSettings | None
    ) -> None:
        sizes = json.dumps(to_dict(self.config.bridge.projector))
        shared = self.out / "input_projector" / "shared.safetensors"
        write_stored(shared, dict(parts["input"]), {"projector": sizes})
        for modality in self.config.decoders:
            path = self.out / "output_projectors" / f"{modality}.safetensors"
            write_stored(path, dict(parts[modality]))
        if lora is not None:
            write_stored(self.out / "adapter" / ADAPTER_WEIGHTS, dict(parts["lora"]))
            record = {
                "peft_type": "LORA",
                "task_type": "CAUSAL_LM",
                "r": lora.r,
                "lora_alpha": lora.alpha,
                "lora_dropout": lora.dropout,
                "target_modules": list(lora.target_modules),
                "bias": "none",
                "inference_mode": True,
            }
            (self.out / "adapter" / ADAPTER_CONFIG).write_text(json.dumps(record, indent=1) + "\n")

    def _write_config(
        self,
        parts: Mapping[str, Mapping[str, Stored]],
        lora: LoraSettings | None,
        imagebind: Path | None,
    ) -> tuple[SystemConfig, tuple[str, ...]]:
        """config.json's values, and what it names that is not there yet."""
        if imagebind is None and "encoder" in parts:
            encoder = components.IMAGEBIND_NAME
            write_stored(self.out / encoder, dict(parts["encoder"]))
        else:
            encoder = components.place_imagebind(
                imagebind, self.config, out=self.out, scratch=self.scratch
            )
        placed = {
            modality: components.place_decoder(
                modality, entry, self.decoders.get(modality), out=self.out, scratch=self.scratch
            )
            for modality, entry in self.config.decoders.items()
        }
        missing = [] if (self.out / encoder).is_file() else [encoder]
        missing += [source for source in placed.values() if not (self.out / source).is_dir()]
        written = replace(
            self.config,
            encoder=replace(self.config.encoder, source=encoder),
            language=replace(self.config.language, source="language", lora=lora),
            decoders={
                modality: replace(entry, source=placed[modality])
                for modality, entry in self.config.decoders.items()
            },
        )
        return written, tuple(missing)


def _piece(vocabulary: Vocabulary, token: str) -> int | None:
    """The id of a token that is one of the pieces."""
    return vocabulary.pieces.index(token) if token in vocabulary.pieces else None
