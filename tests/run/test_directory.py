from __future__ import annotations

import errno
import os
from pathlib import Path

import pytest

from evo_agd.config import load
from evo_agd.errors import InputError
from evo_agd.evolve.candidates import Candidate
from evo_agd.evolve.state import SearchState, Store
from evo_agd.files import write_json, write_text
from evo_agd.run.directory import RunDirectory, choose, locked, resume, start


def test_start_writes_the_resolved_settings(world: Path, tmp_path: Path) -> None:
    settings = load(world / "tiny.yaml")
    run = start(tmp_path / "new" / "run", settings, "inputs")
    assert run.settings() == settings


def test_a_run_is_never_overwritten(world: Path, tmp_path: Path) -> None:
    settings = load(world / "tiny.yaml")
    run = start(tmp_path, settings, "inputs")
    write_text(run.front, "[]")
    with pytest.raises(InputError, match="--resume"):
        start(tmp_path, settings, "inputs")
    with pytest.raises(InputError, match=r"another configuration .*seed 5 here, 0 there"):
        start(tmp_path, load(world / "tiny.yaml", ["seed=5"]), "inputs")
    assert run.front.read_text() == "[]"


def test_other_files_in_the_way(world: Path, tmp_path: Path) -> None:
    (tmp_path / "thesis.tex").write_text("precious")
    with pytest.raises(InputError, match="new or empty folder"):
        start(tmp_path, load(world / "tiny.yaml"), "inputs")
    with pytest.raises(InputError, match=r"thesis\.tex"):
        start(tmp_path / "thesis.tex" / "run", load(world / "tiny.yaml"), "inputs")
    assert (tmp_path / "thesis.tex").read_text() == "precious"


def test_resume_wants_the_same_configuration_but_any_number_of_workers(
    world: Path, tmp_path: Path
) -> None:
    settings = load(world / "tiny.yaml")
    with pytest.raises(InputError, match="no such folder"):
        resume(tmp_path / "nowhere", settings, "inputs")
    start(tmp_path / "run", settings, "inputs")
    assert resume(tmp_path / "run", settings, "inputs").settings() == settings
    resume(tmp_path / "run", load(world / "tiny.yaml", ["compute.workers=7"]), "inputs")
    with pytest.raises(InputError, match=r"students\.steps 9 here, 6 there"):
        resume(tmp_path / "run", load(world / "tiny.yaml", ["students.steps=9"]), "inputs")


def test_resume_wants_the_same_photographs_and_teacher(world: Path, tmp_path: Path) -> None:
    settings = load(world / "tiny.yaml")
    start(tmp_path / "run", settings, "inputs")
    with pytest.raises(InputError, match="photographs and the teacher"):
        resume(tmp_path / "run", settings, "other inputs")


def test_two_processes_do_not_share_a_run(world: Path, tmp_path: Path) -> None:
    run = start(tmp_path / "run", load(world / "tiny.yaml"), "inputs")
    with locked(run), pytest.raises(InputError, match="another process"), locked(run):
        pass
    with locked(run):
        pass


def test_what_is_no_run_is_told(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"a folder without config\.yaml"):
        RunDirectory(tmp_path).settings()
    with pytest.raises(InputError, match="no such folder"):
        RunDirectory(tmp_path / "nowhere").settings()
    with pytest.raises(InputError, match=r"no front\.json"):
        RunDirectory(tmp_path).read_front()


def test_a_full_disk_keeps_the_old_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "state.json"
    write_json(path, {"good": 1})

    def full(_: int) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(InputError, match=r"state\.json.*No space left on device"):
        write_json(path, {"good": 2})
    assert path.read_text() == '{\n  "good": 1\n}\n'
    assert list(tmp_path.iterdir()) == [path]


def test_the_history_is_read_as_it_was_written(tmp_path: Path) -> None:
    run = RunDirectory(tmp_path)
    assert run.read_history() == []
    found = [
        Candidate(name, (0,), {"gmacs": gmacs}, 0.0, 0, 0.0)
        for name, gmacs in (("a", 0.1), ("b", 1 / 3))
    ]
    Store(run.history, run.search_state).write(SearchState(candidates=found))
    assert [float(r["gmacs"]) for r in run.read_history()] == [0.1, 1 / 3]


def test_resume_lets_the_choice_of_students_differ(world: Path, tmp_path: Path) -> None:
    run = start(tmp_path / "run", load(world / "tiny.yaml", ["compute.workers=3"]), "inputs")
    before = run.config.read_bytes()
    for path in (run.sheet, run.report):
        path.write_text("of before")
    settings = load(world / "tiny.yaml", ["students.ids=[f4-r1x4-s]", "students.margin=1"])
    resume(run.path, settings, "inputs")
    choose(run, load(world / "tiny.yaml"))  # the same choice, other workers
    assert run.config.read_bytes() == before and run.sheet.exists() and run.report.exists()
    choose(run, settings)
    assert run.settings().students == settings.students
    assert run.settings().compute.workers == 3
    assert not run.sheet.exists() and not run.report.exists()


def test_outcomes_that_are_damaged_are_told(tmp_path: Path) -> None:
    run = RunDirectory(tmp_path)
    assert run.read_outcomes() == {}
    run.outcomes.write_text("[1]")
    with pytest.raises(InputError, match=r"students\.json"):
        run.read_outcomes()
