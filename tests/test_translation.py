"""A translation as a user meets it: from a CycleGAN checkpoint and photographs to students."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
import torchvision
from PIL import Image
from safetensors.torch import save_file

from evo_agd import pareto, search
from evo_agd.config import load
from evo_agd.deploy.onnx_file import session
from evo_agd.nets.published import CycleGANGenerator
from evo_agd.nets.students import read_student
from evo_agd.run.inputs import Inputs
from tests.conftest import photograph

TINY = """
task: image_translation
genes:
  layers: 2
  operators: [conv1x1, conv3x3, residual, inverted]
  full_widths: [4, 8]
  half_widths: [4, 8]
  quarter_widths: [8, 12]
teacher: latest_net_G.pth
data: {train: horses}
losses: {teacher_l1: 1, perceptual: 0.5, gram: 0.5}
features: {weights: squeezenet.safetensors}
judge: {target_class: 340}
supernet: {steps: 6, warm_up: 2, batch: 1, crop: 20, paths: 1, constrained: true}
constraints: {gmacs: {max: 0.4}}
search: {population: 4, evaluations: 10}
students: {count: 2, steps: 3, batch: 1, crop: 20}
int8: {calibration: 2, latency_size: 16}
"""


@pytest.fixture(scope="module")
def zoo(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with ``tiny.yaml``, a small CycleGAN generator, photographs and a backbone."""
    folder = tmp_path_factory.mktemp("zoo")
    (folder / "tiny.yaml").write_text(TINY)
    seed = 0
    for name, count in (("trainA", 3), ("trainB", 2), ("testA", 2), ("testB", 3)):
        (folder / "horses" / name).mkdir(parents=True)
        for index in range(count):
            seed += 1
            Image.fromarray(photograph(34, 41, seed)).save(folder / f"horses/{name}/{index}.jpg")
    torch.manual_seed(0)
    torch.save(CycleGANGenerator(4, 2).state_dict(), folder / "latest_net_G.pth")
    weights = torchvision.models.squeezenet1_1(weights=None).state_dict()
    save_file(weights, folder / "squeezenet.safetensors")
    return folder


@pytest.fixture(scope="module")
def finished(zoo: Path) -> Path:
    run = zoo / "run"
    assert search.main([str(zoo / "tiny.yaml"), "--run", str(run)]) == 0
    return run


def test_students_are_measured_against_teacher_and_target(finished: Path) -> None:
    folders = [p.parent for p in finished.glob("students/*/metrics.json")]
    assert len(folders) == 2
    for folder in folders:
        metrics = json.loads((folder / "metrics.json").read_text())
        assert {"psnr", "psnr_int8", "l1", "l1_int8", "perceptual", "frechet"} <= set(metrics)
        assert {"class_share", "class_share_teacher", "class_share_target"} <= set(metrics)
        assert "squeezenet" in metrics["features"] and "fid" not in metrics
        assert metrics["gmacs"] <= 0.4
        net = read_student(folder).eval()
        x = torch.rand(1, 3, 20, 24)
        (found,) = session(folder / "student.onnx", 1).run(None, {"image": x.numpy()})
        with torch.no_grad():
            assert np.abs(found - net(x).numpy()).max() <= 1e-4
        assert found.min() >= 0 and found.max() <= 1


def test_the_sheet_shows_input_teacher_and_every_member(finished: Path) -> None:
    front = json.loads((finished / "front.json").read_text())
    with Image.open(finished / "sheet.png") as sheet:
        assert sheet.width == 160 * (2 + min(16, len(front)))
        assert sheet.height > 160 * 2
    page = (finished / "report.html").read_text()
    assert "target class" in page and "bicubic" not in page.split("<h2>Settings</h2>")[0][-20000:]


def test_pareto_lists_and_the_figures_are_named(
    finished: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert pareto.main([str(finished)]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert any("class" in line and "PSNR" in line for line in lines)
    assert max(map(len, lines)) <= 80
    assert "Frechet" in (finished / "report.html").read_text()


def refused(capsys: pytest.CaptureFixture[str], *arguments: str) -> str:
    assert search.main(arguments) == 2
    captured = capsys.readouterr()
    assert captured.err.count("\n") == 1 and captured.err.startswith("evo_agd: ")
    return captured.err


def test_bad_input_is_told_in_one_line(
    zoo: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    tiny, run = str(zoo / "tiny.yaml"), tmp_path / "run"

    def told(*more: str) -> str:
        line = refused(capsys, tiny, "--run", str(run), *more)
        assert not run.exists()
        return line

    assert "truth" in told("--set", "losses.truth_l1=1")
    assert "data.domain" in told("--set", "data.domain=C")
    assert "none.safetensors" in told("--set", f"features.weights={zoo}/none.safetensors")
    assert "scale 1" in told("--set", "teacher=bundled")
    assert "quarter_widths" in told("--set", "genes.quarter_width=[8]")
    assert "students.crop" in told("--set", "students.crop=8")


def onnx_of(net: torch.nn.Module, channels: int, path: Path, *, dynamic: bool) -> Path:
    axes = {"x": {2: "height", 3: "width"}, "y": {2: "height", 3: "width"}} if dynamic else None
    torch.onnx.export(
        net, (torch.rand(1, channels, 32, 32),), path, dynamo=False,
        input_names=["x"], output_names=["y"], dynamic_axes=axes,
    )  # fmt: skip
    return path


def test_teachers_that_do_not_fit_are_told(
    zoo: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    def told(teacher: object) -> str:
        run = tmp_path / "run"
        tiny = str(zoo / "tiny.yaml")
        line = refused(capsys, tiny, "--run", str(run), "--set", f"teacher={teacher}")
        assert not run.exists()
        return line

    grey = onnx_of(torch.nn.Conv2d(1, 1, 3, padding=1), 1, tmp_path / "grey.onnx", dynamic=True)
    assert "grey.onnx" in told(grey) and "RGB to RGB" in told(grey)
    fixed = onnx_of(torch.nn.Conv2d(3, 3, 3, padding=1), 3, tmp_path / "fixed.onnx", dynamic=False)
    assert "fixed.onnx" in told(fixed) and "32" in told(fixed)
    unknown = tmp_path / "unknown.pth"
    torch.save({"encoder.weight": torch.zeros(3, 3)}, unknown)
    line = told(unknown)
    assert "spandrel" in line and "CycleGAN" in line and "encoder.weight" in line
    assert "make" in told(f"{zoo}/my_net.py:make")


def test_one_broken_file_in_twenty_is_left_out_with_its_name(
    zoo: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture
) -> None:
    photos = tmp_path / "photos"
    photos.mkdir()
    for index in range(20):
        Image.fromarray(photograph(24, 28, index)).save(photos / f"{index:02}.png")
    (photos / "07.png").write_bytes(b"no image")
    settings = load(zoo / "tiny.yaml", [f"data.train={photos}", f"data.validation={photos}"])
    inputs = Inputs(settings)
    assert len(inputs.train) == 19 and "07.png" in caplog.text
    for name in ("11.png", "12.png"):
        (photos / name).write_bytes(b"")
    line = refused(capsys, str(zoo / "tiny.yaml"), "--set", f"data.train={photos}")
    assert "07.png" in line and "3 of 20" in line
