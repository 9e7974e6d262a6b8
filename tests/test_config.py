"""The strict loader: values in, and one line for every mistake."""

import json
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, Optional

import pytest

from anyany.config import from_dict, load_config, to_dict
from anyany.errors import ConfigError, InternalError


@dataclass(frozen=True)
class Decoder:
    steps: int = 20
    guidance: float = 7.5
    scheduler: Literal["ddim", "euler"] = "ddim"


@dataclass(frozen=True)
class Language:
    width: int
    name: str = "pocket"
    layers: tuple[int, ...] = ()
    size: tuple[int, float] = (1, 1.0)

    def __post_init__(self) -> None:
        if self.width % 2:
            raise ValueError(f"expected an even width,\n  got {self.width}")


@dataclass(frozen=True)
class System:
    language: Language
    decoders: dict[str, Decoder] = field(default_factory=dict)
    by_kind: Mapping[Literal["image", "audio"], int] = field(default_factory=dict)
    adapter: Optional[Decoder] = None  # noqa: UP045 (the older spelling is read as well)
    limit: int | float | None = None
    weights: Path = Path("weights")
    names: Sequence[str] = ("a",)
    extra: dict[str, Any] = field(default_factory=dict)
    train: bool = True


def load(tmp_path: Path, text: str, *overrides: str) -> System:
    path = tmp_path / "system.yaml"
    path.write_text(text, encoding="utf-8")
    return load_config(path, System, overrides)


def failure(tmp_path: Path, text: str, *overrides: str) -> str:
    with pytest.raises(ConfigError) as caught:
        load(tmp_path, text, *overrides)
    line = str(caught.value)
    assert "\n" not in line
    assert line.startswith(str(tmp_path / "system.yaml"))
    return line.removeprefix(str(tmp_path / "system.yaml"))


def test_every_kind_of_value_is_read(tmp_path: Path) -> None:
    config = load(
        tmp_path,
        """
        language: {width: 8, layers: [1, 2], size: [3, 4]}
        decoders: {image: {steps: 5}, audio: {scheduler: euler, guidance: 1e-3}}
        by_kind: {image: 4}
        adapter: {guidance: 2}
        limit: 0.5
        weights: some/where
        names: [x, y]
        extra: {deep: [1, {a: null}]}
        train: false
        """,
    )
    assert config == System(
        language=Language(width=8, layers=(1, 2), size=(3, 4.0)),
        decoders={"image": Decoder(steps=5), "audio": Decoder(20, 0.001, "euler")},
        by_kind={"image": 4},
        adapter=Decoder(guidance=2.0),
        limit=0.5,
        weights=Path("some/where"),
        names=["x", "y"],
        extra={"deep": [1, {"a": None}]},
        train=False,
    )
    assert type(config.decoders["image"].steps) is int
    assert type(config.language.size[1]) is float


def test_to_dict_is_json_and_comes_back(tmp_path: Path) -> None:
    config = load(tmp_path, "language: {width: 8}\nadapter: {steps: 1}\ndecoders: {image: {}}")
    plain = to_dict(config)
    assert plain["weights"] == "weights"
    assert plain["decoders"] == {"image": {"steps": 20, "guidance": 7.5, "scheduler": "ddim"}}
    again = from_dict(json.loads(json.dumps(plain)), System, source="copy")
    assert to_dict(again) == plain
    assert again.language == config.language


def test_overrides_win_in_order_and_reach_new_keys(tmp_path: Path) -> None:
    config = load(
        tmp_path,
        "language: {width: 8}",
        "language.width=10",
        "decoders.image.steps=3",
        "decoders.image.steps=4",
        "adapter.scheduler=euler",
        "names=[p, 'q=r']",
        "limit=null",
    )
    assert config.language.width == 10
    assert config.decoders["image"].steps == 4
    assert config.adapter == Decoder(scheduler="euler")
    assert config.names == ["p", "q=r"]
    assert config.limit is None


def test_an_override_can_supply_what_the_file_leaves_open(tmp_path: Path) -> None:
    assert load(tmp_path, "", "language.width=2").language.width == 2
    assert load(tmp_path, "language:\n  width: ???", "language.width=2").language.width == 2


GOOD = "language: {width: 8}\n"


