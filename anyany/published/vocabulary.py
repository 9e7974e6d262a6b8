"""The pieces of a Llama tokenizer: read from either of its files, hashed, and written as ours.

`tokenizer.model` is SentencePiece's file, a protocol buffer: its pieces with their scores are read
here without that library. `tokenizer.json` is the fast tokenizers' own. Both give the same pieces,
so one hash over them says whether two tokenizers number text alike.
"""

from __future__ import annotations

import hashlib
import json
import struct
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from anyany.errors import CheckpointError
from anyany.published.tensors import read_object

# Of the 32,000 pieces of LLaMA's tokenizer, which LLaMA 1 and 2 and every Vicuna share.
LLAMA_PIECES_SHA256: Final = "07c89855ee83600407b5ba5467e56ec1ca42c8f8fca361b5827422f6602f0546"
MODEL_FILE: Final = "tokenizer.model"
FAST_FILE: Final = "tokenizer.json"
SPECIAL: Final = ("<unk>", "<s>", "</s>")  # ids 0, 1, 2 of every Llama tokenizer
BLANK: Final = "▁"
_VARINT, _FIXED64, _BYTES, _FIXED32 = 0, 1, 2, 5  # wire types of protocol buffers


@dataclass(frozen=True)
class Vocabulary:
    """Pieces by id.

    Args:
        pieces: V of them, without the tokens that were added later.
        merges: pairs of pieces, the first to be joined first.
        added: tokens above V that the files name.
    """

    pieces: tuple[str, ...]
    merges: tuple[tuple[str, str], ...]
    added: Mapping[str, int]

    @property
    def sha256(self) -> str:
        """Over the pieces in the order of their ids."""
        digest = hashlib.sha256()
        for piece in self.pieces:
            digest.update(piece.encode() + b"\0")
        return digest.hexdigest()


def read_vocabulary(folder: Path, num_pieces: int) -> Vocabulary | None:
    """Read the tokenizer of a folder.

    Args:
        folder: with tokenizer.json or tokenizer.model.
        num_pieces: V; what comes above counts as added.

    Returns:
        Its vocabulary; None if the folder has neither file.

    Raises:
        CheckpointError: the file is torn, has other than V pieces, or is no Llama tokenizer.
    """
    if (folder / FAST_FILE).is_file():
        vocabulary = _read_fast(folder / FAST_FILE, num_pieces)
    elif (folder / MODEL_FILE).is_file():
        vocabulary = _read_model(folder / MODEL_FILE, num_pieces)
    else:
        return None
    if len(vocabulary.pieces) != num_pieces or vocabulary.pieces[: len(SPECIAL)] != SPECIAL:
        raise CheckpointError(
            f"{folder}: expected a Llama tokenizer of {num_pieces} pieces that begin with "
            f"{', '.join(SPECIAL)}; got {len(vocabulary.pieces)} pieces"
        )
    extra = folder / "added_tokens.json"
    if extra.is_file():
        listed = {str(k): v for k, v in read_object(extra).items() if isinstance(v, int)}
        above = {token: number for token, number in listed.items() if number >= num_pieces}
        return Vocabulary(vocabulary.pieces, vocabulary.merges, {**vocabulary.added, **above})
    return vocabulary


def write_tokenizer(folder: Path, vocabulary: Vocabulary, added: Sequence[str]) -> None:
    """Write a fast tokenizer that numbers text as LLaMA's slow one does.

    Args:
        folder: to write to.
        vocabulary: its pieces and merges.
        added: tokens that follow the pieces, as special ones: users cannot spell them.
    """
    from tokenizers import AddedToken, Tokenizer, decoders, models, normalizers

    pieces = {piece: number for number, piece in enumerate(vocabulary.pieces)}
    model = models.BPE(
        vocab=pieces,
        merges=list(vocabulary.merges),
        unk_token=SPECIAL[0],
        fuse_unk=True,
        byte_fallback=True,
    )
    tokenizer: Any = Tokenizer(model)
    tokenizer.normalizer = normalizers.Sequence(
        [normalizers.Prepend(BLANK), normalizers.Replace(" ", BLANK)]
    )
    tokenizer.decoder = decoders.Sequence(
        [
            decoders.Replace(BLANK, " "),
            decoders.ByteFallback(),
            decoders.Fuse(),
            decoders.Strip(" ", 1, 0),
        ]
    )
    tokenizer.add_special_tokens(
        [AddedToken(token, normalized=False, special=True) for token in (*SPECIAL, *added)]
    )
    folder.mkdir(parents=True, exist_ok=True)
    tokenizer.save(str(folder / FAST_FILE))
    settings = {
        "tokenizer_class": "TokenizersBackend",
        "backend": "tokenizers",
        "unk_token": SPECIAL[0],
        "bos_token": SPECIAL[1],
        "eos_token": SPECIAL[2],
        "extra_special_tokens": list(added),
        "clean_up_tokenization_spaces": False,
        "model_max_length": 1_000_000,
    }
    (folder / "tokenizer_config.json").write_text(json.dumps(settings, indent=1) + "\n")


