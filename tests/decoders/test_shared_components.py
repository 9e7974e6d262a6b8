"""A component that two decoders have in common stands once, and each copy is whole again."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from anyany.decoders.shared import RECORD, component_folder, share, unshare
from anyany.errors import CheckpointError


def decoder(folder: Path, weights: bytes) -> Path:
    (folder / "vae").mkdir(parents=True)
    (folder / "vae" / "config.json").write_text("{}")
    (folder / "vae" / "weights").write_bytes(weights)
    (folder / RECORD).write_text(json.dumps({"modality": folder.name}))
    return folder


def test_equal_components_are_kept_once_and_copies_have_their_own(tmp_path: Path) -> None:
    folders = [decoder(tmp_path / n, w) for n, w in (("a", b"1"), ("b", b"1"), ("c", b"2"))]
    share(folders)
    assert [(folder / "vae").is_dir() for folder in folders] == [True, False, True]
    assert json.loads((tmp_path / "b" / RECORD).read_text())["shared"] == {"vae": "a"}
    assert component_folder(tmp_path / "b", "vae") == tmp_path / "a" / "vae"
    assert component_folder(tmp_path / "c", "vae") == tmp_path / "c" / "vae"

    copied = tmp_path / "elsewhere" / "b"
    shutil.copytree(tmp_path / "b", copied)
    unshare(copied, tmp_path / "b")
    assert (copied / "vae" / "weights").read_bytes() == b"1"
    assert json.loads((copied / RECORD).read_text()) == {"modality": "b"}


@pytest.mark.parametrize("sibling", ["../../secret", "/etc", "..", "", 5])
def test_a_sibling_is_a_plain_name(tmp_path: Path, sibling: object) -> None:
    (tmp_path / RECORD).write_text(json.dumps({"shared": {"vae": sibling}}))
    with pytest.raises(CheckpointError, match="expected the name of a folder beside it"):
        component_folder(tmp_path, "vae")


def test_a_component_that_nobody_has_is_looked_for_inside(tmp_path: Path) -> None:
    assert component_folder(tmp_path, "vae") == tmp_path / "vae"
