"""Any system at full size with random weights: to measure speed and memory without checkpoints.

Parts are built on the device, in the type that they will run in: nothing of full size is ever in
the host's memory unless the host is the device. Every matrix is drawn from the seed and its name,
scaled by its number of inputs, so signals keep their size and nothing becomes NaN. A tokenizer of
the right size is made up where none is at hand.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any, Final, cast

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from anyany import system_files
from anyany.config import from_dict, load_config
from anyany.decoders import (
    AudioDecoderConfig,
    Condition,
    ConditionSpec,
    ImageDecoderConfig,
    OutputProjector,
    VideoDecoderConfig,
    build_components,
    condition_spec,
    load_decoder_config,
)
from anyany.decoders.components import read_json
from anyany.decoders.config import DecoderConfig
from anyany.decoders.decoder import DecoderRecord
from anyany.decoders.shared import component_folder
from anyany.encoders import ImageBind
from anyany.errors import ConfigError
from anyany.language import LanguageModel, LoraAdapter
from anyany.language.model import DTYPES
from anyany.messages import Modality
from anyany.system_config import DecoderEntry, SystemConfig, load_system_config, system_names

SPECIAL: Final = ("<unk>", "<s>", "</s>")
_YAML: Final = (".yaml", ".yml")
_SCHEMAS: Final[Mapping[str, type[DecoderConfig]]] = {
    "image": ImageDecoderConfig,
    "video": VideoDecoderConfig,
    "audio": AudioDecoderConfig,
}


def read_sizes(source: str | Path) -> tuple[SystemConfig, Path | None]:
    """What to build.

    Args:
        source: a packaged name, a system's YAML, or a folder with config.json.

    Returns:
        The configuration, and the folder that says the sizes of parts it leaves out.

    Raises:
        CheckpointError, ConfigError: it is none of these.
    """
    if str(source) in system_names() and str(source) not in system_files.PACKAGED:
        return load_system_config(str(source)), None
    if Path(source).suffix in _YAML:
        return _read_yaml(Path(source)), None
    folder = system_files.find(source)
    return system_files.read_config(folder), folder


def decoder_sizes(modality: str, entry: DecoderEntry, folder: Path | None = None) -> DecoderConfig:
    """A decoder's sizes: by its published name, by a YAML, or from the folder's own files.

    Raises:
        ConfigError: they are said nowhere.
    """
    if Path(entry.config).suffix in _YAML:
        return load_config(Path(entry.config), _SCHEMAS[modality])
    if entry.config:
        return load_decoder_config(entry.config)
    own = None if folder is None else folder / entry.source
    if own is None or not own.is_dir():
        raise ConfigError(f"decoders.{modality}.config: expected a decoder's name; got ''")
    names = ["unet", "vae", "text_encoder", *(["vocoder"] if modality == "audio" else [])]
    values: dict[str, Any] = {
        name: read_json(component_folder(own, name) / "config.json") for name in names
    }
    values["scheduler"] = read_json(own / "scheduler" / "scheduler_config.json")
    if (own / "decoder.json").is_file():
        record = from_dict(
            read_json(own / "decoder.json"), DecoderRecord, source=str(own / "decoder.json")
        )
        values |= {"presets": record.presets, **record.extras}
    return _SCHEMAS[modality](**values)


def build_dummy(
    config: SystemConfig,
    folder: Path | None = None,
    *,
    device: torch.device,
    dtype: str = "float32",
    seed: int = 0,
    tokenizer: Any = None,
) -> system_files.Parts:
    """Build a system of random weights.

    Args:
        config: of any system.
        folder: says sizes that `config` leaves out; its tokenizer is used.
        device: to build on and to stay on; "meta" builds without weights and tokenizer, to count.
        dtype: float32, bfloat16 or float16.
        seed: of the weights.
        tokenizer: of the language model; None makes one up.

    Raises:
        ConfigError: a part's sizes are said nowhere.
    """
    if dtype not in DTYPES:
        raise ConfigError(f"dtype: expected one of {', '.join(DTYPES)}; got {dtype!r}")
    config = replace(config, language=replace(config.language, dtype=dtype, quantization=None))
    architecture = _architecture(config, folder)
    is_meta = device.type == "meta"
    if tokenizer is None and not is_meta:
        tokenizer = _tokenizer(config, architecture, folder)
    decoders: dict[Modality, Any] = {}
    projectors: dict[str, OutputProjector] = {}
    with _undrawn(DTYPES[dtype]):
        language = LanguageModel.from_config(
            config.language, architecture, tokenizer=tokenizer, device=device
        )
        with torch.device(device):
            sees = config.encoder.readout != "pixels"
            imagebind = ImageBind(config.encoder.imagebind).eval() if sees else None
            bridge = system_files.make_bridge(config, imagebind, language)
            for modality, entry in config.decoders.items():
                decoder = _decoder(modality, decoder_sizes(modality, entry, folder), device)
                decoders[cast("Modality", modality)] = decoder
                projectors[modality] = OutputProjector.from_config(
                    language.language_dim, decoder.condition, entry.output_projector
                ).eval()
    parts = system_files.Parts(config, bridge, decoders, projectors)
    if is_meta:
        return parts
    for name, module in (("bridge", bridge), ("out", nn.ModuleDict(projectors))):
        randomize(module, f"{seed} {name}")
    for modality, decoder in decoders.items():
        randomize(decoder, f"{seed} {modality}")
    if isinstance(language.adapter, LoraAdapter):
        language.adapter.merge(keep_base=False)
    return parts


@torch.no_grad()
def randomize(module: nn.Module, seed: str) -> None:
    """Draw every parameter in place, from the seed and its name; buffers and scalars stay.

    Args:
        module: on any device, in any type; norms get weight 1, and all of them bias 0.
        seed: any text.
    """
    for name, parameter in module.named_parameters():
        number = int.from_bytes(hashlib.sha256(f"{seed} {name}".encode()).digest()[:8], "big")
        generator = torch.Generator(parameter.device).manual_seed(number >> 1)
        _draw(name, parameter, generator)


def make_tokenizer(vocab_size: int, added: tuple[str, ...] = ()) -> Any:
    """A fast tokenizer of a given size: one token a byte of text, the others for show.

    Args:
        vocab_size: tokens in all, `added` included.
        added: special tokens with the highest ids.

    Raises:
        ConfigError: there is no room for all bytes.
    """
    from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    known = [*SPECIAL, *sorted(pre_tokenizers.ByteLevel.alphabet())]
    fillers = vocab_size - len(known) - len(added)
    if fillers < 0:
        raise ConfigError(
            f"language_architecture.vocab_size: expected {len(known) + len(added)} or more for a "
            f"made-up tokenizer; got {vocab_size}"
        )
    tokens = [*known, *(f"Ġtoken{number}" for number in range(fillers))]
    vocab = {token: number for number, token in enumerate(tokens)}
    inner: Any = Tokenizer(models.BPE(vocab=vocab, merges=[], unk_token=SPECIAL[0]))
    inner.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    inner.decoder = decoders.ByteLevel()
    inner.add_special_tokens([AddedToken(token, special=True) for token in (*SPECIAL, *added)])
    kind: Any = PreTrainedTokenizerFast
    return kind(
        tokenizer_object=inner,
        unk_token=SPECIAL[0],
        bos_token=SPECIAL[1],
        eos_token=SPECIAL[2],
        extra_special_tokens=list(added),
        clean_up_tokenization_spaces=False,
    )


class _WithoutDraws(TorchFunctionMode):
    """New parameters begin at zero, which is quick: they are drawn once, by `randomize`.

    Zero, not whatever memory held: torch draws truncated normals again until they are in range.
    """

    def __torch_function__(
        self, func: Any, types: Any, args: Any = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        if func in (Tensor.normal_, Tensor.uniform_):
            return args[0].zero_()
        return func(*args, **(kwargs or {}))


@contextmanager
def _undrawn(dtype: torch.dtype) -> Iterator[None]:
    """New parameters are in the type, and zero instead of drawn."""
    before = torch.get_default_dtype()
    torch.set_default_dtype(dtype)
    try:
        with _WithoutDraws():
            yield
    finally:
        torch.set_default_dtype(before)


def _draw(name: str, parameter: nn.Parameter, generator: torch.Generator) -> None:
    if parameter.ndim == 0:
        return
    if parameter.ndim == 1:
        parameter.fill_(1.0 if name.endswith("weight") else 0.0)
        return
    inputs = parameter.numel() / parameter.shape[0]
    if parameter.shape[0] == 1:  # tokens and positions of their own, not a matrix
        inputs = parameter.shape[-1]
    parameter.normal_(0.0, 1.0 / math.sqrt(inputs), generator=generator)


def _architecture(config: SystemConfig, folder: Path | None) -> dict[str, Any]:
    if config.language_architecture:
        return dict(config.language_architecture)
    if folder is not None and (folder / config.language.source / "config.json").is_file():
        return read_json(folder / config.language.source / "config.json")
    raise ConfigError("language_architecture: expected the values of the language model")


def _tokenizer(config: SystemConfig, architecture: Mapping[str, Any], folder: Path | None) -> Any:
    """The folder's own, else one of the right size."""
    own = None if folder is None else folder / config.language.source
    if own is not None and (own / "tokenizer.json").is_file():
        from transformers import AutoTokenizer

        return AutoTokenizer.from_pretrained(own, local_files_only=True, trust_remote_code=False)
    named = (config.language.slot_prefix, config.language.slot_suffix)
    return make_tokenizer(int(architecture["vocab_size"]), tuple(token for token in named if token))


