"""`anyany doctor`: what a bug report needs to know of this machine."""

from __future__ import annotations

import json
import os
import platform
import shutil
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any, Final

from anyany.cli.options import AsJson

_LIBRARIES: Final = (
    *("anyany", "torch", "transformers", "diffusers", "peft", "accelerate", "safetensors"),
    *("tokenizers", "huggingface_hub", "numpy", "pillow", "av", "soundfile", "typer"),
)
_OPTIONAL: Final = ("bitsandbytes", "tensorboard")
_FLAGS: Final = ("HF_HUB_OFFLINE", "TRANSFORMERS_OFFLINE", "HF_HOME", "OMP_NUM_THREADS", "NO_COLOR")


def doctor(as_json: AsJson = False) -> int:
    """Print versions, devices, codecs, offline flags and folders; exit code 1 if something lacks.

    \b
    Examples:
      anyany doctor
      anyany doctor --json
    """
    report = examine()
    if as_json:
        print(json.dumps(report, indent=1))
    else:
        for section, values in report.items():
            print(section)
            for name, value in values.items():
                print(f"  {name:<22}{value}")
    lacking = [
        name
        for section in ("versions", "codecs", "pocket")
        for name, value in report[section].items()
        if value == "missing"
    ]
    print("all is well" if not lacking else f"missing: {', '.join(lacking)}") if not as_json else 0
    return 1 if lacking else 0


def examine() -> dict[str, dict[str, Any]]:
    """All sections of the report."""
    return {
        "system": {
            "python": platform.python_version(),
            "platform": f"{platform.system()} {platform.machine()}",
            "cpu cores": os.cpu_count(),
        },
        "versions": {name: _version(name) for name in _LIBRARIES},
        "optional": {name: _version(name) for name in _OPTIONAL},
        "devices": _devices(),
        "codecs": _codecs(),
        "settings": {name: os.environ.get(name, "not set") for name in _FLAGS},
        "folders": _folders(),
        "pocket": _pocket(),
    }


def _version(name: str) -> str:
    try:
        return version(name)
    except PackageNotFoundError:
        if name == "anyany":  # run from a checkout that is not installed
            from anyany import __version__

            return __version__
        return "missing"


def _devices() -> dict[str, Any]:
    import torch

    found: dict[str, Any] = {"cpu": f"{torch.get_num_threads()} threads"}
    for index in range(torch.cuda.device_count()):
        device = torch.cuda.get_device_properties(index)
        found[f"cuda:{index}"] = f"{device.name}, {device.total_memory / 2**30:.0f} GiB"
    if torch.backends.mps.is_available():
        found["mps"] = "available"
    return found


def _codecs() -> dict[str, str]:
    import av.codec
    import soundfile
    from PIL import features

    def state(there: object) -> str:
        return "available" if there else "missing"

    found = {
        name: state(name in av.codec.codecs_available)
        for name in ("libx264", "h264", "vp9", "aac", "mp3", "opus")
    }
    found |= {name: state(name in soundfile.available_formats()) for name in ("WAV", "FLAC")}
    found |= {name: state(features.check(name)) for name in ("jpg", "webp", "zlib")}
    return found


def _folders() -> dict[str, str]:
    from huggingface_hub.constants import HF_HUB_CACHE

    free = shutil.disk_usage(Path.home()).free / 2**30
    return {"hub cache": HF_HUB_CACHE, "free in home": f"{free:.1f} GiB"}


def _pocket() -> dict[str, str]:
    from anyany.errors import CheckpointError
    from anyany.system_files import find
    from anyany.weights import verify

    try:
        whole = not verify(find("pocket"))
    except CheckpointError:
        return {"weights": "missing"}
    return {"weights": "whole" if whole else "changed (see anyany models verify)"}
