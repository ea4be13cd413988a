from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from PIL import Image
from rich.console import Console

from evo_agd.benchmark import main
from evo_agd.benchmarks.contenders import NEAR, Wanted, named, nearest, told_apart
from evo_agd.benchmarks.retraining import retraining
from evo_agd.config import load
from evo_agd.config.load import shipped
from evo_agd.errors import InputError
from evo_agd.files import write_json, write_text
from evo_agd.nets.build import space_of, supernet_of
from evo_agd.nets.students import write_weights
from evo_agd.run.directory import RunDirectory, start
from evo_agd.run.pipeline import Pipeline, resolved
from evo_agd.train.retraining import Member
from tests.conftest import photograph

OWN = ("f8-r3x8-m3x4-t6", "f4-i3x4-s")
CELLS = """
genes: {body: cells, features: 8, cells: 1, layers: 2, operators: [conv1x1, conv3x3],
        widths: [4, 8]}
task: super_resolution
supernet: {steps: 2, warm_up: 1}
students: {steps: 2}
"""


@pytest.fixture(scope="module")
def place(world: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The tiny world with a second space beside it, and a test set."""
    folder = tmp_path_factory.mktemp("effort")
    shutil.copytree(world, folder, dirs_exist_ok=True)
    (folder / "cells.yaml").write_text(CELLS)
    (folder / "unseen").mkdir()
    Image.fromarray(photograph(52, 65, 7)).save(folder / "unseen/0.png")
    return folder


def arguments(place: Path, to: str) -> list[str]:
    members = [("cells.yaml", "c8-c4.c8"), ("tiny.yaml", OWN[0])]
    named = [word for space, name in members for word in ("--member", str(place / space), name)]
    like = ["--like", str(place / "tiny.yaml"), "--steps", "4", "--rates", "0.001", "0.004"]
    return ["effort", *named, *like, "--data", str(place / "unseen"), "--to", str(place / to)]


def rows_of(place: Path, *words: str) -> list[dict[str, Any]]:
    assert main([*words, "--json", str(place / "rows.json")]) == 0
    rows: list[dict[str, Any]] = json.loads((place / "rows.json").read_text())
    return rows


def without_seconds(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    return [{k: v for k, v in row.items() if k != "seconds"} for row in rows]


def test_networks_of_two_spaces_are_trained_alike_and_only_once(
    place: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    command = arguments(place, "first")
    bicubic, *rows = once = rows_of(place, *command)
    assert bicubic["id"] == "bicubic" and bicubic["gmacs"] is None
    assert [row["id"] for row in rows] == ["c8-c4.c8", OWN[0]]  # by cost, the dearest first
    assert [row["space"] for row in rows] == ["cells", "tiny"]
    for row in rows:
        assert row["times_cheaper"] == rows[0]["gmacs"] / row["gmacs"] >= 1
        assert row["gflops_as_papers"] > row["gmacs"]
        # Too short to have a best one known before, but the best it is.
        assert row["learning_rate"] == float(max(row["psnr_by_rate"], key=row["psnr_by_rate"].get))
        assert row["steps"] == 4 and row["batch"] == 2 and row["seconds"] > 0
        assert 0 < row["psnr"]["unseen"] == row["psnr_seeds"]["unseen"][0] < 100
    assert "validation dB after 1 steps" in capsys.readouterr().out
    kept = {p: p.stat().st_mtime_ns for p in (place / "first").glob("steps*/*/student.safe*")}
    assert len(kept) == 2 * 2 + 2
    # Of the one training that is lost the same comes out again; the others are not repeated.
    lost, before = (found := next(iter(kept))), found.read_bytes()
    shutil.rmtree(lost.parent)
    assert without_seconds(rows_of(place, *command)) == without_seconds(once)
    assert lost.read_bytes() == before and kept.pop(lost)
    assert {p: p.stat().st_mtime_ns for p in kept} == kept


def test_what_cannot_be_compared_is_refused(
    place: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    def line(*words: str) -> str:
        assert main(list(words)) == 2
        return capsys.readouterr().err

    command = arguments(place, "none")
    unknown = line(*command, "--member", str(place / "tiny.yaml"), "f5-s")
    assert "--member: expected an id of a member of" in unknown and "f5-s" in unknown
    assert "two networks" in line(*command[:4], *command[7:])
    assert "scale 2" in line(*command, "--set", "scale=2", "--set", "teacher=bundled")
    assert not (place / "none").exists()
    (place / "none").mkdir()
    write_text(place / "none" / "notes.txt", "mine")
    assert "new or empty" in line(*command)


def test_members_at_agds_published_cost() -> None:
    wanted = Wanted(shipped("agd_esrgan_x4.yaml"), 110.6, 1.8, 3)
    found = nearest(wanted, 0)
    assert all(wanted.distance(one.cost) <= NEAR for one in found)
    # The published 110.9 has the biases and LeakyReLUs of the tail in it.
    assert all(one.as_papers == pytest.approx(110.9, abs=0.1) for one in found)
    letters = [{part[0] for part in one.id.replace(".", "-").split("-")[1:]} for one in found]
    assert letters == [set("pcri"), {"c"}, {"i"}]


def test_members_at_a_cost_are_drawn_from_the_seed(place: Path) -> None:
    dearest = named(place / "cells.yaml", "c8-c8.c8").cost
    wanted = Wanted(place / "cells.yaml", dearest.gmacs, dearest.memory_mb, 1)
    assert nearest(wanted, 3) == nearest(wanted, 3)
    with pytest.raises(InputError, match="at most 1, all that were found within 2 %"):
        nearest(replace(wanted, count=2), 0)


def test_a_network_counts_once_whatever_space_it_is_from() -> None:
    name = "f48-r3x16-r3x16-r3x16-r3x16-s"
    one = named(shipped("esrgan_x4.yaml"), name)
    assert told_apart([one, one]) == [one]


def test_a_rate_changes_neither_first_weights_nor_crops() -> None:
    plain = Member("f4-i3x4-s", named(shipped("sr_x4_small.yaml"), "f24-i3x8-r1x8-s").architecture)
    fast = Member(plain.id, plain.architecture, 1, 0.01)
    assert plain.label == plain.origin == "f4-i3x4-s"
    assert (fast.origin, fast.label) == ("f4-i3x4-s+seed1", "f4-i3x4-s+seed1+rate0.01")


@pytest.fixture(scope="module")
def searched(place: Path) -> RunDirectory:
    """A run with a supernet and a front, as a search would leave them."""
    settings = resolved(load(place / "tiny.yaml"))
    run = start(place / "run", settings, Pipeline(settings, Console(quiet=True)).inputs.digest)
    write_weights(run.supernet, supernet_of(settings))
    space = space_of(settings)
    genomes = sorted(map(space.genome_of, OWN), key=lambda g: space.cost(g).gmacs)
    front = [
        {"id": space.id_of(g), "genome": list(g), "gmacs": space.cost(g).gmacs, "psnr": 20.0 + i}
        for i, g in enumerate(genomes)
    ]
    write_json(run.front, front)
    return run


def test_inherited_against_from_scratch(place: Path, searched: RunDirectory) -> None:
    command = ["retraining", str(searched.path), "--members", "2", "--steps", "1"]
    command += ["--data", str(place / "unseen")]
    *members, summary = once = rows_of(place, *command)
    for row in members:
        assert set(row["psnr"]) == {"validation", "unseen"}
        for pictures, by_start in row["psnr"].items():
            (inherited,), (scratch,) = by_start["inherited"], by_start["scratch"]
            assert inherited != scratch
            assert row["difference"][pictures] == pytest.approx(inherited - scratch)
    each = [row["difference"]["unseen"] for row in members]
    assert summary["mean_difference"]["unseen"] == pytest.approx(sum(each) / 2)
    kept = {p: p.stat().st_mtime_ns for p in searched.path.glob("inheriting/*/*/*/student.safe*")}
    assert len(kept) == 2 * 2
    assert rows_of(place, *command) == once
    assert {p: p.stat().st_mtime_ns for p in kept} == kept


def test_without_a_front_there_is_nothing_to_retrain(searched: RunDirectory) -> None:
    searched.front.rename(searched.path / "other.json")
    with pytest.raises(InputError, match="search is done"):
        retraining(
            searched, Console(quiet=True), members=1, steps=[1], batch=None, seeds=1, tests=[]
        )
