"""Seconds and memory of a full-size system, part by part, as a share of what the device could do.

    python benchmarks/full_size.py --write-docs                 # one GPU, under ten minutes
    python benchmarks/full_size.py --system nextgpt-7b-v0 --dtype float16
    python benchmarks/full_size.py --tiny                       # any CPU: does it work?

Weights are random (`weights="dummy"`): they do not matter for speed and memory. Every figure is a
median after a warm-up, with the device synchronised before each clock reading; ceilings.py says
what 100% is. A part that does not fit the device is reported as such, and the others go on.
"""

from __future__ import annotations

import argparse
import platform
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from statistics import median
from typing import Any, Final

import numpy as np
import torch
from ceilings import Peak, Work, count_flops, find_peak, weight_bytes
from einops import rearrange
from full_size_tables import Row, markdown
from PIL import Image

from anyany import AnyToAny, AudioPart, ImagePart, VideoPart
from anyany.decoders import build_scheduler, denoise
from anyany.media import write_json
from anyany.pocket.figures import replace_between
from anyany.requests import EngineSettings

HERE: Final = Path(__file__).resolve().parent
DOCS: Final = HERE.parent / "docs" / "benchmarks.md"
TINY: Final = HERE / "tiny" / "system.yaml"
BEGIN: Final = "<!-- full-size:begin -->"
END: Final = "<!-- full-size:end -->"
MICRO_BATCHES: Final = (1, 2, 4)


@dataclass(frozen=True)
class Size:
    """How much is measured.

    Args:
        repeats: of every measurement.
        prompt: tokens of the prefill.
        tokens: of the decode.
        rows: conversations decoded side by side.
        loop_steps: denoising steps per measurement of a step.
    """

    repeats: int = 5
    prompt: int = 512
    tokens: int = 128
    rows: tuple[int, ...] = (1, 16)
    loop_steps: int = 4


SMALL: Final = Size(repeats=1, prompt=16, tokens=8, rows=(1, 2), loop_steps=2)


def main(argv: Sequence[str] | None = None) -> int:
    """Build, measure, print, and write results.json (and the docs, if asked)."""
    arguments = _parse(argv)
    size = SMALL if arguments.tiny else Size()
    system, meter, built = build(arguments)
    peak = _peak(arguments, meter.device)
    rows: list[Row] = []
    for measure in (encoders, prefill, decode, projectors, decoders, replies):
        began = time.perf_counter()
        rows += list(measure(system, meter, size))
        _note(f"{measure.__name__}: {time.perf_counter() - began:.0f} s")
    header = {
        "format": 1,
        "tiny": arguments.tiny,
        "system": system.config.name,
        "dtype": str(system.language.dtype).removeprefix("torch."),
        "device": meter.name,
        "torch": torch.__version__,
        "python": platform.python_version(),
        "seconds_to_build": built,
        "bytes_of_weights": weight_bytes(system.bridge, *_networks(system)),
        "peak": None if peak is None else asdict(peak),
    }
    arguments.out.mkdir(parents=True, exist_ok=True)
    write_json({**header, "rows": [asdict(row) for row in rows]}, arguments.out / "results.json")
    text = markdown(header, rows, peak)
    print(text)
    if arguments.write_docs:
        replace_between(DOCS, text, begin=BEGIN, end=END)
    return 0


def build(arguments: argparse.Namespace) -> tuple[AnyToAny, Meter, float]:
    """The system with random weights, and the seconds that it took."""
    began = time.perf_counter()
    system = AnyToAny.from_pretrained(
        TINY if arguments.tiny else arguments.system,
        weights="dummy",
        device="cpu" if arguments.tiny else arguments.device,
        dtype=arguments.dtype,
        threads=None,
    )
    system.bridge.requires_grad_(False)
    system.output_projectors.requires_grad_(False)
    meter = Meter(system.device)
    meter.wait()
    return system, meter, time.perf_counter() - began


