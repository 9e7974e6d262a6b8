"""`anyany pocket gallery`: what the system makes of held-out prompts, as a few compact sheets.

The prompts of a modality are the first of a list that follows from a seed alone; none is picked by
hand, and the checker's word stands beside each, right or wrong.
"""

from __future__ import annotations

import io
import os
import random
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, cast

from anyany.errors import UsageError
from anyany.media import write_bytes
from anyany.pocket.evaluate_cases import noise_seed
from anyany.pocket.evaluate_kinds import KINDS, Kind
from anyany.pocket.evaluate_runner import first_medium
from anyany.pocket.figures import replace_between
from anyany.pocket.stills import still

if TYPE_CHECKING:
    from PIL import Image

    from anyany.messages import Reply
    from anyany.system import AnyToAny

BEGIN: Final = "<!-- gallery:begin -->"
END: Final = "<!-- gallery:end -->"
NUM_PROMPTS: Final = 12  # of each modality
MAX_BYTES: Final = {"image": 30_000, "video": 80_000, "audio": 30_000}  # of a sheet
_NAMES: Final = {"image": "pictures", "video": "clips", "audio": "sounds"}
_COLUMNS: Final = {"image": 6, "video": 1, "audio": 3}
_GAP: Final = 4  # pixels between media
_COLORS: Final = (256, 128, 64)  # of a sheet, most first; with fewer, rare colors would be lost


@dataclass(frozen=True, eq=False)
class Exhibit:
    """One medium of the gallery.

    Args:
        prompt: what was asked.
        medium: what was made.
        right: whether the checker found everything that counts.
    """

    prompt: str
    medium: Any
    right: bool


@dataclass(frozen=True, eq=False)
class Sheet:
    """The media of one modality on one picture.

    Args:
        modality: theirs.
        path: of the PNG file.
        exhibits: in order of rows, then of columns.
    """

    modality: str
    path: Path
    exhibits: tuple[Exhibit, ...]


def make_gallery(
    model: AnyToAny, folder: Path, *, seed: int = 0, number: int = NUM_PROMPTS
) -> list[Sheet]:
    """Make the media of the first held-out prompts and write a sheet for each modality.

    Args:
        model: a pocket system; it lacks the sheets of modalities that it does not make.
        folder: where the sheets go.
        seed: of the list of prompts and of the media.
        number: of prompts for each modality.

    Raises:
        UsageError: the system makes no media, or of other sizes than the world's.
    """
    kinds = [kind for name, kind in KINDS.items() if name in model.decoders]
    if not kinds:
        raise UsageError(f"expected a system that makes media; {model.config.name} makes none")
    for kind in kinds:
        made = kind.made_size(model.decoders[kind.modality])
        if made != kind.size:
            raise UsageError(f"expected a system that makes {kind.size}; it makes {made}")
    folder.mkdir(parents=True, exist_ok=True)
    return [_sheet(model, kind, folder, seed, number) for kind in kinds]


def gallery_prompts(kind: Kind, seed: int, number: int) -> list[tuple[Any, str]]:
    """The first held-out subjects of a seeded list, and a request for each.

    The list holds every held-out subject once, in canonical words, in an order of chance; where it
    is shorter than asked (there are eight such sounds), they come again in other words.
    """
    rng = random.Random(f"gallery:{kind.modality}:{seed}")
    subjects = list(kind.subjects(held_out=True))
    rng.shuffle(subjects)
    prompts = []
    for index in range(number):
        subject = subjects[index % len(subjects)]
        said = kind.canonical(subject) if index < len(subjects) else kind.caption(subject, rng)
        prompts.append((subject, kind.request.format(said)))
    return prompts


def gallery_markdown(sheets: Sequence[Sheet], *, beside: Path, seed: int = 0) -> str:
    """The sheets and their captions as a page shows them.

    Args:
        sheets: as made.
        beside: folder of the page: links are relative to it.
        seed: of the list.
    """
    lines = [
        f"The first {len(sheets[0].exhibits)} held-out prompts of a list seeded with {seed}, none "
        "picked by hand, answered by the whole system with its shipped presets; ✓ or ✗ is the "
        "checker's word. Written by `anyany pocket gallery --update-readme`.",
    ]
    for sheet in sheets:
        name = _NAMES[sheet.modality]
        link = Path(os.path.relpath(sheet.path, beside)).as_posix()
        lines += ["", f"![{name}]({link})", ""]
        lines += [
            f"{number}. {exhibit.prompt} {'✓' if exhibit.right else '✗'}"
            for number, exhibit in enumerate(sheet.exhibits, start=1)
        ]
    return "\n".join(lines)


def update_page(path: Path, sheets: Sequence[Sheet], *, seed: int = 0) -> Path:
    """Put the gallery between the markers of a page.

    Raises:
        UsageError: no such file, or not one pair of markers in it.
    """
    text = gallery_markdown(sheets, beside=path.parent, seed=seed)
    return replace_between(path, text, begin=BEGIN, end=END)


def _sheet(model: AnyToAny, kind: Kind, folder: Path, seed: int, number: int) -> Sheet:
    asked = gallery_prompts(kind, seed, number)
    requests = [
        {"prompt": prompt, "seed": noise_seed(seed, index)}
        for index, (_, prompt) in enumerate(asked)
    ]
    replies = cast("list[Reply]", list(model.generate_batch(requests, outputs={kind.modality})))
    media = [first_medium(kind, reply) for reply in replies]
    path = folder / f"{_NAMES[kind.modality]}.png"
    arranged = _arrange([still(one) for one in media], _COLUMNS[kind.modality])
    write_bytes(compact_png(arranged, MAX_BYTES[kind.modality]), path)
    exhibits = tuple(
        Exhibit(prompt, medium, _right(kind, subject, medium))
        for (subject, prompt), medium in zip(asked, media, strict=True)
    )
    return Sheet(kind.modality, path, exhibits)


def _right(kind: Kind, subject: Any, medium: Any) -> bool:
    seen = kind.check(medium)
    return all(getattr(seen, n) == getattr(subject, n) for n in kind.drawn_attributes())


def _arrange(pictures: Sequence[Image.Image], columns: int) -> Image.Image:
    """Pictures of one size in rows, with gaps."""
    from PIL import Image

    width, height = pictures[0].size
    rows = -(-len(pictures) // columns)
    size = (columns * (width + _GAP) - _GAP, rows * (height + _GAP) - _GAP)
    sheet = Image.new("RGB", size, "white")
    for number, picture in enumerate(pictures):
        row, column = divmod(number, columns)
        sheet.paste(picture, (column * (width + _GAP), row * (height + _GAP)))
    return sheet


def compact_png(picture: Image.Image, limit: int) -> bytes:
    """A PNG of as many colors as fit into a number of bytes, at half the size if none do.

    An octree chooses the colors: cuts at medians would spend all on backgrounds.
    """
    from PIL import Image

    content = b""
    half = picture.resize((picture.width // 2, picture.height // 2), Image.Resampling.BOX)
    for scaled in (picture, half):
        for colors in _COLORS:
            buffer = io.BytesIO()
            reduced = scaled.quantize(colors, Image.Quantize.FASTOCTREE, dither=Image.Dither.NONE)
            reduced.save(buffer, "PNG", optimize=True)
            content = buffer.getvalue()
            if len(content) <= limit:
                return content
    return content
