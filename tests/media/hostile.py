"""The hostile corpus, generated: 300 corrupt files, 8 bombs, 12 polyglots.

    python hostile.py FOLDER            # reads all of it; prints one line of JSON

Every file comes from tiny media and a seed, so that the same corpus is made anywhere.
"""

from __future__ import annotations

import json
import os
import random
import re
import resource
import struct
import sys
import time
import zlib
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from media_makers import MAKERS, encode_sound

from anyany import media
from anyany.errors import MediaError

FORMATS: Final = (
    *("image.png", "image.jpg", "image.webp", "image.bmp", "video.gif"),
    *("video.mp4", "video.webm", "audio.wav", "audio.flac", "audio.ogg"),
)
CUTS: Final = (0.01, 0.05, 0.1, 0.2, 0.35, 0.5, 0.65, 0.8, 0.9, 0.99)
FLIPS: Final = 12
# What no message may hold: addresses, folders, objects, the words of libraries.
LEAK: Final = re.compile(
    r"0x[0-9a-f]|/|\\|<|Error|Errno|Invalid data|libav|ffmpeg|sndfile|PIL|cannot identify|broken"
)
READERS: Final[dict[str, Callable[[Path], Any]]] = {
    "image": media.read_image,
    "video": media.read_video,
    "audio": media.read_audio,
}
CANARY: Final = b"canary-51f6"


@dataclass(frozen=True)
class Case:
    """One hostile file.

    Args:
        name: of the file.
        data: its content.
        must_fail: no part of it may be taken for a medium.
    """

    name: str
    data: bytes
    must_fail: bool = True


def mutations(name: str, data: bytes) -> Iterator[Case]:
    """30 files from a whole one: cuts, flipped bits, zeroed headers, false names, lies on size."""
    stem, ending = name.split(".")
    dice = random.Random(name)
    for number, part in enumerate(CUTS):
        cut = data[: max(1, int(len(data) * part))]
        yield Case(f"{stem}-cut{number}.{ending}", cut, must_fail=True)
    for number in range(FLIPS):
        flipped = bytearray(data)
        for _ in range(1 + 3 * number):
            flipped[dice.randrange(len(data))] ^= 1 << dice.randrange(8)
        yield Case(f"{stem}-flip{number}.{ending}", bytes(flipped), must_fail=False)
    for number, size in enumerate((4, 16, 64)):
        zeroed = bytes(size) + data[size:]
        yield Case(f"{stem}-zero{number}.{ending}", zeroed)
    yield Case(f"{stem}-empty.{ending}", b"")
    yield Case(f"{stem}-text.{ending}", b"it says so on the tin, but it is not\n" * 9)
    other = ".wav" if stem == "image" else ".png"
    yield Case(f"{stem}-named{other}", data, must_fail=ending not in ("gif", "webp"))
    at = dice.randrange(4, 64)
    yield Case(f"{stem}-huge.{ending}", data[:at] + b"\xff" * 4 + data[at + 4 :], must_fail=False)
    noise = dice.randbytes(len(data) - 32)
    yield Case(f"{stem}-noise.{ending}", data[:32] + noise)


def _chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def _png(width: int, height: int) -> bytes:
    """A PNG of zeros, packed a thousandfold."""
    packer = zlib.compressobj(9)
    row = bytes(1 + 3 * width)
    packed = b"".join(packer.compress(row) for _ in range(min(height, 2_000))) + packer.flush()
    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    chunks = (_chunk(b"IHDR", header), _chunk(b"IDAT", packed), _chunk(b"IEND", b""))
    return b"\x89PNG\r\n\x1a\n" + b"".join(chunks)


def _gif(frames: int, side: int) -> bytes:
    """A GIF of one tiny block, many times, on a large canvas."""
    head = b"GIF89a" + struct.pack("<HH", side, side) + b"\x80\0\0" + bytes(6)
    block = b"\x2c" + struct.pack("<HHHH", 0, 0, 1, 1) + b"\0\x02\x02\x44\x01\0"
    return head + block * frames + b";"


