from __future__ import annotations

import json
import re
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest
from compared import made_up

from anyany.bridges.recipe import BridgeRecipe, load_recipe, recipe_names
from anyany.cli import main
from anyany.cli.compare import read_recipes
from anyany.errors import Cancelled, ConfigError, RefusedError, UsageError
from anyany.pocket import compare as comparison
from anyany.pocket.bridge_run import RunResult, at_second
from anyany.pocket.compare import CompareConfig, compare, file_data
from anyany.pocket.compare_report import MARKS, compare_html, compare_markdown, write_docs


class Runs:
    """Stands for the trainings: notes which were asked for, and can refuse or be stopped."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.done: list[tuple[str, int]] = []
        self.refused: set[str] = set()
        self.stop_at: tuple[str, int] | None = None
        monkeypatch.setattr(comparison._Bench, "run", self.run)

    def run(self, recipe: BridgeRecipe, seed: int) -> RunResult:
        if recipe.name in self.refused:
            raise ConfigError("bridge: this does not go with that: <take> the other")
        if (recipe.name, seed) == self.stop_at:
            raise Cancelled("stopped by SIGINT")
        self.done.append((recipe.name, seed))
        return made_up(recipe.name, seed)


@pytest.fixture
def runs(monkeypatch: pytest.MonkeyPatch) -> Runs:
    return Runs(monkeypatch)


def two() -> list[BridgeRecipe]:
    return [load_recipe("llava"), load_recipe("blip2")]


def test_a_stopped_comparison_goes_on(runs: Runs, tmp_path: Path) -> None:
    config = CompareConfig(seeds=2, steps=20)
    runs.stop_at = ("blip2", 1)
    with pytest.raises(Cancelled):
        compare(two(), config, tmp_path)
    assert runs.done == [("llava", 0), ("llava", 1), ("blip2", 0)]
    runs.stop_at, runs.done = None, []
    results = compare(two(), config, tmp_path)
    assert runs.done == [("blip2", 1)]
    assert results["bridges"]["llava"]["figures"]["loss"] == pytest.approx(
        {"mean": 0.55, "spread": 0.1 / 2**0.5}
    )
    assert json.loads((tmp_path / "results.json").read_text()) == json.loads(json.dumps(results))


def test_more_seeds_and_bridges_are_taken_in(runs: Runs, tmp_path: Path) -> None:
    compare(two()[:1], CompareConfig(seeds=1, steps=20), tmp_path)
    runs.done = []
    compare(two(), CompareConfig(seeds=2, steps=20), tmp_path)
    assert runs.done == [("llava", 1), ("blip2", 0), ("blip2", 1)]


def test_a_torn_run_is_made_again(runs: Runs, tmp_path: Path) -> None:
    compare(two()[:1], CompareConfig(seeds=1, steps=20), tmp_path)
    (tmp_path / "runs" / "llava-0.json").write_text('{"key": "')
    runs.done = []
    compare(two()[:1], CompareConfig(seeds=1, steps=20), tmp_path)
    assert runs.done == [("llava", 0)]


def test_changed_settings_are_refused_or_made_again(runs: Runs, tmp_path: Path) -> None:
    compare(two(), CompareConfig(seeds=1, steps=20), tmp_path)
    runs.done = []
    with pytest.raises(RefusedError, match="run of llava, seed 0, of another recipe"):
        compare(two(), CompareConfig(seeds=1, steps=30), tmp_path)
    assert runs.done == []
    compare(two(), CompareConfig(seeds=1, steps=30), tmp_path, force=True)
    assert runs.done == [("llava", 0), ("blip2", 0)]


def test_a_bridge_that_does_not_fit_is_left_out(
    runs: Runs, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    runs.refused = {"blip2"}
    code = main(["compare", "--bridges", "llava,blip2", "--seeds", "1", "-o", str(tmp_path)])
    shown = capsys.readouterr()
    assert code == 3
    assert "error: left out blip2: bridge: this does not go with that" in shown.err
    assert "| llava |" in shown.out
    assert "Left out: blip2" in shown.out
    assert "&lt;take&gt;" in (tmp_path / "compare.html").read_text()


@pytest.mark.parametrize(
    ("arguments", "line"),
    [
        (["--bridges", "lava"], "expected a bridge among blip2, cogvlm"),
        (["--bridges", ","], "--bridges: expected all, or a list of names"),
        (["--bridges", "llava,llava"], "expected each bridge once; got llava again"),
        (["--data", "no.jsonl"], "--data: expected pocket or a file of conversations"),
        (["--task", "colours"], "expected a task among captions"),
        (["--device", "gpu"], "--device: expected cpu or cuda; got 'gpu'"),
    ],
)
def test_wrong_arguments_are_one_line(
    arguments: list[str], line: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["compare", *arguments, "-o", str(tmp_path)]) == 2
    (shown,) = capsys.readouterr().err.splitlines()
    assert line in shown
    assert not list(tmp_path.iterdir())


def test_help_has_examples(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["compare", "--help"]) == 0
    assert "anyany compare --bridges all --data pocket --seeds 3" in capsys.readouterr().out


def test_all_are_the_shipped_ones() -> None:
    assert [recipe.name for recipe in read_recipes("all")] == recipe_names()
    assert len(recipe_names()) == 17


def test_json_is_the_answer(runs: Runs, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = str(tmp_path)
    assert main(["compare", "--bridges", "llava", "--seeds", "1", "-o", folder, "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["bridges"]["llava"]["title"] == "LLaVA"


def results_of(runs: Runs, folder: Path, **changes: Any) -> dict[str, Any]:
    return compare(two(), CompareConfig(**{"seeds": 2, "steps": 20, **changes}), folder)


def test_table(runs: Runs, tmp_path: Path) -> None:
    table = compare_markdown(results_of(runs, tmp_path)).splitlines()
    head = [cell.strip() for cell in table[0].strip("|").split("|")]
    row = [cell.strip() for cell in table[2].strip("|").split("|")]
    found = dict(zip(head, row, strict=True))
    assert found["bridge"] == "llava"
    assert found["loss"] == "0.550 ± 0.071"
    assert found["words right %"] == "90.0"
    assert found["MB"] == "12.3"
    assert "at equal seconds" not in found  # none was asked for
    assert "2 seeds (mean ± standard deviation), 20 steps of 32" in table[-1]
    assert "Best possible loss without the medium 1.230" in table[-1]


def test_tasks_of_their_own_show_each_floor(runs: Runs, tmp_path: Path) -> None:
    recipes = [load_recipe("llava"), load_recipe("instructblip")]
    results = compare(recipes, CompareConfig(seeds=1, steps=20, task="own"), tmp_path)
    first, second = compare_markdown(results).splitlines()[2:4]
    assert first.startswith("| llava | 1.230 |")
    assert second.startswith("| instructblip | 1.054 |")


class Page(HTMLParser):
    """Which elements there are, and what they load."""

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []
        self.seen: list[str] = []
        self.loads: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.seen.append(tag)
        if tag not in ("meta",):
            self.open.append(tag)
        self.loads += [name for name, _ in attrs if name in ("src", "href", "onclick", "onload")]

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.seen.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag


def test_page_is_whole_and_offline(runs: Runs, tmp_path: Path) -> None:
    text = compare_html(results_of(runs, tmp_path))
    page = Page()
    page.feed(text)
    assert page.open == []
    assert page.loads == []
    assert "script" not in page.seen
    assert "http" not in re.sub(r"http-equiv", "", text)
    assert page.seen.count("svg") == 4  # two bridges, by steps and by seconds
    assert text.count('class="own"') == 4
    assert text.count('class="other"') == 4
    numbers = re.findall(r'points="([^"]+)"', text)
    for pair in " ".join(numbers).split():
        x, y = map(float, pair.split(","))
        assert 0 <= x <= 300
        assert 0 <= y <= 170


def test_docs_take_the_table_between_their_marks(runs: Runs, tmp_path: Path) -> None:
    results = results_of(runs, tmp_path)
    page = tmp_path / "page.md"
    name = next(iter(results["bridges"]))
    rows = f"*Measured*, {name}: old.\n*Measured*, another: not yet.\n"
    page.write_text(f"before\n{MARKS[0]}\nold\n{MARKS[1]}\n{rows}after\n")
    write_docs(results, page)
    text = page.read_text()
    assert text.startswith(f"before\n{MARKS[0]}\n| bridge |")
    assert f"\n{MARKS[1]}\n*Measured*, {name}: loss " in text
    assert text.endswith("*Measured*, another: not yet.\nafter\n")
    assert "old" not in text
    write_docs(results, page)
    assert page.read_text() == text
    with pytest.raises(UsageError, match="expected a text file none"):
        write_docs(results, tmp_path / "none.md")


def test_curves_are_read_between_their_points() -> None:
    curve = ((10, 1.0, 2.0), (20, 3.0, 1.0))
    assert at_second(curve, 2.0) == pytest.approx(1.5)
    assert at_second(curve, 0.5) == 2.0
    assert at_second(curve, 9.0) == 1.0


def test_results_survive_a_file() -> None:
    result = made_up("llava", 1, at_seconds=0.25)
    assert RunResult.from_dict(json.loads(json.dumps(result.to_dict()))) == result


def test_a_file_of_ones_own_is_split(tmp_path: Path) -> None:
    rows = [
        {
            "messages": [
                {"role": "user", "content": [{"type": "image", "path": "a.png"}]},
                {"role": "assistant", "content": f"answer {number}"},
            ]
        }
        for number in range(25)
    ]
    text = {"messages": [{"role": "user", "content": "x"}, {"role": "assistant", "content": "y"}]}
    (tmp_path / "a.png").write_bytes(b"")
    path = tmp_path / "own.jsonl"
    path.write_text("\n".join(json.dumps(row) for row in [text, *rows]))
    data = file_data(CompareConfig(data=str(path)))
    held = [sample.messages[1].text for sample in data.fresh.samples]
    assert held == ["answer 9", "answer 19"]
    assert data.train.num_samples == 23
    assert data.modalities == ("image",)
    path.write_text(json.dumps(text))
    with pytest.raises(UsageError, match="answers in words about media; got 0"):
        file_data(CompareConfig(data=str(path)))
