"""The doors as a user meets them: whole runs in processes of their own, killed and resumed."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from evo_agd import benchmark, pareto, search
from evo_agd.config import load
from evo_agd.deploy.latency_table import every_layer, layer_key, read_table
from evo_agd.nets.build import space_of
from evo_agd.run.directory import RunDirectory

STAGES = ["1/6 teacher", "2/6 supernet", "3/6 search", "4/6 students", "5/6 INT8", "6/6 report"]


def command(world: Path, run: Path, *more: str) -> list[str]:
    module = [sys.executable, "-m", "evo_agd.search"]
    return [*module, str(world / "tiny.yaml"), "--run", str(run), *more]


def call(arguments: list[str]) -> subprocess.CompletedProcess[str]:
    return subprocess.run(arguments, capture_output=True, text=True, check=False, timeout=240)


@pytest.fixture(scope="module")
def undisturbed(world: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    run = tmp_path_factory.mktemp("runs") / "undisturbed"
    done = call(command(world, run))
    assert done.returncode == 0, done.stderr
    assert done.stdout.rstrip().replace("\n", "").endswith("report.html")
    return run


def test_a_run_leaves_what_it_promises(undisturbed: Path) -> None:
    front = json.loads((undisturbed / "front.json").read_text())
    costs = [m["gmacs"] for m in front]
    assert costs == sorted(costs) and len({m["id"] for m in front}) == len(front) >= 2
    assert {
        *("id", "genome", "gmacs", "params", "memory_mb", "int8_memory_mb"),
        "distillation_loss",
        "psnr",
    } == set(front[0])
    history = (undisturbed / "search/history.csv").read_text().splitlines()
    assert len(history) == 25
    students = [p.parent for p in undisturbed.glob("students/*/metrics.json")]
    assert len(students) == 2
    for folder in students:
        assert {p.name for p in folder.iterdir()} == {
            "architecture.yaml", "student.safetensors", "metrics.json",
            "student.onnx", "student.int8.onnx",
        }  # fmt: skip
        metrics = json.loads((folder / "metrics.json").read_text())
        assert {"psnr_supernet", "psnr_retrained", "distillation_loss_retrained"} <= set(metrics)
        for name in ("psnr", "ssim"):
            assert {f"{name}{end}" for end in ("", "_int8", "_teacher", "_bicubic")} <= set(metrics)
        assert metrics["psnr"] - metrics["psnr_int8"] < 0.1 and metrics["int8_floating"] == []
        assert metrics["teacher_runtime"] == "ONNX Runtime" and metrics["teacher_params"] > 0
        for ours, theirs, name in (
            ("int8_mb", "teacher_mb", "times_smaller"),
            ("ms_int8", "teacher_ms", "times_faster"),
            ("gmacs", "teacher_gmacs", "times_cheaper"),
        ):
            assert metrics[name] == pytest.approx(metrics[theirs] / metrics[ours])
        sizes = {"fp32": "student.onnx", "int8": "student.int8.onnx"}
        for kind, file in sizes.items():
            assert metrics[f"{kind}_mb"] * 1e6 == pytest.approx((folder / file).stat().st_size)
            assert metrics[f"peak_mb_{kind}"] > 0
    outcomes = json.loads((undisturbed / "students.json").read_text())
    assert {m["id"] for m in outcomes} == {p.name for p in students}
    assert all([s["step"] for s in m["scores"]] == [2, 3, 6] for m in outcomes)
    page = (undisturbed / "report.html").read_text()
    assert students[0].name in page and "data:image/png;base64" in page
    assert "<script src" not in page and "<link" not in page
    assert not list(undisturbed.glob("retraining")) and not list(undisturbed.glob("*.state"))


def test_benchmark_int8_times_every_form_of_every_student(
    undisturbed: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "int8.json"
    arguments = ["int8", str(undisturbed), "--size", "24", "--rounds", "3", "--json", str(file)]
    assert benchmark.main(arguments) == 0
    assert "channels last" in capsys.readouterr().out
    rows = json.loads(file.read_text())
    assert {r["id"] for r in rows} == {p.name for p in undisturbed.glob("students/*")}
    for row in rows:
        assert row["size"] == 24 and row["psnr_int8"] > 0
        for form in ("ort_fp32", "torch_fp32", "torch_channels_last"):
            assert row[f"{form}_ms"] > 0 and row[f"{form}_to_int8"] > 0
        assert "ort_int8_to_int8" not in row


def kill_in(stage: str, arguments: list[str], run: Path) -> None:
    """Start a run and kill its whole process group with SIGKILL once it is in the stage."""
    log = run / "log.txt"
    before = len(log.read_text()) if log.exists() else 0
    process = subprocess.Popen(
        arguments, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, start_new_session=True
    )

    def reached() -> bool:
        begun = log.exists() and stage in log.read_text()[before:]
        # Of the search something should be there to go on with.
        return begun and ("search" not in stage or (run / "search/state.json").exists())

    try:
        limit = time.monotonic() + 200
        while time.monotonic() < limit and process.poll() is None and not reached():
            time.sleep(0.02)
    finally:
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()
    assert reached()


def test_killed_in_every_stage_and_resumed_gives_the_same_front(
    world: Path, undisturbed: Path, tmp_path: Path
) -> None:
    run = tmp_path / "killed"
    kill_in(STAGES[0], command(world, run), run)
    for number, stage in enumerate(STAGES[1:]):
        # Other workers than before: no figure depends on their number.
        workers = ["--resume", "--set", f"compute.workers={1 + number % 2}"]
        kill_in(stage, command(world, run, *workers), run)
    done = call(command(world, run, "--resume"))
    assert done.returncode == 0, done.stderr
    assert (run / "front.json").read_bytes() == (undisturbed / "front.json").read_bytes()
    names = {p.parent.name for p in run.glob("students/*/metrics.json")}
    assert names == {p.parent.name for p in undisturbed.glob("students/*/metrics.json")}
    for name in names:
        weights = Path("students") / name / "student.safetensors"
        assert (run / weights).read_bytes() == (undisturbed / weights).read_bytes()
    outcomes = [(folder / "students.json").read_bytes() for folder in (run, undisturbed)]
    assert outcomes[0] == outcomes[1]


def test_a_finished_run_is_not_repeated(world: Path, undisturbed: Path) -> None:
    before = {p: p.stat().st_mtime_ns for p in undisturbed.rglob("*.safetensors")}
    assert search.main([str(world / "tiny.yaml"), "--run", str(undisturbed), "--resume"]) == 0
    assert search.main(["--run", str(undisturbed), "--resume"]) == 0  # by its own config.yaml
    assert {p: p.stat().st_mtime_ns for p in undisturbed.rglob("*.safetensors")} == before


def test_others_are_retrained_afterwards(
    world: Path, undisturbed: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = tmp_path / "run"
    shutil.copytree(undisturbed, run)
    there = ["--run", str(run), "--resume"]
    before = {p: p.read_bytes() for p in run.rglob("*") if p.is_file()}
    assert "f9-x" in refused(capsys, *there, "--students", "f9-x")
    scored = [row["id"] for row in RunDirectory(run).read_history()]
    front = [m["id"] for m in json.loads((run / "front.json").read_text())]
    space, rng = space_of(load(world / "tiny.yaml")), np.random.default_rng(0)
    members = (space.id_of(space.random(rng)) for _ in range(100))
    unknown = next(n for n in members if n not in scored)
    assert unknown in refused(capsys, *there, "--students", front[0], unknown)
    assert "students.steps" in refused(capsys, *there, "--set", "students.steps=7")
    log = run / "log.txt"
    assert all(p.read_bytes() == content for p, content in before.items() if p != log)
    # One of the front, and one that has only been scored; nothing is to be stopped.
    first = next(n for n in front if not (run / "students" / n).exists())
    other = next(n for n in scored if n not in front)
    more = ["--students", first, other, "--set", "students.rungs=[]"]
    assert search.main([*there, *more]) == 0
    assert RunDirectory(run).settings().students.ids == (first, other)
    students = {p.parent.name for p in run.glob("students/*/metrics.json")}
    assert students == {p.name for p in (undisturbed / "students").iterdir()} | {first, other}
    kept = [p for p in before if p.suffix == ".safetensors" or p.name == "front.json"]
    assert all(p.read_bytes() == before[p] for p in kept)
    sheet = run / "sheet.png"
    assert sheet.read_bytes() != before[sheet] and other in (run / "report.html").read_text()
    capsys.readouterr()
    assert pareto.main([str(run), "--json"]) == 0
    rows = json.loads(capsys.readouterr().out)
    assert [r["id"] for r in rows if not r["front"]] == [other]
    # A stopped member is told from one that was not chosen, and is not tried again.
    outcomes = json.loads((run / "students.json").read_text())
    ended = next(m for m in outcomes if m["id"] == first)
    shutil.rmtree(run / "students" / first)
    ended["stopped"] = {"step": 2, "by": front[0], "psnr": 20.0, "psnr_by": 21.0}
    (run / "students.json").write_text(json.dumps(outcomes))
    again = ["--students", first, "--set", "students.rungs=[0.5]"]
    assert search.main([*there, *again]) == 0
    assert not (run / "students" / first).exists()
    capsys.readouterr()
    assert pareto.main([str(run)]) == 0
    assert f"{first} was stopped after 2 steps" in " ".join(capsys.readouterr().out.split())
    assert f"dominated by {front[0]}" in (run / "report.html").read_text()
    assert pareto.main([str(run), "--pick", first, "--to", str(tmp_path / "mine")]) == 2
    assert f"dominated by {front[0]}" in capsys.readouterr().err


def test_pareto_shows_filters_and_prints_json(
    undisturbed: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    front = json.loads((undisturbed / "front.json").read_text())
    assert pareto.main([str(undisturbed), "--json"]) == 0
    rows = json.loads(capsys.readouterr().out)
    assert [r["id"] for r in rows] == [m["id"] for m in front]
    assert sum(r["student"] is not None for r in rows) == 2
    assert pareto.main([str(undisturbed), "--json", "--max-gmacs", str(front[0]["gmacs"])]) == 0
    assert [r["id"] for r in json.loads(capsys.readouterr().out)] == [front[0]["id"]]
    assert pareto.main([str(undisturbed), "--json", "--min-psnr", "99"]) == 0
    assert json.loads(capsys.readouterr().out) == []
    assert pareto.main([str(undisturbed)]) == 0
    assert front[0]["id"] in capsys.readouterr().out


def test_pick_takes_a_student_away(
    undisturbed: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    name = next(undisturbed.glob("students/*/metrics.json")).parent.name
    to = tmp_path / "mine"
    assert pareto.main([str(undisturbed), "--pick", name, "--to", str(to)]) == 0
    assert (to / "student.int8.onnx").is_file()
    capsys.readouterr()
    assert pareto.main([str(undisturbed), "--pick", name, "--to", str(to)]) == 2
    assert "does not exist yet" in capsys.readouterr().err
    other = str(tmp_path / "other")
    assert pareto.main([str(undisturbed), "--pick", "nonsense", "--to", other]) == 2
    assert "not on the front" in capsys.readouterr().err
    assert pareto.main([str(undisturbed), "--pick", name]) == 2
    assert "--to" in capsys.readouterr().err
    assert pareto.main([str(tmp_path)]) == 2


def test_rank_compares_scores_with_training_alone(
    undisturbed: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    rows_file = tmp_path / "rank.json"
    arguments = ["rank", str(undisturbed), "--members", "2", "--seeds", "2", "--steps", "3"]
    assert benchmark.main([*arguments, "--json", str(rows_file)]) == 0
    assert "GMACs alone" in capsys.readouterr().out
    *rows, summary = json.loads(rows_file.read_text())
    assert len(rows) == 2 and all(len(r["psnr_alone_seeds"]) == 2 for r in rows)
    assert -1 <= summary["tau_score"] <= 1
    assert rows[0]["psnr_alone_seeds"][0] != rows[0]["psnr_alone_seeds"][1]
    assert benchmark.main([*arguments, "--near-gmacs", "1000"]) == 2
    assert "all that were found" in capsys.readouterr().err


def test_milliseconds_from_a_table_and_measured_are_objectives_and_constraints(
    world: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    space = space_of(load(world / "tiny.yaml"))
    layers = {layer_key(layer): layer.macs(16, 16) / 1e5 for layer in every_layer(space)}
    table = tmp_path / "table.json"
    table.write_text(json.dumps({"input_size": [256, 256], "layers": layers}))
    run = tmp_path / "run"
    arguments = [str(world / "tiny.yaml"), "--run", str(run), "--latency-table", str(table)]
    arguments += ["--set", "objectives=[latency_ms, latency_int8_ms, params, psnr]"]
    arguments += ["--set", "latency_int8_table=measured", "--set", "search.evaluations=6"]
    arguments += ["--set", "students.count=1"]
    limit = 0.8 * max(space.cost(g).gmacs for g in space.anchors()) * 1e4 * 256 / 65536
    assert search.main([*arguments, "--set", f"constraints.latency_ms.max={limit}"]) == 0
    front = json.loads((run / "front.json").read_text())
    space.latency = read_table(table, space)
    for member in front:
        assert member["latency_ms"] == space.cost(tuple(member["genome"])).latency_ms <= limit
        assert 0 < member["latency_int8_ms"] < 1000
    assert "table ms" in capsys.readouterr().out or pareto.main([str(run)]) == 0
    table.write_text(json.dumps({"input_size": [256, 256], "layers": {}}))
    line = refused(capsys, *arguments[:1], *arguments[3:])
    assert "table.json" in line and "missing" in line


def refused(capsys: pytest.CaptureFixture[str], *arguments: str) -> str:
    """What a door says on bad input: one line on stderr, status 2."""
    assert search.main(arguments) == 2
    captured = capsys.readouterr()
    assert captured.err.count("\n") == 1 and captured.err.startswith("evo_agd: ")
    assert "expected" in captured.err and "found" in captured.err
    return captured.err


def test_bad_input_ends_with_one_line_and_leaves_nothing(
    world: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    tiny, run = str(world / "tiny.yaml"), tmp_path / "run"

    def told(*more: str) -> str:
        line = refused(capsys, tiny, "--run", str(run), *more)
        assert not run.exists()
        return line

    assert "nowhere.yaml" in refused(capsys, str(tmp_path / "nowhere.yaml"))
    assert "population" in told("--set", "search.populaton=3")
    (tmp_path / "notes.txt").write_text("no checkpoint")
    assert "notes.txt" in told("--set", f"teacher={tmp_path / 'notes.txt'}")
    assert "found scale 4" in told("--set", "scale=2")
    (tmp_path / "empty").mkdir()
    assert "empty" in told("--set", f"data.train={tmp_path / 'empty'}")
    (tmp_path / "broken").mkdir()
    (tmp_path / "broken" / "a.png").write_bytes(b"no image")
    assert "a.png" in told("--set", f"data.train={tmp_path / 'broken'}")
    assert "at least 80x80" in told("--set", "supernet.crop=20")
    assert "HOST:PORT" in told("--address", "nowhere")
    assert "--address: expected a Ray cluster" in told("--address", "127.0.0.1:1")
    assert "cheapest" in told("--set", "constraints.gmacs.max=0.000001")
    assert "f9-x" in told("--students", "f9-x")
    assert "students.rungs" in told("--set", "students.rungs=[0.5, 0.25]")
    assert "a run directory" in told("--resume")
    monkeypatch.chdir(tmp_path)
    assert "to resume" in refused(capsys, tiny, "--resume")
    file = tmp_path / "file"
    file.write_text("precious")
    assert "file" in refused(capsys, tiny, "--run", str(file / "run"))
    assert "new or empty" in refused(capsys, tiny, "--run", str(file))
    assert file.read_text() == "precious"


def test_another_configuration_loses_nothing(
    world: Path, undisturbed: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    before = {p: p.read_bytes() for p in undisturbed.rglob("*.json")}
    tiny, run = str(world / "tiny.yaml"), ["--run", str(undisturbed)]
    assert "--resume" in refused(capsys, tiny, *run)
    assert "seed" in refused(capsys, tiny, *run, "--set", "seed=1")
    assert "seed" in refused(capsys, tiny, *run, "--set", "seed=1", "--resume")
    assert "seed" in refused(capsys, *run, "--set", "seed=1", "--resume")
    assert {p: p.read_bytes() for p in undisturbed.rglob("*.json")} == before