def _zip(size: int) -> bytes:
    """A gzip stream that unpacks to zeros."""
    packer = zlib.compressobj(9, wbits=31)
    return packer.compress(bytes(size)) + packer.flush()


def bombs() -> Iterator[Case]:
    """8 small files that would be large in memory."""
    yield Case("image-169.png", _png(13_000, 13_000))
    yield Case("image-196.png", _png(14_000, 14_000))
    yield Case("image-3600.png", _png(60_000, 60_000))
    yield Case("video-frames.gif", _gif(10_000, 2_000))
    flac = bytearray(MAKERS["audio.flac"]())
    flac[21:26] = bytes([flac[21] & 0xF0 | 0x0F]) + b"\xff" * 4  # 2^36 - 1 samples
    yield Case("audio-day.flac", bytes(flac))
    opus = bytearray(encode_sound("ogg", "libopus"))
    last = opus.rindex(b"OggS")
    opus[last + 6 : last + 14] = struct.pack("<q", 48_000 * 86_400)  # ends after a day
    page = opus[last:]
    page[22:26] = bytes(4)
    opus[last + 22 : last + 26] = struct.pack("<I", _ogg_crc(bytes(page)))
    yield Case("audio-day.ogg", bytes(opus), must_fail=False)
    clip = bytearray(MAKERS["video.mp4"]())
    at = clip.index(b"mdhd") + 16
    clip[at : at + 4] = struct.pack(">I", 1_000_000_000)  # units a second
    yield Case("video-rate.mp4", bytes(clip))
    yield Case("image-packed.png", _zip(200 << 20))


def _ogg_crc(page: bytes) -> int:
    crc = 0
    for byte in page:
        crc ^= byte << 24
        for _ in range(8):
            crc = (crc << 1 ^ (0x04C11DB7 if crc & 0x80000000 else 0)) & 0xFFFFFFFF
    return crc


def polyglots(folder: Path) -> Iterator[Case]:
    """12 files that pose as media, or name other files; all name `canary.wav` of their folder."""
    wav, png, mp4 = (MAKERS[name]() for name in ("audio.wav", "image.png", "video.mp4"))
    url = (folder / "canary.wav").as_uri().encode()
    yield Case("audio-concat.wav", b"ffconcat version 1.0\nfile canary.wav\n")
    yield Case("video-list.mp4", b"#EXTM3U\n#EXTINF:9,\n" + url + b"\n#EXT-X-ENDLIST\n")
    yield Case("audio-sdp.ogg", b"v=0\nc=IN IP4 127.0.0.1\nm=audio 9 RTP/AVP 0\n")
    dash = b"<?xml version='1.0'?>\n<MPD><BaseURL>" + url + b"</BaseURL></MPD>"
    yield Case("video-dash.mp4", dash)
    svg = b"<svg xmlns='http://www.w3.org/2000/svg'><image href='" + url + b"'/></svg>"
    yield Case("image-svg.png", svg)
    yield Case("image-eps.png", b"%!PS-Adobe-3.0 EPSF-3.0\n(" + url + b") (r) file\nshowpage\n")
    yield Case("image-page.png", b"<html><img src='" + url + b"'></html>")
    yield Case("image-zip.png", b"PK\x03\x04" + bytes(26) + CANARY)
    yield Case("image-tail.png", png + b"PK\x03\x04" + bytes(26) + CANARY, must_fail=False)
    yield Case("audio-size.wav", wav[:4] + b"\xff" * 4 + wav[8:], must_fail=False)
    yield Case("video-dref.mp4", _elsewhere(mp4, url), must_fail=False)
    yield Case("audio-link.wav", b"")  # a link to the canary: made by `write`


