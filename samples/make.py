"""Render the sample pictures, clips and sounds from the pocket world and write their manifest.

    python samples/make.py      # writes images, videos, audio and manifest.json in samples/

One of each a thing, from fixed seeds; every other one is of a combination that no training has
seen or heard. The manifest says what each file shows and the sha256 of its bytes.
"""

from __future__ import annotations

import argparse
import hashlib
import random
from collections.abc import Callable, Sequence
from dataclasses import asdict
from pathlib import Path

from anyany.media import write_audio, write_image, write_json, write_video
from anyany.pocket.animation import CLIP_FRAMES_PER_SECOND, ClipJitter, render_clip
from anyany.pocket.captions import canonical_caption
from anyany.pocket.clips import Clip, canonical_clip_caption, complete_clip
from anyany.pocket.render import Jitter, render_image
from anyany.pocket.sounds import Sound, canonical_sound_caption, complete_sound
from anyany.pocket.synthesis import SAMPLE_RATE, SoundJitter, render_sound
from anyany.pocket.world import THINGS, Scene, complete

Row = dict[str, object]


def main(argv: Sequence[str] | None = None) -> int:
    """Write the media and the manifest."""
    parser = argparse.ArgumentParser(description="Render the sample pictures, clips and sounds.")
    parser.add_argument("--out", type=Path, default=Path(__file__).parent, help="folder to write")
    folder = parser.parse_args(argv).out
    made: dict[str, list[Row]] = {}
    kinds: dict[str, Callable[[str, bool, random.Random, Path], Row]] = {
        "images": _image,
        "videos": _video,
        "audio": _audio,
    }
    for name, make in kinds.items():
        (folder / name).mkdir(parents=True, exist_ok=True)
        made[name] = [
            make(thing, number % 2 == 1, random.Random(f"shown {number}"), folder)
            for number, thing in enumerate(THINGS)
        ]
    write_json({"made_by": "python samples/make.py", **made}, folder / "manifest.json")
    print(f"{sum(map(len, made.values()))} files and manifest.json in {folder}")
    return 0


def _image(thing: str, held_out: bool, rng: random.Random, folder: Path) -> Row:
    scene = complete(Scene(thing=thing), rng, held_out=held_out)
    path = write_image(render_image(scene, Jitter.draw(rng)), folder / "images" / f"{thing}.png")
    return _row(path, "scene", scene, canonical_caption(scene), held_out)


def _video(thing: str, held_out: bool, rng: random.Random, folder: Path) -> Row:
    clip = complete_clip(Clip(thing=thing), rng, held_out=held_out)
    frames = render_clip(clip, ClipJitter.draw(rng))
    path = write_video(frames, CLIP_FRAMES_PER_SECOND, folder / "videos" / f"{thing}.mp4")
    return _row(path, "clip", clip, canonical_clip_caption(clip), held_out)


def _audio(thing: str, held_out: bool, rng: random.Random, folder: Path) -> Row:
    sound = complete_sound(Sound(thing=thing), rng, held_out=held_out)
    waveform = render_sound(sound, SoundJitter.draw(rng))[None]
    path = write_audio(waveform, SAMPLE_RATE, folder / "audio" / f"{thing}.wav")
    return _row(path, "sound", sound, canonical_sound_caption(sound), held_out)


def _row(path: Path, kind: str, shown: Scene | Clip | Sound, caption: str, held_out: bool) -> Row:
    """A file's row of the manifest."""
    return {
        "file": f"{path.parent.name}/{path.name}",
        kind: asdict(shown),
        "caption": caption,
        "held_out": held_out,
        "sha256": hashlib.sha256(path.read_bytes()).hexdigest(),
    }


if __name__ == "__main__":
    raise SystemExit(main())
