from __future__ import annotations

from pathlib import Path

import pytest

from evo_agd.config import dump, load
from evo_agd.config.settings import ANALYTIC, MAXIMISED
from evo_agd.errors import InputError
from tests.conftest import ROOT

SHIPPED = sorted((ROOT / "search_spaces").glob("*.yaml"))


@pytest.mark.parametrize("path", SHIPPED, ids=lambda p: p.name)
def test_shipped_spaces_load_and_survive_a_round_trip(path: Path, tmp_path: Path) -> None:
    settings = load(path)
    copy = tmp_path / "copy.yaml"
    copy.write_text(dump(settings))
    assert load(copy) == settings


def test_the_embedded_default_needs_no_file() -> None:
    assert load() == load(ROOT / "search_spaces" / "sr_x4_small.yaml")


def refused(path: Path, *assignments: str) -> str:
    with pytest.raises(InputError) as caught:
        load(path, assignments)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def edited(world: Path, tmp_path: Path, old: str, new: str) -> Path:
    text = (world / "tiny.yaml").read_text()
    assert old in text
    path = tmp_path / "edited.yaml"
    path.write_text(text.replace(old, new))
    return path


def test_an_unknown_key_names_line_and_nearest_key(world: Path, tmp_path: Path) -> None:
    line = refused(edited(world, tmp_path, "population: 6", "populaton: 6"))
    assert "edited.yaml:14" in line and "search.populaton" in line and "population?" in line


def test_an_unknown_section_key_too(world: Path, tmp_path: Path) -> None:
    line = refused(edited(world, tmp_path, "teacher:", "techer:"))
    assert "edited.yaml:11" in line and "teacher?" in line


@pytest.mark.parametrize(
    ("old", "new", "expected"),
    [
        ("population: 6", "population: 1", "greater than or equal to 2"),
        ("steps: 12", "steps: many", "integer"),
        ("[4, 8]\n  depth", "[8, 4]\n  depth", "ascending"),
        ("[1, 2]", "[2, 2]", "different"),
        ("warm_up: 3", "warm_up: 12", "below steps"),
        ("super_resolution", "style_transfer", "'super_resolution'"),
        ("[residual, ", "[residul, ", "'residual'"),
    ],
)
def test_values_out_of_range(
    world: Path, tmp_path: Path, old: str, new: str, expected: str
) -> None:
    line = refused(edited(world, tmp_path, old, new))
    assert "edited.yaml:" in line and expected in line and "found" in line


def test_a_missing_key_is_named(world: Path, tmp_path: Path) -> None:
    line = refused(edited(world, tmp_path, "steps: 12, ", ""))
    assert "supernet.steps" in line


def test_not_yaml(world: Path, tmp_path: Path) -> None:
    assert "edited.yaml:" in refused(edited(world, tmp_path, "[1, 2]", "[1, 2"))


def test_not_a_mapping(tmp_path: Path) -> None:
    (tmp_path / "list.yaml").write_text("- 1\n")
    assert "list.yaml: expected a mapping" in refused(tmp_path / "list.yaml")
    (tmp_path / "empty.yaml").write_text("")
    assert "nothing" in refused(tmp_path / "empty.yaml")


def test_missing_file(tmp_path: Path) -> None:
    assert "nowhere.yaml" in refused(tmp_path / "nowhere.yaml")


def test_set_overrides_and_is_checked(world: Path) -> None:
    path = world / "tiny.yaml"
    assert load(path, ["search.population=10"]).search.population == 10
    assert load(path, ["constraints.gmacs.max=0.5"]).constraints["gmacs"].max == 0.5
    assert "--set search.populaton=3" in refused(path, "search.populaton=3")
    assert "--set seed=-1" in refused(path, "seed=-1")
    assert "KEY=VALUE" in refused(path, "seed")
    assert "--set seed.deep=1" in refused(path, "seed=1", "seed.deep=1")


def test_extends_merges_and_refuses_a_circle(world: Path, tmp_path: Path) -> None:
    child = tmp_path / "child.yaml"
    child.write_text(f"extends: {world / 'tiny.yaml'}\nsearch: {{population: 9}}\n")
    settings = load(child)
    assert (settings.search.population, settings.search.evaluations) == (9, 24)
    child.write_text("extends: child.yaml\n")
    assert "child.yaml:1" in refused(child)


def test_paths_in_a_base_file_are_relative_to_that_file(world: Path, tmp_path: Path) -> None:
    child = tmp_path / "child.yaml"
    child.write_text(f"extends: {world / 'tiny.yaml'}\ndata: {{validation: here}}\n")
    settings = load(child)
    assert Path(settings.teacher) == (world / "teacher.safetensors").resolve()
    assert Path(settings.data.validation) == (tmp_path / "here").resolve()