def _elsewhere(clip: bytes, url: bytes) -> bytes:
    """An MP4 that says its pictures lie in another file."""
    moved = bytearray(clip)
    entry = moved.index(b"url ", moved.index(b"dref"))
    moved[entry + 4 : entry + 8] = bytes(4)  # "in this file" unset
    moved[entry + 8 : entry + 8] = url + b"\0"
    for kind in (b"url ", b"dref", b"dinf", b"minf", b"mdia", b"trak", b"moov"):
        at = moved.index(kind) - 4
        (size,) = struct.unpack(">I", moved[at : at + 4])
        moved[at : at + 4] = struct.pack(">I", size + len(url) + 1)
    if moved.index(b"moov") < moved.index(b"mdat"):
        at = moved.index(b"stco") + 8
        (number,) = struct.unpack(">I", moved[at : at + 4])
        for chunk in range(at + 4, at + 4 + 4 * number, 4):
            (offset,) = struct.unpack(">I", moved[chunk : chunk + 4])
            moved[chunk : chunk + 4] = struct.pack(">I", offset + len(url) + 1)
    return bytes(moved)


def write(folder: Path, case: Case) -> Path:
    """The case as a file."""
    path = folder / case.name
    if case.name == "audio-link.wav":
        path.symlink_to(folder / "canary.wav")
    else:
        path.write_bytes(case.data)
    return path


def examine(path: Path, case: Case) -> dict[str, Any]:
    """Read a file as its kind, as `sniff` takes it, and for its record.

    Returns:
        code: of the error, "read" if it could be read, or "crash" with what was raised.
        seconds: that it took.
    """
    began = time.perf_counter()
    code = _outcome(lambda: READERS[case.name.partition("-")[0]](path), path.name)
    for look in (media.sniff, media.read_provenance):
        found = _outcome(lambda look=look: look(path), path.name)  # type: ignore[misc]
        if found.startswith("crash"):
            code = found
    if case.must_fail and code == "read":
        code = "crash: taken for a medium"
    return {"name": case.name, "code": code, "seconds": time.perf_counter() - began}


def _outcome(look: Callable[[], Any], name: str) -> str:
    try:
        look()
    except MediaError as error:
        text = str(error)
        if not text.startswith(f"{name}: ") or "\n" in text or LEAK.search(text):
            return f"crash: message {text!r}"
        return error.code
    except BaseException as error:
        return f"crash: {type(error).__name__}: {error}"
    return "read"


def all_cases(folder: Path) -> dict[str, list[Case]]:
    """The corpus by group."""
    corrupt = [case for name in FORMATS for case in mutations(name, MAKERS[name]())]
    return {"corrupt": corrupt, "bombs": list(bombs()), "polyglots": list(polyglots(folder))}


class Watch:
    """Sees sockets, processes and reads of the canary from here on, also those of C code.

    Args:
        folder: where the canary is put.
    """

    def __init__(self, folder: Path) -> None:
        self.canary = folder / "canary.wav"
        self.canary.write_bytes(MAKERS["audio.wav"]())
        self.events: list[str] = []
        os.utime(self.canary, (0, time.time()))  # a read would bring its time of access forward
        sys.addaudithook(self._note)

    def _note(self, event: str, arguments: tuple[Any, ...]) -> None:
        if event.startswith("socket.") or event in ("subprocess.Popen", "os.system"):
            self.events.append(event)
        elif event == "open" and "canary" in str(arguments[0]):
            self.events.append(f"open {arguments[0]}")

    def seen(self) -> list[str]:
        """All that should not have happened."""
        touched = self.canary.stat().st_atime != 0
        return [*self.events, *(["the canary was read"] if touched else [])]


def main(folder: Path) -> dict[str, Any]:
    """Read the whole corpus; what became of it."""
    cases = all_cases(folder)
    watch = Watch(folder)
    report: dict[str, Any] = {}
    for group, members in cases.items():
        before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        found = [examine(write(folder, case), case) for case in members]
        after = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        report[group] = {
            "files": len(found),
            "codes": dict(Counter(one["code"] for one in found)),
            "crashes": [one for one in found if one["code"].startswith("crash")],
            "slowest": max(one["seconds"] for one in found),
            "mib": (after - before) / 1024,
        }
    return {**report, "seen": watch.seen()}


if __name__ == "__main__":
    print(json.dumps(main(Path(sys.argv[1]))))
