"""The hostile corpus of hostile.py: no crash, no hang, no foreign byte; every file a typed error.

A share of it in every run; with `-m slow` all of it in a fresh process, its memory measured.
"""

import json
import os
import subprocess
import sys
from pathlib import Path

import hostile
import pytest
from hostile import FORMATS, Watch, bombs, examine, mutations, polyglots, write
from media_makers import MAKERS

from anyany import media
from anyany.errors import MEDIA_CODES

HERE = Path(__file__).parent
HANG = 30.0  # seconds


@pytest.mark.parametrize("name", FORMATS)
def test_corrupt_files_end_in_a_typed_error_or_are_read(name: str, tmp_path: Path) -> None:
    cases = list(mutations(name, MAKERS[name]()))
    assert len({case.name for case in cases}) == 30
    found = [examine(write(tmp_path, case), case) for case in cases[:: 1 + len(FORMATS) // 3]]
    assert {one["code"] for one in found} <= {*MEDIA_CODES, "read"}, found
    assert max(one["seconds"] for one in found) < HANG


def test_bombs_are_refused(tmp_path: Path) -> None:
    found = [examine(write(tmp_path, case), case) for case in bombs()]
    assert len(found) == 8
    codes = {str(one["name"]): one["code"] for one in found}
    assert set(codes.values()) <= {"too_large", "unsupported", "corrupt"}, codes
    assert list(codes.values()).count("too_large") >= 6
    assert max(one["seconds"] for one in found) < HANG


def test_polyglots_read_nothing_else(tmp_path: Path) -> None:
    cases = list(polyglots(tmp_path))
    assert len(cases) == 12
    watch = Watch(tmp_path)
    found = {case.name: examine(write(tmp_path, case), case)["code"] for case in cases}
    assert watch.seen() == []
    assert set(found.values()) <= {*MEDIA_CODES, "read"}, found
    own = [case for case in cases if found[case.name] == "read"]
    assert {case.name for case in own} <= {"image-tail.png", "audio-size.wav", "video-dref.mp4"}
    for case in own:  # what is read is what the file itself holds
        whole = {"image": "image.png", "audio": "audio.wav", "video": "video.mp4"}
        kind = case.name.partition("-")[0]
        assert _content(kind, case.data) == _content(kind, MAKERS[whole[kind]]())


def _content(kind: str, data: bytes) -> bytes:
    if kind == "image":
        return media.read_image(data).tobytes()
    if kind == "video":
        return media.read_video(data).frames.tobytes()
    return media.read_audio(data).waveform.tobytes()


def test_the_watch_sees(tmp_path: Path) -> None:
    watch = Watch(tmp_path)
    assert watch.seen() == []
    (tmp_path / "canary.wav").read_bytes()
    assert any(event.startswith("open ") for event in watch.seen())


def test_what_is_read_whole_is_told_from_a_false_medium(tmp_path: Path) -> None:
    whole = hostile.Case("image-whole.png", MAKERS["image.png"]())
    assert examine(write(tmp_path, whole), whole)["code"] == "crash: taken for a medium"


@pytest.mark.slow
def test_the_whole_corpus(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, HERE / "hostile.py", tmp_path],
        env={**os.environ, "PYTHONPATH": str(HERE.parents[1]), "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        timeout=500,
    )
    assert done.returncode == 0, done.stderr[-2000:]
    report = json.loads(done.stdout)
    assert report.pop("seen") == []
    assert {group: found["files"] for group, found in report.items()} == {
        "corrupt": 300,
        "bombs": 8,
        "polyglots": 12,
    }
    for found in report.values():
        assert found["crashes"] == []
        assert set(found["codes"]) <= {*MEDIA_CODES, "read"}
        assert found["slowest"] < HANG
    assert report["bombs"]["mib"] < 300
