"""Writes a decoder's folder: diffusers' layout, safetensors alone, every JSON whole or absent."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import diffusers

if TYPE_CHECKING:
    from anyany.decoders.diffusion_decoder import DiffusionDecoder

_TEXT_FOLDERS = ("text_encoder", "tokenizer")


def write_components(decoder: DiffusionDecoder, folder: Path) -> None:
    """Write the networks, the scheduler's values and diffusers' model_index.json."""
    decoder.unet.save_pretrained(folder / "unet", safe_serialization=True)
    decoder.vae.save_pretrained(folder / "vae", safe_serialization=True)
    (folder / "scheduler").mkdir(exist_ok=True)
    write_json(decoder.scheduler_config, folder / "scheduler" / "scheduler_config.json")
    index: dict[str, Any] = {
        "_class_name": decoder.pipeline,
        "_diffusers_version": diffusers.__version__,
        "unet": ["diffusers", type(decoder.unet).__name__],
        "vae": ["diffusers", type(decoder.vae).__name__],
        "scheduler": ["diffusers", decoder.scheduler_config.get("_class_name")],
    }
    if decoder.vocoder is not None:
        decoder.vocoder.save_pretrained(folder / "vocoder", safe_serialization=True)
        index["vocoder"] = ["transformers", type(decoder.vocoder).__name__]
    if decoder.text is not None:
        decoder.text.text_encoder.save_pretrained(folder / "text_encoder", safe_serialization=True)
        decoder.text.tokenizer.save_pretrained(folder / "tokenizer")
        index["text_encoder"] = ["transformers", type(decoder.text.text_encoder).__name__]
        index["tokenizer"] = ["transformers", type(decoder.text.tokenizer).__name__]
    elif decoder.folder is not None and (decoder.folder / "model_index.json").is_file():
        known = json.loads((decoder.folder / "model_index.json").read_text(encoding="utf-8"))
        index |= {name: known[name] for name in _TEXT_FOLDERS if name in known}
    if decoder.pipeline == "StableDiffusionPipeline":
        unused = {name: [None, None] for name in ("safety_checker", "feature_extractor")}
        index |= {**unused, "image_encoder": [None, None], "requires_safety_checker": False}
    write_json(index, folder / "model_index.json")


def copy_text_folders(source: Path, folder: Path) -> None:
    """Copy a text encoder that was never loaded."""
    for name in _TEXT_FOLDERS:
        if (source / name).is_dir() and (source / name).resolve() != (folder / name).resolve():
            shutil.copytree(source / name, folder / name, dirs_exist_ok=True)


def write_json(record: Mapping[str, Any], path: Path) -> None:
    """Write a JSON object, whole or not at all."""
    partial = path.with_name(f"{path.name}.{os.getpid()}.tmp")
    partial.write_text(json.dumps(dict(record), indent=2, sort_keys=True) + "\n", encoding="utf-8")
    os.replace(partial, path)
