from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from onnx import TensorProto, helper, numpy_helper
from PIL import Image
from rich.console import Console
from torch.utils.flop_counter import FlopCounterMode

from evo_agd.benchmark import main
from evo_agd.benchmarks.published_figures import PUBLISHED, published_set
from evo_agd.benchmarks.quality import quality, told_apart
from evo_agd.deploy.onnx_file import export
from evo_agd.deploy.quantizing import quantize
from evo_agd.nets.build import student_of
from evo_agd.nets.model_cost import model_cost, onnx_macs
from evo_agd.nets.students import write_student
from evo_agd.nets.super_resolution import SRStudent
from evo_agd.nets.teachers import Teacher, load_teacher
from evo_agd.space.layers import Layer
from evo_agd.space.super_resolution import Block, SRArchitecture
from evo_agd.space.translation import TranslationArchitecture
from evo_agd.train.images import crop_to_multiple, downscale, list_photos, read_photo, upscale
from evo_agd.train.quality import psnr_y, ssim_y
from tests.conftest import photograph

SIZES = ((52, 65), (66, 49))
BLOCKS = (Block("residual", 3, 8), Block("inverted", 3, 4))


def photographs(folder: Path, sizes: tuple[tuple[int, int], ...] = SIZES) -> Path:
    folder.mkdir(parents=True)
    for index, size in enumerate(sizes):
        Image.fromarray(photograph(*size, index)).save(folder / f"{index}.png")
    return folder


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A student's folder with its ONNX files, of 4 -> 16 features' size."""
    folder = tmp_path_factory.mktemp("models") / "small"
    torch.manual_seed(0)
    net = SRStudent(SRArchitecture(4, 8, BLOCKS, "nearest", 6)).eval()
    write_student(folder, "an-id", net)
    export(net, folder / "student.onnx")
    lows = [photograph(24, 24, seed) for seed in range(2)]
    quantize(folder / "student.onnx", folder / "student.int8.onnx", lows, "minmax")
    return folder


def run(*arguments: object, to: Path) -> list[dict[str, Any]]:
    """The rows that the command writes."""
    file = to / "rows.json"
    assert main(["quality", *map(str, arguments), "--json", str(file)]) == 0
    return json.loads(file.read_text())


def enlarged(source: object, folder: Path) -> tuple[float, float]:
    """What the table should say, by hand."""
    found = []
    for path in list_photos(folder):
        high = crop_to_multiple(read_photo(path), 4)
        low = downscale(high, 4)
        large = upscale(low, 4) if source is None else load_teacher(str(source), 4).answer(low, 4)
        found.append((psnr_y(large, high, 4), ssim_y(large, high, 4)))
    psnr, ssim = np.mean(found, axis=0)
    return float(psnr), float(ssim)


def test_every_kind_of_model_is_measured_as_it_answers(
    world: Path, models: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = photographs(tmp_path / "mine")
    sources = {
        "ESRGAN (teacher)": world / "teacher.safetensors",
        "student small": models,
        "ONNX (student)": models / "student.onnx",
        "ONNX (student.int8)": models / "student.int8.onnx",
    }
    rows = run("--data", folder, "--model", *sources.values(), to=tmp_path)
    assert [row["method"] for row in rows] == ["bicubic", *sources]
    assert all(row["set"] == "mine" and row["origin"] == "measured" for row in rows)
    assert all(row["pictures"] == 2 for row in rows)
    for row, source in zip(rows, (None, *sources.values()), strict=True):
        # A session with more threads may add in another order.
        assert (row["psnr"], row["ssim"]) == pytest.approx(enlarged(source, folder), abs=2e-3)
        assert row["source"] == (source and str(source))
    bicubic, esrgan, student, exported, int8 = rows
    assert bicubic["gflops"] is bicubic["memory_mb"] is bicubic["memory_of"] is None
    assert esrgan["memory_mb"] == load_teacher(esrgan["source"], 4).params * 4 / 1e6
    assert student["memory_of"] == "parameters" and exported["memory_of"] == "file"
    assert exported["memory_mb"] == (models / "student.onnx").stat().st_size / 1e6
    assert student["gflops"] == pytest.approx(exported["gflops"]) == int8["gflops"]
    assert abs(exported["psnr"] - student["psnr"]) < 0.01
    printed = capsys.readouterr().out
    assert "mine, x4, 2 pictures" in printed and "published" not in printed
    assert f"{student['gflops']:.2f}" in printed and "(file)" in printed


def test_published_rows_stand_where_the_name_of_the_set_does(
    world: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folders = [photographs(tmp_path / name) for name in ("set5", "BSDS100", "mine")]
    rows = run("--data", *folders, "--model", world / "teacher.safetensors", to=tmp_path)
    published = [row for row in rows if row["origin"] == "published"]
    by_set = {name: [r for r in published if r["set"] == name] for name in ("set5", "BSDS100")}
    assert len(published) == sum(map(len, by_set.values()))
    assert {r["method"]: r["psnr"] for r in by_set["set5"]} == {
        "bicubic": 28.42, "ESRGAN (PSNR-oriented)": 32.73, "VDSR": 31.35, "AGD": 31.79,
        "IMDN": 32.21, "RFDN": 32.24, "RLFN-NTIRE": 32.10,
    }  # fmt: skip
    assert {r["method"]: r["psnr"] for r in by_set["BSDS100"]} == {
        "bicubic": 25.96, "ESRGAN (PSNR-oriented)": 27.85, "VDSR": 27.29, "AGD": 27.41,
    }  # fmt: skip
    assert all(row["source"] and row["pictures"] is None for row in published)
    measured = [row for row in rows if row["origin"] == "measured"]
    assert {row["method"] for row in measured} == {"bicubic", "ESRGAN (teacher)"}
    assert not {r["psnr"] for r in measured} & {r["psnr"] for r in published}
    joint = capsys.readouterr().out.split("cost and PSNR, x4")[1]
    agd = next(line for line in joint.splitlines() if "AGD" in line)
    assert re.findall(r"[\d.]+|-(?= )|published", agd) == [
        "110.90", "1.80", "31.79", "27.41", "-", "published",
    ]  # fmt: skip


def test_published_figures_are_of_scale_4(tmp_path: Path) -> None:
    folder = photographs(tmp_path / "Set5")
    rows = run("--data", folder, "--scale", 2, to=tmp_path)
    assert [(row["method"], row["origin"]) for row in rows] == [("bicubic", "measured")]
    high = crop_to_multiple(read_photo(folder / "0.png"), 2)
    other = crop_to_multiple(read_photo(folder / "1.png"), 2)
    found = [psnr_y(upscale(downscale(h, 2), 2), h, 2) for h in (high, other)]
    assert rows[0]["psnr"] == pytest.approx(np.mean(found))


def test_what_papers_publish_is_consistent() -> None:
    assert [published_set(n) for n in ("SET14", "b100", "urban100", "Set", "Set5x")] == [
        "Set14", "BSD100", "Urban100", None, None,
    ]  # fmt: skip
    bicubic = PUBLISHED[0].psnr
    for method in PUBLISHED:
        assert all(value >= bicubic[name] for name, value in method.psnr.items())
        assert set(method.ssim) <= set(method.psnr) <= set(bicubic)


def test_a_data_set_with_its_own_inputs_is_measured_from_ours(tmp_path: Path) -> None:
    root = tmp_path / "DIV2K"
    high = photographs(root / "DIV2K_valid_HR")
    photographs(root / "DIV2K_valid_LR_bicubic/X4", ((13, 16), (16, 12)))
    (row,) = run("--data", root, to=tmp_path)
    assert row["set"] == "DIV2K"
    assert (row["psnr"], row["ssim"]) == pytest.approx(enlarged(None, high))


def test_sets_and_models_of_one_name_are_told_apart(world: Path, tmp_path: Path) -> None:
    paths = [Path("/a/x/Set5"), Path("/b/x/Set5"), Path("/b/y/Set5"), Path("/b/Set14")]
    assert told_apart(paths) == ["a/x/Set5", "b/x/Set5", "y/Set5", "Set14"]
    one, other = (
        photographs(tmp_path / "one/Set5"),
        photographs(tmp_path / "other/Set5", ((52, 65),)),
    )
    teachers = []
    for name in "ab":
        teachers.append(tmp_path / name / "teacher.safetensors")
        teachers[-1].parent.mkdir()
        teachers[-1].write_bytes((world / "teacher.safetensors").read_bytes())
    rows = run("--data", one, other, one, "--model", *teachers, teachers[0], to=tmp_path)
    measured = [row for row in rows if row["origin"] == "measured"]
    assert [(row["set"], row["pictures"]) for row in measured] == [
        *[("one/Set5", 2)] * 3, *[("other/Set5", 1)] * 3,
    ]  # fmt: skip
    assert [row["method"] for row in measured[:3]] == [
        "bicubic", *(f"ESRGAN (teacher) {path}" for path in teachers),
    ]  # fmt: skip
    assert {row["set"] for row in rows if row["method"] == "AGD"} == {"one/Set5", "other/Set5"}


def test_one_broken_file_in_ten_is_left_out(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = photographs(tmp_path / "mine", ((40, 40),) * 20)
    (folder / "3.png").write_bytes(b"no header")
    whole = (folder / "7.png").read_bytes()
    (folder / "7.png").write_bytes(whole[: len(whole) // 2])  # breaks when it is decoded
    (row,) = run("--data", folder, to=tmp_path)
    assert row["pictures"] == 18
    printed = "".join(capsys.readouterr().out.split())
    assert re.search(r"leftout,itcannotberead:\S*3\.png", printed)
    assert re.search(r"leftout:\S*7\.png:expected", printed)


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--data", "empty"], "empty: expected images, or one of"),
        (["--data", "nowhere"], "nowhere: expected a folder of images, found no such folder"),
        (["--data", "tiny"], "expected a photograph of at least 32x32 pixels, found 30x40"),
        (["--data", "torn"], "expected a readable image"),
        (["--data", "fine", "--model", "text.pth"], "text.pth: expected a checkpoint"),
        (["--data", "fine", "--model", "nothing.pth"], "nothing.pth: expected a teacher"),
        (["--data", "fine", "--model", "empty"], "a student's folder with architecture.yaml"),
        (["--data", "fine", "--model", "teacher.safetensors", "--scale", "2"], "found scale 4"),
    ],
)
def test_bad_input_is_one_line(
    arguments: list[str], said: str, world: Path, tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    monkeypatch.chdir(tmp_path)
    photographs(tmp_path / "fine")
    photographs(tmp_path / "tiny", ((40, 30),))
    (tmp_path / "empty").mkdir()
    whole = (photographs(tmp_path / "torn") / "0.png").read_bytes()
    (tmp_path / "torn/0.png").write_bytes(whole[: len(whole) // 2])
    (tmp_path / "text.pth").write_text("this is not a checkpoint")
    (tmp_path / "teacher.safetensors").write_bytes((world / "teacher.safetensors").read_bytes())
    assert main(["quality", *arguments, "--json", "rows.json"]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("evo_agd: ") and said in line
    assert not (tmp_path / "rows.json").exists()


def test_a_bracket_in_a_name_is_no_markup(tmp_path: Path, world: Path) -> None:
    folder, model = photographs(tmp_path / "set [red]"), tmp_path / "net[bold].safetensors"
    model.write_bytes((world / "teacher.safetensors").read_bytes())
    rows = run("--data", folder, "--model", model, to=tmp_path)
    assert [(r["set"], r["method"]) for r in rows] == [
        ("set [red]", "bicubic"), ("set [red]", "ESRGAN (net[bold])"),
    ]  # fmt: skip


# Cost


def counted(net: Callable[[torch.Tensor], torch.Tensor], height: int, width: int) -> int:
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        net(torch.rand(1, 3, height, width))
    return int(counter.get_total_flops()) // 2


@pytest.mark.parametrize("upsampler", ["shuffle", "shuffle_twice", "nearest"])
def test_onnx_files_cost_what_the_network_does(tmp_path: Path, upsampler: str) -> None:
    width = 0 if upsampler == "shuffle" else 6
    net = SRStudent(SRArchitecture(4, 8, BLOCKS, upsampler, width)).eval()
    export(net, tmp_path / "net.onnx")
    quantize(tmp_path / "net.onnx", tmp_path / "int8.onnx", [photograph(24, 24, 0)], "minmax")
    for height, width in ((20, 36), (40, 36)):
        expected = counted(net, height, width)
        assert onnx_macs(tmp_path / "net.onnx", height, width) == expected
        assert onnx_macs(tmp_path / "int8.onnx", height, width) == expected


def test_cost_grows_with_the_area_and_needs_no_time(world: Path) -> None:
    source = str(world / "teacher.safetensors")
    teacher = load_teacher(source, 4)
    small, large = (model_cost(source, teacher, (s, 2 * s)).gmacs for s in (16, 4096))
    assert small is not None and large == pytest.approx(small * 256**2)
    assert small * 1e9 == counted(teacher.net, 16, 32)  # which computes: it is left as it was


def test_transposed_convolutions_count_on_the_grid_of_their_input(tmp_path: Path) -> None:
    architecture = TranslationArchitecture((8, 8, 8), (Layer("conv3x3", 8),), (8, 8))
    net = student_of(architecture).eval()
    export(net, tmp_path / "net.onnx")
    assert onnx_macs(tmp_path / "net.onnx", 32, 40) == counted(net, 32, 40)


def test_what_cannot_be_counted_is_not_guessed(tmp_path: Path) -> None:
    def picky(x: torch.Tensor) -> torch.Tensor:
        return x.repeat_interleave(4, 2).repeat_interleave(4, 3) * float(x.mean() > 0)

    teacher = Teacher(picky, "picky", 0, "")
    cost = model_cost("file.py:picky", teacher, (16, 16))
    assert cost.gmacs is None and cost.memory_mb is None
    weight = numpy_helper.from_array(np.ones((3, 3, 1, 1), np.float32), "weight")
    given, answer = (
        helper.make_tensor_value_info(n, TensorProto.FLOAT, ("n", 3, "h", "w")) for n in "xy"
    )
    nodes = [
        helper.make_node("NonZero", ["x"], ["some"]),
        helper.make_node("Shape", ["some"], ["size"]),
        helper.make_node("Expand", ["x", "size"], ["large"]),
        helper.make_node("Conv", ["large", "weight"], ["y"]),
    ]
    graph = helper.make_graph(nodes, "unknown", [given], [answer], [weight])
    onnx.save(helper.make_model(graph), tmp_path / "unknown.onnx")
    assert onnx_macs(tmp_path / "unknown.onnx", 16, 16) is None


# The published figures, where the data are


def test_bicubic_and_vdsr_reach_what_is_published(shared: Path) -> None:
    source = str(shared / "weights/vdsr_x4.safetensors")
    rows = quality([str(shared / "data/sr/Set5")], [source], 4, Console(quiet=True))
    found = {(row["method"], row["origin"]): row for row in rows}
    bicubic, vdsr = found["bicubic", "measured"], found["VDSR (vdsr_x4)", "measured"]
    assert bicubic["psnr"] == pytest.approx(28.42, abs=0.05)
    assert vdsr["psnr"] == pytest.approx(31.35, abs=0.02)
    assert vdsr["gflops"] == pytest.approx(696.99, abs=0.01)
    for row in (bicubic, vdsr):
        name = row["method"].split()[0]
        assert row["ssim"] == pytest.approx(found[name, "published"]["ssim"], abs=0.003)