@pytest.mark.parametrize(
    ("text", "line"),
    [
        (GOOD + "decoder: {}", ": unknown key 'decoder'; nearest valid key: 'decoders'"),
        (
            "language: {widht: 8}",
            ": unknown key 'language.widht'; nearest valid key: 'language.width'",
        ),
        (
            GOOD + "decoders: {image: {step: 3}}",
            ": unknown key 'decoders.image.step'; nearest valid key: 'decoders.image.steps'",
        ),
        (GOOD + "scheduler: ddim", ": unknown key 'scheduler'; nearest valid key: "),
        (GOOD + "width: 3", ": unknown key 'width'; nearest valid key: 'language.width'"),
        (GOOD + "by_kind: {imag: 3}", "unknown key 'by_kind.imag'; nearest valid key: 'by_kind.im"),
        (GOOD + "7: 3", ": unknown key '7'; nearest valid key: "),
        ("train: true", ": missing key 'language', expected a mapping with keys width, name"),
        ("language: {name: x}", ": missing key 'language.width', expected a whole number"),
        ("language:\n  width: ???", ": missing key 'language.width', expected a whole number"),
        (
            "language: {width: '8'}",
            ": key 'language.width': expected a whole number, got text ('8')",
        ),
        ("language: {width: 8.0}", "expected a whole number, got a number (8.0)"),
        ("language: {width: true}", "expected a whole number, got true or false (True)"),
        ("language: {width: null}", "expected a whole number, got null"),
        ("language: 3", ": key 'language': expected a mapping with keys width, name"),
        (GOOD + "decoders: {image: {guidance: high}}", "expected a number, got text ('high')"),
        (
            GOOD + "decoders: {image: {scheduler: eulr}}",
            ": key 'decoders.image.scheduler': expected one of 'ddim', 'euler', got text ('eulr')",
        ),
        (GOOD + "decoders: [1]", ": key 'decoders': expected a mapping to a mapping with keys"),
        (GOOD + "adapter: {steps: x}", ": key 'adapter.steps': expected a whole number, got text"),
        (GOOD + "adapter: 3", "expected a mapping with keys steps, guidance, scheduler, got"),
        (GOOD + "limit: many", "expected a whole number or a number or null, got text ('many')"),
        (GOOD + "train: 1", ": key 'train': expected true or false, got a whole number (1)"),
        (GOOD + "names: x", ": key 'names': expected a list of text, got text ('x')"),
        (GOOD + "names: [1]", ": key 'names.0': expected text, got a whole number (1)"),
        (GOOD + "weights: 3", ": key 'weights': expected a path, got a whole number (3)"),
        ("language: {width: 2, size: [1]}", "expected a list of 2 values, got a list of 1"),
        ("language: {width: 2, layers: [a]}", ": key 'language.layers.0': expected a whole"),
        ("language: {width: 3}", ": key 'language': expected an even width, got 3"),
        (GOOD + "names: ['${oc.env:HOME}']", ": key 'names.0': interpolation (${...}) is refused"),
        (GOOD + "names: ['${']", ": interpolation (${...}) is refused"),
        ("- 1", ": expected a mapping of keys to values, got a list of 1"),
        ("3", ": expected a YAML mapping"),
        ("a: [", ": not valid YAML at line 2: did not find expected node content"),
        ("a: 1\na: 2", ": not valid YAML at line 2: found duplicate key a"),
        ("a: !!python/object:os.system x", ": not valid YAML at line 1: could not determine"),
        ("a: *gone", ": not valid YAML at line 1: found undefined alias"),
    ],
)
def test_every_mistake_is_one_line(tmp_path: Path, text: str, line: str) -> None:
    assert line in failure(tmp_path, text)


@pytest.mark.parametrize(
    ("override", "line"),
    [
        ("language.widht=8", ": unknown key 'language.widht'; nearest valid key: 'language.width'"),
        ("language.width=x", ": key 'language.width': expected a whole number, got text ('x')"),
        ("language.width", ": expected an override as key=value, got 'language.width'"),
        ("=3", ": expected an override as key=value, got '=3'"),
        ("language..width=3", ": expected an override as key=value"),
        (
            "language.width.deep=3",
            " with 'language.width.deep=3': key 'language.width.deep' goes through 'width', "
            "which holds no keys",
        ),
        ("language.name=${oc.env:HOME}", ": key 'language.name': interpolation (${...}) is refus"),
        ("names=[", " with 'names=[': not valid YAML"),
    ],
)
def test_overrides_are_as_strict(tmp_path: Path, override: str, line: str) -> None:
    assert line in failure(tmp_path, GOOD, override)


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"absent\.yaml: no such configuration file"):
        load_config(tmp_path / "absent.yaml", System)
    with pytest.raises(ConfigError, match="expected a readable YAML file in UTF-8"):
        load_config(tmp_path, System)
    (tmp_path / "latin.yaml").write_bytes(b"a: \xff")
    with pytest.raises(ConfigError, match="expected a readable YAML file in UTF-8"):
        load_config(tmp_path / "latin.yaml", System)


def test_a_list_is_no_configuration() -> None:
    with pytest.raises(ConfigError, match="request: expected a mapping of keys to values, got a l"):
        from_dict([1], System, source="request")  # type: ignore[arg-type]


def test_only_dataclasses_are_schemas() -> None:
    with pytest.raises(InternalError, match="expected a dataclass as configuration schema"):
        from_dict({}, dict, source="x")
    with pytest.raises(InternalError, match="expected a dataclass instance, got dict"):
        to_dict({})


def test_a_type_that_no_file_can_hold_is_our_own_mistake() -> None:
    @dataclass
    class Odd:
        value: complex

    with pytest.raises(InternalError, match="expected a supported type for configuration 'value'"):
        from_dict({"value": 1}, Odd, source="x")


def test_importing_it_is_light() -> None:
    code = (
        "import sys, anyany.config, anyany.media, anyany.messages;"
        "print([m for m in ('torch', 'omegaconf', 'PIL', 'av', 'soundfile') if m in sys.modules])"
    )
    found = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=60
    )
    assert found.stdout.strip() == "[]"