def _decoder(modality: str, sizes: DecoderConfig, device: torch.device) -> Any:
    """A decoder without its text encoder, as a loaded one is until that is needed."""
    kind = system_files.DECODERS[modality]
    components = build_components(sizes, device)
    components.text_encoder = None
    spec = condition_spec(sizes.unet, sizes.text_encoder)
    own = {key: getattr(sizes, key) for key in kind.extra_names}
    told = Condition(_unconditional(spec))
    return kind(components, spec, presets=sizes.presets, unconditional=told, **own)


def _unconditional(spec: ConditionSpec) -> dict[str, Tensor]:
    """What stands for the empty text: noise of the right shape, always the same."""
    generator = torch.Generator("cpu").manual_seed(0)
    told = {}
    for name, tensor in spec:
        drawn = torch.randn((1, *tensor.shape), generator=generator, device="cpu")
        told[name] = nn.functional.normalize(drawn, dim=-1) if tensor.normalize else drawn
    return told


def _read_yaml(path: Path) -> SystemConfig:
    """A system's YAML; those that it names lie beside it."""
    config = load_config(path, SystemConfig)
    beside = {
        modality: replace(entry, config=str(path.resolve().parent / entry.config))
        for modality, entry in config.decoders.items()
        if Path(entry.config).suffix in _YAML
    }
    return replace(config, decoders={**config.decoders, **beside})