class Meter:
    """Times passes on a device.

    Args:
        device: where the work is done.
    """

    def __init__(self, device: torch.device) -> None:
        self.device = device
        self.is_cuda = device.type == "cuda"
        self.name = torch.cuda.get_device_name(device) if self.is_cuda else "CPU"

    def wait(self) -> None:
        """Until the device has done all that it was told."""
        if self.is_cuda:
            torch.cuda.synchronize(self.device)

    def time(self, run: Callable[[], Any], repeats: int) -> tuple[float | None, int | None]:
        """Median seconds and peak bytes of a pass; None, None if it does not fit."""
        seconds = []
        try:
            with torch.no_grad():
                run()  # the first pass chooses kernels and grows the pools
                self.wait()
                if self.is_cuda:
                    torch.cuda.reset_peak_memory_stats(self.device)
                for _ in range(repeats):
                    began = time.perf_counter()
                    run()
                    self.wait()
                    seconds.append(time.perf_counter() - began)
        except torch.OutOfMemoryError:
            torch.cuda.empty_cache()
            return None, None
        peak = torch.cuda.max_memory_allocated(self.device) if self.is_cuda else None
        return median(seconds), peak

    def row(
        self,
        part: str,
        what: str,
        run: Callable[[], Any],
        *,
        repeats: int,
        weights: float,
        batch: int = 1,
        unit: str = "",
    ) -> Row:
        """Measure one pass."""
        seconds, peak = self.time(run, repeats)
        flops = 0.0
        with suppress(torch.OutOfMemoryError):
            flops = count_flops(run) if seconds is not None else 0.0
        rate = f"{batch / seconds:,.3f} {unit}/s" if seconds and unit else ""
        return Row(part, what, batch, seconds, peak, Work(flops, weights), rate)


def encoders(system: AnyToAny, meter: Meter, size: Size) -> Iterator[Row]:
    """ImageBind and the input projector, per modality."""
    for modality, part in _media().items():
        if modality not in system.bridge.encoders:
            continue
        prepared = system.bridge.prepare(part)
        encoder: Any = system.bridge.encoders[modality]
        trunk = encoder.imagebind.modality_trunks[encoder.tower]
        for batch in MICRO_BATCHES:
            tiles = prepared.tiles.repeat(batch, *([1] * (prepared.tiles.ndim - 1)))
            tiles = tiles.to(meter.device)
            yield meter.row(
                "encoder",
                modality,
                lambda tiles=tiles, encoder=encoder: encoder(tiles),
                repeats=size.repeats,
                weights=weight_bytes(trunk),
                batch=batch,
                unit=modality,
            )
        encoded = system.bridge.encode(prepared)
        yield meter.row(
            "input projector",
            modality,
            lambda encoded=encoded: system.bridge.project(encoded),
            repeats=size.repeats,
            weights=weight_bytes(system.bridge.projectors),
        )


def prefill(system: AnyToAny, meter: Meter, size: Size) -> Iterator[Row]:
    """The language model over a prompt."""
    language = system.language
    length = min(size.prompt, language.context_length)
    embeds = torch.randn(
        1, length, language.language_dim, device=meter.device, dtype=language.dtype
    )
    yield meter.row(
        "language model",
        f"prefill of {length} tokens",
        lambda: language(embeds),
        repeats=size.repeats,
        weights=weight_bytes(language.lm),
    )


def decode(system: AnyToAny, meter: Meter, size: Size) -> Iterator[Row]:
    """Tokens through the one decode loop, prompts of a few words included."""
    for rows in size.rows:
        settings = replace(system.settings.language, rows=rows)
        own = system.settings
        system.settings = replace(own, language=settings)
        count = 0

        def run(rows: int = rows) -> None:
            nonlocal count
            prompts = ["hello"] * rows
            arguments: dict[str, Any] = {"outputs": {"text"}, "max_new_tokens": size.tokens}
            replies = list(system.generate_batch(prompts, **arguments))
            count = sum(len(reply.token_ids) for reply in replies)  # type: ignore[union-attr]

        seconds, peak = meter.time(run, size.repeats)
        system.settings = own
        passes = max(count / rows, 1)
        weights = weight_bytes(system.language.lm)
        per_token = 2 * sum(p.numel() for p in system.language.lm.parameters())
        yield Row(
            "language model",
            f"decode of {count} tokens",
            rows,
            seconds,
            peak,
            Work(per_token * count, weights * passes),
            f"{count / seconds:,.1f} tokens/s" if seconds else "",
        )


def projectors(system: AnyToAny, meter: Meter, size: Size) -> Iterator[Row]:
    """Signal states to conditions."""
    for modality, projector in system.output_projectors.items():
        length = system.language.signals.span_length(modality)  # type: ignore[arg-type]
        weight = next(projector.parameters())
        states = torch.randn(1, length, system.language.language_dim).to(weight)
        yield meter.row(
            "output projector",
            modality,
            lambda projector=projector, states=states: projector(states),
            repeats=size.repeats,
            weights=weight_bytes(projector),
        )