def _read_fast(path: Path, num_pieces: int) -> Vocabulary:
    record = read_object(path)
    model = record.get("model")
    if not isinstance(model, dict) or model.get("type") not in ("BPE", None):
        raise CheckpointError(f"{path}: expected a Llama tokenizer (BPE)")
    try:
        numbered = {number: str(piece) for piece, number in model["vocab"].items()}
        merges = [tuple(m) if isinstance(m, list) else tuple(m.split(" ")) for m in model["merges"]]
        added = {t["content"]: int(t["id"]) for t in record.get("added_tokens") or ()}  # type: ignore[attr-defined]
        for token, number in added.items():
            if number < num_pieces:
                numbered.setdefault(number, token)
        pieces = tuple(numbered[number] for number in range(min(num_pieces, len(numbered))))
    except (KeyError, TypeError, AttributeError, ValueError):
        raise CheckpointError(f"{path}: expected a tokenizer's vocabulary and merges") from None
    above = {token: number for token, number in added.items() if number >= num_pieces}
    above |= {piece: number for number, piece in numbered.items() if number >= num_pieces}
    if any(len(pair) != 2 for pair in merges):
        raise CheckpointError(f"{path}: expected merges of two pieces each")
    return Vocabulary(pieces, tuple((a, b) for a, b in merges), above)


def _read_model(path: Path, num_pieces: int) -> Vocabulary:
    try:
        scored = [_piece(bytes(body)) for field, body in _fields(path.read_bytes()) if field == 1]
    except (ValueError, IndexError, struct.error, OSError):
        raise CheckpointError(f"{path}: expected a SentencePiece model; it is torn") from None
    pieces = tuple(piece for piece, _ in scored[:num_pieces])
    above = {piece: n for n, (piece, _) in enumerate(scored) if n >= num_pieces}
    return Vocabulary(pieces, tuple(_merges(scored[:num_pieces])), above)


def _merges(scored: Sequence[tuple[str, float]]) -> list[tuple[str, str]]:
    """Every way to join two pieces into a third; the best-scored third first.

    SentencePiece joins the pair whose result scores highest; ties go to the lower ids.
    """
    ids = {piece: number for number, (piece, _) in enumerate(scored)}
    ranked: list[tuple[float, int, int, str, str]] = []
    for piece, score in scored:
        for cut in range(1, len(piece)):
            left, right = piece[:cut], piece[cut:]
            if left in ids and right in ids:
                ranked.append((-score, ids[left], ids[right], left, right))
    return [(left, right) for *_, left, right in sorted(ranked)]


def _piece(message: bytes) -> tuple[str, float]:
    """Text and score of one `SentencePiece` message."""
    text, score = "", 0.0
    for field, body in _fields(message):
        if field == 1:
            text = bytes(body).decode()
        elif field == 2:
            (score,) = struct.unpack("<f", body)
    return text, score


def _fields(message: bytes) -> Iterator[tuple[int, bytes]]:
    """Field numbers and raw bodies of a protocol buffer's message; numbers' bodies are empty."""
    at = 0
    while at < len(message):
        key, at = _varint(message, at)
        field, wire = key >> 3, key & 7
        if wire == _VARINT:
            _, at = _varint(message, at)
            yield field, b""
            continue
        if wire == _BYTES:
            length, at = _varint(message, at)
        elif wire in (_FIXED64, _FIXED32):
            length = 8 if wire == _FIXED64 else 4
        else:
            raise ValueError(f"unknown wire type {wire}")
        if at + length > len(message):
            raise ValueError("cut off")
        yield field, message[at : at + length]
        at += length


def _varint(message: bytes, at: int) -> tuple[int, int]:
    value = shift = 0
    while True:
        byte = message[at]
        value |= (byte & 0x7F) << shift
        at, shift = at + 1, shift + 7
        if byte < 0x80:
            return value, at
        if shift > 63:
            raise ValueError("a number of more than 64 bits")
