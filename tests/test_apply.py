from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from onnxruntime import InferenceSession
from PIL import Image

import evo_agd.__main__
from evo_agd.apply import main
from evo_agd.deploy import applying, picture_lists
from evo_agd.deploy.model_file import ModelFile
from evo_agd.deploy.onnx_file import as_input, export, session
from evo_agd.deploy.quantizing import quantize
from evo_agd.nets.super_resolution import SRStudent
from evo_agd.space.super_resolution import Block, SRArchitecture
from tests.conftest import ROOT, photograph
from tests.deploy.test_model_file import Foreign, with_metadata, write_foreign

METADATA = {"scale": "4", "overlap": "5", "multiple": "1", "whole": "0"}


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a student as FP32 and INT8, and a translator from elsewhere."""
    folder = tmp_path_factory.mktemp("models")
    torch.manual_seed(0)
    blocks = (Block("fused", 3, 4), Block("residual", 3, 4))
    export(SRStudent(SRArchitecture(4, 4, blocks, "shuffle", 0)), folder / "plain.onnx")
    lows = [photograph(24, 24, seed) for seed in range(2)]
    quantize(folder / "plain.onnx", folder / "plain.int8.onnx", lows, "minmax")
    for name in ("student.onnx", "student.int8.onnx"):
        with_metadata(folder / name.replace("student", "plain"), folder / name, **METADATA)
    write_foreign(folder / "translator.onnx", Foreign())
    write_foreign(folder / "whole.onnx", Foreign(norm=True))
    return folder


def save(path: Path, height: int = 20, width: int = 26, seed: int = 0, **options: object) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(photograph(height, width, seed)).save(path, **options)
    return path


def run(*arguments: object) -> int:
    return main([str(a) for a in arguments])


def files(folder: Path) -> dict[str, bytes]:
    return {
        str(p.relative_to(folder)): p.read_bytes() for p in sorted(folder.rglob("*")) if p.is_file()
    }


def values(path: Path) -> np.ndarray:
    with Image.open(path) as image:
        return np.asarray(image).astype(int)


def test_a_picture_is_what_the_network_makes_of_it(models: Path, tmp_path: Path) -> None:
    save(tmp_path / "x.png")
    assert run(models / "student.onnx", tmp_path / "x.png", "--to", tmp_path / "to") == 0
    (answer,) = session(models / "plain.onnx", 1).run(
        None, {"image": as_input(photograph(20, 26, 0))}
    )
    exact = answer[0].transpose(1, 2, 0) * 255
    assert np.abs(values(tmp_path / "to/x.png") - np.clip(exact, 0, 255)).max() <= 0.501


@pytest.mark.parametrize("kind", ["student.onnx", "student.int8.onnx"])
def test_seams_are_not_seen(models: Path, tmp_path: Path, kind: str) -> None:
    save(tmp_path / "x.png", 150, 200)
    figures = tmp_path / "figures.json"
    command = (models / kind, tmp_path / "x.png", "--json", figures, "--to")
    assert run(*command, tmp_path / "whole", "--memory", 4096) == 0
    assert json.loads(figures.read_text())[0]["tiles"] == 1
    assert run(*command, tmp_path / "tiles", "--memory", 16) == 0
    (row,) = json.loads(figures.read_text())
    assert row["tiles"] > 4 and row["size"] == [200, 150] and row["seconds"] > 0
    assert row["input"] == str(tmp_path / "x.png") and row["output"] == str(
        tmp_path / "tiles/x.png"
    )
    apart = np.abs(values(tmp_path / "whole/x.png") - values(tmp_path / "tiles/x.png"))
    assert apart.max() <= 1 and (apart > 0).mean() < 1e-3  # where a value lies between two


def test_a_network_from_elsewhere(models: Path, tmp_path: Path) -> None:
    photo = photograph(20, 26, 0)
    save(tmp_path / "x.png")
    assert run(models / "translator.onnx", tmp_path / "x.png", "--to", tmp_path / "to") == 0
    with torch.no_grad():
        x = torch.from_numpy(photo.copy()).permute(2, 0, 1)[None] / 255
        expected = (Foreign().eval()(2 * x - 1)[0] / 2 + 0.5).permute(1, 2, 0).numpy()
    assert np.abs(values(tmp_path / "to/x.png") - 255 * expected).max() <= 0.51


def test_a_network_that_looks_at_everything_is_blended_with_a_warning(
    models: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    save(tmp_path / "x.png", 400, 500)
    command = (models / "whole.onnx", tmp_path / "x.png", "--to")
    assert run(*command, tmp_path / "whole") == 0
    assert capsys.readouterr().err == ""
    assert run(*command, tmp_path / "tiles", "--memory", 16) == 0
    error = capsys.readouterr().err
    assert error.count("\n") == 1 and "tiles are blended" in error
    found = values(tmp_path / "tiles/x.png")
    assert found.shape == (400, 500, 3) and found.std() > 5


def test_a_folder_keeps_its_structure_whatever_the_workers(models: Path, tmp_path: Path) -> None:
    folder = tmp_path / "photos"
    for index, name in enumerate(("a.png", "deep/b.png", "deep/er/c.webp", "d.JPG", "e.bmp")):
        save(folder / name, 90, 120 + index, index)
    (folder / "notes.txt").write_text("no picture")
    save(folder / ".hidden/x.png")
    before = files(folder)
    results = []
    for workers in (1, 3):
        to = tmp_path / f"to{workers}"
        status = run(
            models / "student.onnx", folder, "--to", to, "--workers", workers, "--memory", 16
        )
        assert status == 0
        results.append(files(to))
    assert results[0] == results[1]
    assert [*results[0]] == ["a.png", "d.JPG", "deep/b.png", "deep/er/c.webp", "e.png"]
    assert values(tmp_path / "to1/d.JPG").shape == (360, 492, 3)
    assert files(folder) == before


@pytest.mark.parametrize(("form", "suffix"), [("png", ".png"), ("jpeg", ".jpg"), ("webp", ".webp")])
def test_formats(models: Path, tmp_path: Path, form: str, suffix: str) -> None:
    save(tmp_path / "x.tif")
    to = tmp_path / "to"
    assert run(models / "student.onnx", tmp_path / "x.tif", "--to", to, "--format", form) == 0
    with Image.open(to / f"x{suffix}") as image:
        assert image.format == form.upper()


def test_what_a_format_has_no_room_for_becomes_png(
    models: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setitem(picture_lists.LARGEST, "webp", 100)
    save(tmp_path / "x.webp", 20, 26)
    assert run(models / "student.onnx", tmp_path / "x.webp", "--to", tmp_path / "to") == 0
    assert "104x80 pixels are too many for WEBP, it becomes PNG" in capsys.readouterr().err
    assert [*files(tmp_path / "to")] == ["x.png"]


def test_outputs_are_not_done_again_but_on_demand(
    models: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    save(tmp_path / "in/x.png")
    save(tmp_path / "in/y.png")
    (tmp_path / "to").mkdir()
    (tmp_path / "to/x.png").write_bytes(b"mine")
    command = (models / "student.onnx", tmp_path / "in", "--to", tmp_path / "to")
    assert run(*command) == 0
    out = capsys.readouterr().out
    assert "1 skipped" in out and "1 written" in out
    assert (tmp_path / "to/x.png").read_bytes() == b"mine"
    assert run(*command, "--overwrite") == 0
    assert values(tmp_path / "to/x.png").shape == (80, 104, 3)


def test_collisions_are_told_before_anything_is_done(
    models: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for name in ("a/x.png", "b/x.png", "c/x.bmp", "c/x.png", "d/x.png", "d/x.compare.png"):
        save(tmp_path / name)
    to = tmp_path / "to"
    for inputs in (["a", "b"], ["a/x.png", "b/x.png"], ["c"]):
        given = [tmp_path / name for name in inputs]
        assert run(models / "student.onnx", *given, "--to", to) == 2
        assert "expected one picture for each output" in capsys.readouterr().err
    assert run(models / "student.onnx", tmp_path / "d", "--to", to, "--compare") == 2
    assert run(models / "student.onnx", tmp_path / "a", "--to", to, "--json", to / "x.png") == 2
    assert not to.exists()
    # The same file twice is not two.
    assert run(models / "student.onnx", tmp_path / "a", tmp_path / "a/x.png", "--to", to) == 0


@pytest.mark.parametrize("way", ["same", "dots", "symlink", "hardlink", "folder", "json", "model"])
def test_originals_are_never_overwritten(
    models: Path, tmp_path: Path, way: str, capsys: pytest.CaptureFixture[str]
) -> None:
    photo, to, more = save(tmp_path / "in/x.png"), tmp_path / "to", []
    model = models / "student.onnx"
    to.mkdir()
    if way == "same":
        to = tmp_path / "in"
    elif way == "dots":
        to = tmp_path / "in/../in"
    elif way == "symlink":
        (to / "x.png").symlink_to(photo)
    elif way == "hardlink":
        os.link(photo, to / "x.png")
    elif way == "folder":
        to.rmdir()
        to.symlink_to(tmp_path / "in")
    elif way == "json":
        more = ["--json", photo]
    else:
        more = ["--json", model]
    before = photo.read_bytes(), model.read_bytes()
    assert run(model, tmp_path / "in", "--to", to, "--overwrite", *more) == 2
    assert "expected an output that is no input" in capsys.readouterr().err
    assert (photo.read_bytes(), model.read_bytes()) == before


def test_outputs_inside_the_folder_are_no_inputs(models: Path, tmp_path: Path) -> None:
    save(tmp_path / "x.png")
    for _ in range(2):
        assert run(models / "student.onnx", tmp_path, "--to", tmp_path / "to", "--overwrite") == 0
    assert [*files(tmp_path)] == ["to/x.png", "x.png"]


def test_of_a_folder_the_broken_are_told_and_the_others_done(
    models: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    save(tmp_path / "in/good.png")
    whole = save(tmp_path / "in/torn.png", 90, 90).read_bytes()
    (tmp_path / "in/torn.png").write_bytes(whole[: len(whole) // 2])
    (tmp_path / "in/text.png").write_text("no picture")
    figures = tmp_path / "figures.json"
    to = tmp_path / "to"
    assert run(models / "student.onnx", tmp_path / "in", "--to", to, "--json", figures) == 2
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 3
    assert sum("torn.png: expected a readable image" in line for line in lines) == 1
    assert sum("text.png: expected a readable image" in line for line in lines) == 1
    assert lines[-1].endswith("expected pictures that can be read, found 2 of 3 that cannot")
    assert [*files(to)] == ["good.png"]
    rows = json.loads(figures.read_text())
    assert sorted("error" in row for row in rows) == [False, True, True]


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (["none.png"], "none.png: expected a picture or a folder of pictures, found no such file"),
        (["empty"], "empty: expected a folder with pictures, found none"),
        (["x.png", "--memory", "1"], "--memory: expected at least 16 MB, found 1"),
        (["x.png", "--workers", "0"], "--workers: expected at least 1, found 0"),
        (["x.png", "--teacher", "bundled"], "--teacher: expected --compare beside it"),
        (["text.png"], "text.png: expected a readable image"),
    ],
)
def test_bad_input_is_one_line(
    models: Path,
    tmp_path: Path,
    arguments: list[str],
    told: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    save(tmp_path / "x.png")
    (tmp_path / "empty").mkdir()
    (tmp_path / "text.png").write_text("no picture")
    assert run(models / "student.onnx", *arguments, "--to", tmp_path / "to") == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("evo_agd: ") and told in line
    assert not (tmp_path / "to").exists()


def test_a_full_disk_ends_it_with_whole_files(
    models: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    for index in range(6):
        save(tmp_path / f"in/{index}.png", seed=index)
    real, calls, lock = Image.Image.save, [], threading.Lock()

    def full(self: Image.Image, file: object, *arguments: object, **options: object) -> None:
        with lock:
            calls.append(file)
            late = len(calls) > 2
        if late:
            raise OSError(28, "No space left on device")
        real(self, file, *arguments, **options)

    monkeypatch.setattr(Image.Image, "save", full)
    assert (
        run(models / "student.onnx", tmp_path / "in", "--to", tmp_path / "to", "--workers", 2) == 2
    )
    assert "No space left on device" in capsys.readouterr().err
    found = files(tmp_path / "to")
    assert len(found) == 2 and all(values(tmp_path / "to" / n).shape == (80, 104, 3) for n in found)


def test_ctrl_c_stops_between_tiles(
    models: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    save(tmp_path / "x.png", 300, 300)
    calls = []

    def press(self: ModelFile, pixels: np.ndarray) -> np.ndarray:
        calls.append(1)
        raise KeyboardInterrupt

    monkeypatch.setattr(applying.ModelFile, "__call__", press)
    to = tmp_path / "to"
    assert run(models / "student.onnx", tmp_path / "x.png", "--to", to, "--memory", 16) == 130
    assert len(calls) == 1 and not to.exists()


def test_the_metadata_spares_torch(models: Path, tmp_path: Path) -> None:
    save(tmp_path / "x.png")
    code = (
        "import sys; from evo_agd.apply import main; "
        "assert main(sys.argv[1:]) == 0; assert 'torch' not in sys.modules"
    )
    command = [sys.executable, "-c", code, models / "student.onnx", tmp_path / "x.png"]
    subprocess.run([*command, "--to", tmp_path / "to"], check=True, cwd=ROOT, capture_output=True)
    known = onnx.load(models / "student.onnx")
    assert {p.key for p in known.metadata_props} >= METADATA.keys()
    assert isinstance(session(models / "student.onnx", 1), InferenceSession)


def test_it_is_a_sub_command_too(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "argv", ["evo-agd", "apply", "--help"])
    with pytest.raises(SystemExit) as stopped:
        evo_agd.__main__.run()
    assert stopped.value.code == 0 and "MODEL.onnx" in capsys.readouterr().out


# Comparisons


def test_a_comparison_beside_each_output(models: Path, tmp_path: Path) -> None:
    save(tmp_path / "in/x.png")
    save(tmp_path / "in/y.png", 300, 400)
    to = tmp_path / "to"
    command = (models / "student.onnx", tmp_path / "in", "--compare", "--to")
    assert run(*command, to, "--teacher", models / "plain.onnx") == 0
    assert [*files(to)] == ["x.compare.png", "x.png", "y.compare.png", "y.png"]
    small, large = values(to / "x.compare.png"), values(to / "y.compare.png")
    assert small.shape == (18 + 80 + 6, 6 + 4 * (104 + 6), 3)
    assert large.shape == (18 + 384 + 6, 6 + 4 * (384 + 6), 3)
    # This teacher is the student.
    columns = [large[18:-6, 6 + i * 390 :][:, :384] for i in range(4)]
    assert np.abs(columns[2] - columns[3]).max() <= 1
    assert np.abs(columns[0] - columns[1]).max() > 5
    assert run(*command, tmp_path / "again") == 0
    assert values(tmp_path / "again/x.compare.png").shape == (18 + 80 + 6, 6 + 3 * 110, 3)


def test_a_translation_is_compared_without_bicubic(models: Path, tmp_path: Path) -> None:
    save(tmp_path / "x.png", 40, 70)
    teacher = models / "whole.onnx"
    command = (models / "translator.onnx", tmp_path / "x.png", "--compare", "--teacher", teacher)
    assert run(*command, "--to", tmp_path / "to") == 0
    assert values(tmp_path / "to/x.compare.png").shape == (18 + 40 + 6, 6 + 3 * 76, 3)


def test_a_teacher_of_another_scale_is_told(
    models: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    save(tmp_path / "x.png")
    command = (models / "translator.onnx", tmp_path / "x.png", "--to", tmp_path / "to")
    assert run(*command, "--compare", "--teacher", "bundled") == 2
    assert "teacher of scale 1" in capsys.readouterr().err
    assert not (tmp_path / "to").exists()