def decoders(system: AnyToAny, meter: Meter, size: Size) -> Iterator[Row]:
    """A guided denoising step and the way out of the latents, per micro-batch."""
    for modality, decoder in system.decoders.items():
        shape = decoder.latent_shape()
        weight = next(decoder.unet.parameters())
        for batch in MICRO_BATCHES:
            noise = torch.randn(batch, *shape).to(weight)
            steps = meter.row(
                f"{modality} decoder",
                "one guided step",
                lambda decoder=decoder, noise=noise: _loop(decoder, noise, size.loop_steps),
                repeats=max(1, size.repeats // 2),
                weights=weight_bytes(decoder.unet) * size.loop_steps,
                batch=batch,
            )
            yield _per_step(steps, size.loop_steps)
            yield meter.row(
                f"{modality} decoder",
                "VAE and vocoder" if decoder.vocoder is not None else "VAE",
                lambda decoder=decoder, noise=noise: _way_out(decoder, noise),
                repeats=max(1, size.repeats // 2),
                weights=weight_bytes(*_exits(decoder)),
                batch=batch,
            )


def replies(system: AnyToAny, meter: Meter, size: Size) -> Iterator[Row]:
    """One prompt to text and all media, with each decoder's own preset."""
    kinds: Any = {"text", *system.decoders}
    least = 16 + sum(system.language.signals.span_length(m) for m in system.decoders)
    own = system.settings
    for name, invariant in (("invariant", True), ("throughput", False)):
        system.settings = EngineSettings(batch_invariant=invariant)
        seen: list[Any] = []
        seconds, peak = meter.time(
            lambda seen=seen: seen.append(
                system.generate("hello", outputs=kinds, max_new_tokens=least, seed=1)
            ),
            1,
        )
        stages = seen[-1].timings if seen else {}
        spent = ", ".join(f"{key} {value:.2f} s" for key, value in stages.items() if key != "total")
        what = f"text and {len(kinds) - 1} media, {name}: {spent}"
        yield Row("reply", what, 1, seconds, peak, Work(0.0, 0.0))
    system.settings = own


def _per_step(row: Row, steps: int) -> Row:
    if row.seconds is None:
        return row
    work = Work(row.work.flops / steps, row.work.bytes / steps)
    return replace(row, seconds=row.seconds / steps, work=work)


def _loop(decoder: Any, noise: torch.Tensor, steps: int) -> Any:
    """Guided steps of the one loop, at the decoder's own guidance."""
    blank = decoder.unconditional().to(noise.device, noise.dtype).expand(len(noise))
    return denoise(
        decoder.unet,
        blank,
        blank,
        noise=noise,
        scheduler=build_scheduler("ddim", decoder.scheduler_config),
        num_inference_steps=steps,
        guidance_scale=decoder.run_settings({}).guidance_scale,
    )


def _way_out(decoder: Any, latents: torch.Tensor) -> Any:
    """From latents to media, as the decoders' own calls do it."""
    if decoder.modality == "video":
        latents = rearrange(latents, "b c f h w -> (b f) c h w")
    out = decoder.vae.decode(latents / decoder.vae.config.scaling_factor, return_dict=False)[0]
    if decoder.vocoder is not None:
        out = decoder.vocoder(rearrange(out, "b 1 frames bins -> b frames bins"))
    return out


def _exits(decoder: Any) -> list[torch.nn.Module]:
    own = [decoder.vae.decoder, decoder.vae.post_quant_conv]
    return own if decoder.vocoder is None else [*own, decoder.vocoder]


def _networks(system: AnyToAny) -> list[torch.nn.Module]:
    return [system.output_projectors, *system.decoders.values()]


def _media() -> dict[str, Any]:
    """A picture, a clip and a recording of noise."""
    rng = np.random.default_rng(0)
    clip = rng.integers(0, 255, (32, 96, 128, 3), dtype=np.uint8)
    sound = rng.standard_normal((1, 16_000 * 6)).astype(np.float32) / 8
    return {
        "image": ImagePart(Image.fromarray(clip[0])),
        "video": VideoPart(clip, 4.0),
        "audio": AudioPart(sound, 16_000),
    }


def _peak(arguments: argparse.Namespace, device: torch.device) -> Peak | None:
    if arguments.peak_tflops and arguments.bandwidth_gbs:
        return Peak(arguments.peak_tflops * 1e12, arguments.bandwidth_gbs * 1e9)
    return find_peak(torch.cuda.get_device_name(device)) if device.type == "cuda" else None


def _note(line: str) -> None:
    print(line, file=sys.stderr, flush=True)


def _parse(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--system", default="nextgpt-7b-v1.5", help="a name or a system's YAML")
    parser.add_argument("--device", default="cuda", help="cuda, cuda:1, cpu")
    parser.add_argument("--dtype", choices=("float32", "bfloat16", "float16"))
    parser.add_argument("--tiny", action="store_true", help="a tiny system on the CPU")
    parser.add_argument("--peak-tflops", type=float, help="of a device that ceilings.py lacks")
    parser.add_argument("--bandwidth-gbs", type=float, help="likewise, in GB/s")
    parser.add_argument("-o", "--out", type=Path, default=Path("runs/full-size"))
    parser.add_argument("--write-docs", action="store_true", help=f"into {DOCS.name}")
    return parser.parse_args(argv)


if __name__ == "__main__":
    sys.exit(main())
