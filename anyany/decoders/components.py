"""The frozen networks of a decoder: built from values, or read from a diffusers folder.

Reading is strict and refuses pickles: every file that is missing is named before anything loads,
every weight that is missing, unknown or of another shape is an error.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import torch
from diffusers.models.autoencoders.autoencoder_kl import AutoencoderKL
from diffusers.models.unets.unet_2d_condition import UNet2DConditionModel
from diffusers.models.unets.unet_3d_condition import UNet3DConditionModel
from torch import nn

from anyany.decoders.config import AudioDecoderConfig, DecoderConfig, VideoDecoderConfig
from anyany.decoders.shared import component_folder
from anyany.errors import CheckpointError

UNET_CLASSES: Final[Mapping[str, Any]] = {
    "UNet2DConditionModel": UNet2DConditionModel,
    "UNet3DConditionModel": UNet3DConditionModel,
}
_DIFFUSERS: Final = "diffusion_pytorch_model"  # names of weight files without their ending
_TRANSFORMERS: Final = "model"
_IGNORED: Final = "position_ids"  # a constant that old CLIP checkpoints still carry


@dataclass
class Components:
    """The networks of one decoder.

    Args:
        unet: UNet2DConditionModel or UNet3DConditionModel.
        vae: AutoencoderKL.
        scheduler_config: values of the scheduler, `_class_name` included.
        text_encoder: CLIPTextModel or ClapTextModelWithProjection, if loaded.
        vocoder: SpeechT5HifiGan, for audio.
    """

    unet: Any
    vae: Any
    scheduler_config: dict[str, Any]
    text_encoder: Any = None
    vocoder: Any = None

    def num_parameters(self) -> dict[str, int]:
        """Parameters per network, for those that are there."""
        networks: dict[str, nn.Module | None] = {
            "unet": self.unet,
            "vae": self.vae,
            "text_encoder": self.text_encoder,
            "vocoder": self.vocoder,
        }
        return {
            name: sum(parameter.numel() for parameter in network.parameters())
            for name, network in networks.items()
            if network is not None
        }


def build_components(config: DecoderConfig, device: torch.device | str = "meta") -> Components:
    """Build all networks of a decoder from values: randomly initialised, or empty on "meta"."""
    with torch.device(device):
        unet_class = UNET_CLASSES[
            "UNet3DConditionModel"
            if isinstance(config, VideoDecoderConfig)
            else "UNet2DConditionModel"
        ]
        return Components(
            unet=unet_class.from_config(config.unet).eval(),
            vae=AutoencoderKL.from_config(config.vae).eval(),
            scheduler_config=dict(config.scheduler),
            text_encoder=_build_text_encoder(
                config.text_encoder, clap=isinstance(config, AudioDecoderConfig)
            ),
            vocoder=_build_vocoder(config.vocoder)
            if isinstance(config, AudioDecoderConfig)
            else None,
        )


def _build_text_encoder(values: dict[str, Any], *, clap: bool) -> Any:
    network: Any
    if clap:
        from transformers.models.clap.configuration_clap import ClapTextConfig

        network = _clap_class()(ClapTextConfig(**values))
    else:
        from transformers.models.clip.configuration_clip import CLIPTextConfig

        network = _clip_class()(CLIPTextConfig(**values))
    return network.eval()


def _clip_class() -> Any:
    from transformers.models.clip.modeling_clip import CLIPTextModel

    return CLIPTextModel


def _clap_class() -> Any:
    from transformers.models.clap.modeling_clap import ClapTextModelWithProjection

    return ClapTextModelWithProjection


def _vocoder_class() -> Any:
    from transformers.models.speecht5.modeling_speecht5 import SpeechT5HifiGan

    return SpeechT5HifiGan


def _build_vocoder(values: dict[str, Any]) -> Any:
    from transformers.models.speecht5.configuration_speecht5 import SpeechT5HifiGanConfig

    return _vocoder_class()(SpeechT5HifiGanConfig(**values)).eval()


def load_unet(folder: Path, dtype: torch.dtype) -> Any:
    """Read `unet/`; its config.json says whether it is the 2D or the 3D network.

    Raises:
        CheckpointError: a file is missing, torn or does not fit.
    """
    name = str(read_json(folder / "unet" / "config.json").get("_class_name"))
    if name not in UNET_CLASSES:
        raise CheckpointError(
            f"{folder / 'unet' / 'config.json'}: expected _class_name among "
            f"{', '.join(UNET_CLASSES)}, got {name!r}"
        )
    return load_network(UNET_CLASSES[name], folder / "unet", _DIFFUSERS, dtype)


def load_vae(folder: Path, dtype: torch.dtype) -> Any:
    """Read `vae/`, its own or a sibling's.

    Raises:
        CheckpointError: a file is missing, torn or does not fit.
    """
    return load_network(AutoencoderKL, component_folder(folder, "vae"), _DIFFUSERS, dtype)


def load_vocoder(folder: Path, dtype: torch.dtype) -> Any:
    """Read `vocoder/`.

    Raises:
        CheckpointError: a file is missing, torn or does not fit.
    """
    return load_network(_vocoder_class(), folder / "vocoder", _TRANSFORMERS, dtype)


def load_text_encoder(folder: Path, dtype: torch.dtype, *, clap: bool) -> tuple[Any, Any]:
    """Read `text_encoder/` and `tokenizer/`: CLIP's, or CLAP's with its projection.

    Returns:
        The encoder and its tokenizer.

    Raises:
        CheckpointError: a file is missing, torn or does not fit.
    """
    from transformers.models.auto.tokenization_auto import AutoTokenizer

    kind = _clap_class() if clap else _clip_class()
    encoder = load_network(kind, folder / "text_encoder", _TRANSFORMERS, dtype)
    require(folder / "tokenizer" / "tokenizer_config.json")
    try:
        tokenizer = AutoTokenizer.from_pretrained(
            folder / "tokenizer", local_files_only=True, trust_remote_code=False
        )
    except (OSError, ValueError, KeyError, TypeError):
        raise CheckpointError(
            f"{folder / 'tokenizer'}: expected a whole tokenizer folder; fetch it again"
        ) from None
    return encoder, tokenizer


def load_network(kind: Any, folder: Path, stem: str, dtype: torch.dtype) -> Any:
    """Read one network of diffusers or transformers, strictly, from safetensors alone.

    Args:
        kind: its class.
        folder: holds config.json and the weights, whole, sharded or as the fp16 variant.
        stem: the weight file's name without its ending.
        dtype: to hold the weights in.

    Raises:
        CheckpointError: a file is missing, torn or does not fit.
    """
    require(folder / "config.json")
    variant = _weights_variant(folder, stem)
    try:
        with _without_progress_bars():
            network, info = kind.from_pretrained(
                folder,
                torch_dtype=dtype,
                use_safetensors=True,
                variant=variant,
                local_files_only=True,
                output_loading_info=True,
            )
    except (OSError, ValueError, RuntimeError, KeyError, TypeError, _safetensor_error()):
        raise CheckpointError(
            f"{folder}: expected whole {kind.__name__} weights that fit its config.json; "
            "fetch the folder again"
        ) from None
    strange = [
        str(key)
        for group in ("missing_keys", "unexpected_keys", "mismatched_keys")
        for key in info.get(group, ())
        if not str(key).endswith(_IGNORED)
    ]
    if strange:
        raise CheckpointError(
            f"{folder}: expected the weights of {kind.__name__} as config.json describes it; "
            f"{len(strange)} are missing, unknown or of another shape, first {strange[0]!r}"
        )
    return network.eval().requires_grad_(False)


def require(path: Path) -> Path:
    """Name a file that must be there.

    Raises:
        CheckpointError: it is not.
    """
    if not path.is_file():
        raise CheckpointError(f"{path}: missing; expected a folder in diffusers layout")
    return path


def read_json(path: Path) -> dict[str, Any]:
    """Read a JSON object.

    Raises:
        CheckpointError: the file is missing or holds none.
    """
    try:
        record = json.loads(require(path).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        record = None
    if not isinstance(record, dict):
        require(path)
        raise CheckpointError(f"{path}: expected a JSON object")
    return record


def _weights_variant(folder: Path, stem: str) -> str | None:
    whole = f"{stem}.safetensors"
    if (folder / whole).is_file() or (folder / f"{whole}.index.json").is_file():
        return None
    if (folder / f"{stem}.fp16.safetensors").is_file():
        return "fp16"
    if list(folder.glob("*.bin")):
        raise CheckpointError(
            f"{folder / whole}: missing; only pickled weights are there, which are refused: "
            "convert them with `anyany import`"
        )
    raise CheckpointError(f"{folder / whole}: missing; expected a folder in diffusers layout")


def _safetensor_error() -> type[Exception]:
    from safetensors import SafetensorError

    error: type[Exception] = SafetensorError
    return error


@contextmanager
def _without_progress_bars() -> Iterator[None]:
    """Keep transformers' own bars off the terminal while weights load."""
    from transformers.utils import logging as transformers_logging

    logging: Any = transformers_logging
    shown = logging.is_progress_bar_enabled()
    logging.disable_progress_bar()
    try:
        yield
    finally:
        if shown:
            logging.enable_progress_bar()