def test_paths_on_the_command_line_are_the_shells(
    world: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    settings = load(world / "tiny.yaml", ["teacher=mine.pth"])
    assert Path(settings.teacher) == (tmp_path / "mine.pth").resolve()


def test_unions_and_dates_are_told_plainly(world: Path) -> None:
    line = refused(world / "tiny.yaml", "compute.workers=many")
    assert "compute.workers:" in line and "'auto'" in line and "constrained" not in line
    assert "--set seed=2024-13-45" in refused(world / "tiny.yaml", "seed=2024-13-45")


def test_paths_are_relative_to_the_file(world: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir("/")
    assert Path(load(world / "tiny.yaml").data.train) == (world / "photos").resolve()


BUDGETS = """
extends: sr_x4_small.yaml
budget: small
budgets:
  small: {supernet: {steps: 11, warm_up: 1}, data: {train: here}}
  full: {supernet: {steps: 99, warm_up: 1}, students: {count: 9}}
"""


def test_a_budget_is_taken_over_the_rest_and_set_over_both(tmp_path: Path) -> None:
    path = tmp_path / "mine.yaml"
    path.write_text(BUDGETS)
    assert load(path).supernet.steps == 11 and load(path).data.train == str(tmp_path / "here")
    full = load(path, ["students.count=3", "budget=full"])
    assert (full.supernet.steps, full.students.count, full.data.train) == (99, 3, "bundled")
    assert full.budget == "full"
    assert full.supernet.batch == load().supernet.batch
    (tmp_path / "resolved.yaml").write_text(dump(full))
    assert load(tmp_path / "resolved.yaml") == full


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ("budget=large", "small or full, found large"),
        ("budget=null", "small or full, found nothing"),
        ("budget=full", "budgets"),
    ],
)
def test_a_wrong_budget_is_told(tmp_path: Path, change: str, message: str) -> None:
    path = tmp_path / "mine.yaml"
    text = (
        BUDGETS
        if "large" in change or "null" in change
        else "extends: sr_x4_small.yaml\nbudgets: 3"
    )
    path.write_text(text)
    with pytest.raises(InputError, match=message):
        load(path, [change])


def test_errors_inside_a_budget_name_their_line(tmp_path: Path) -> None:
    path = tmp_path / "mine.yaml"
    path.write_text(BUDGETS.replace("steps: 11", "step: 11"))
    with pytest.raises(InputError, match=r"mine\.yaml:5: supernet\.step: .*did you mean steps"):
        load(path)


def test_paths_take_variables_and_functions_stay_whole(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "mine.yaml"
    path.write_text(
        "extends: sr_x4_small.yaml\nteacher: net.py:make\ndata: {train: '${SETS:-sets}/a'}\n"
    )
    monkeypatch.delenv("SETS", raising=False)
    assert load(path).teacher == f"{tmp_path / 'net.py'}:make"
    assert load(path).data.train == str(tmp_path / "sets/a")
    monkeypatch.setenv("SETS", "/elsewhere")
    assert load(path).data.train == "/elsewhere/a"
    assert load(path, ["teacher=package.module:make"]).teacher == "package.module:make"


def test_a_shipped_space_is_found_by_its_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert load(Path("horse2zebra.yaml")).task == "image_translation"
    with pytest.raises(InputError, match="nowhere"):
        load(Path("nowhere/horse2zebra.yaml"))


@pytest.mark.parametrize(
    ("name", "key"), [("latency_ms", "latency_table"), ("latency_int8_ms", "latency_int8_table")]
)
def test_latency_needs_its_table(name: str, key: str) -> None:
    objectives = f"objectives=[gmacs, {name}, psnr]"
    none = "latency_int8_table=null"
    line = f"{key}: a file or measured, since {name} is asked for"
    with pytest.raises(InputError, match=line):
        load(None, [objectives, none])
    with pytest.raises(InputError, match=line):
        load(None, ["objectives=[gmacs, psnr]", f"constraints.{name}.max=3", none])
    for value in ("measured", "bundled"):
        assert getattr(load(None, [objectives, f"{key}={value}"]), key) == value
    assert getattr(load(None, [objectives, f"{key}=t.json"]), key) == str(Path("t.json").resolve())


def test_int8_figures_are_objectives_of_cost_and_of_quality() -> None:
    settings = load(None, ["objectives=[int8_memory_mb, psnr_int8]"])
    assert set(settings.objectives) == {"int8_memory_mb", "psnr_int8"}
    assert load(None, ["constraints.psnr_int8.min=20"]).constraints["psnr_int8"].min == 20
    with pytest.raises(InputError, match="at least one of cost"):
        load(None, ["objectives=[psnr, psnr_int8]"])
    assert "psnr_int8" in MAXIMISED and not MAXIMISED & ANALYTIC
