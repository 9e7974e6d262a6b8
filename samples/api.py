"""The Python API: ask for a picture in words, ask about a picture file, go on in a conversation.

    python samples/api.py --out out

Pictures are saved with the record of how they were made; what the model says is printed.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

from anyany import AnyToAny, Message, TextPart

IMAGES = Path(__file__).parent / "images"


def main(argv: Sequence[str] | None = None) -> int:
    """Run the three requests and save what comes."""
    parser = argparse.ArgumentParser(description="Three requests through the Python API.")
    parser.add_argument("--out", type=Path, default=Path("out"), help="folder for the pictures")
    parser.add_argument("--steps", type=int, help="denoising steps; the decoder's own if left out")
    arguments = parser.parse_args(argv)
    decoding = {} if arguments.steps is None else {"num_inference_steps": arguments.steps}

    model = AnyToAny.from_pretrained("pocket")

    # Words in, words and a picture out. The seed decides every byte.
    request = "draw a small red bell on the left"
    drawn = model.generate(request, outputs={"text", "image"}, seed=7, **decoding)
    print(f"{request!r} -> {drawn.text!r} and {drawn.save(arguments.out / 'drawn')[0]}")

    # A picture in, words out. A Path is a media file, a str is always text.
    question = "what is this?"
    answer = model.generate([question, IMAGES / "bell.png"], outputs={"text"})
    print(f"{question!r} about bell.png -> {answer.text!r}")

    # A conversation: the reply goes back in as a turn of its own.
    turns = [
        Message("user", (TextPart(request),)),
        drawn.message(),
        Message("user", (TextPart("now make it blue"),)),
    ]
    changed = model.generate(turns, outputs={"image"}, seed=7, **decoding)
    print(f"'now make it blue' -> {changed.save(arguments.out / 'changed')[0]}")
    print("seconds: " + ", ".join(f"{k} {v:.2f}" for k, v in drawn.timings.items()))
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
