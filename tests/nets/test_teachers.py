from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from evo_agd.errors import InputError
from evo_agd.nets import teachers
from evo_agd.nets.teachers import load_teacher, teacher_path
from evo_agd.train.images import crop_to_multiple, downscale, list_photos, read_photo
from evo_agd.train.quality import psnr_y
from tests.conftest import photograph


def test_the_bundled_teacher_is_a_small_esrgan() -> None:
    teacher = load_teacher("bundled", 4)
    assert teacher.architecture == "ESRGAN"
    assert teacher_path("bundled").stat().st_size <= 4_000_000


def test_the_bundled_teacher_reaches_30_8_db_on_set5(shared: Path) -> None:
    teacher = load_teacher("bundled", 4)
    highs = [crop_to_multiple(read_photo(p), 4) for p in list_photos(shared / "data/sr/Set5")]
    scores = [psnr_y(teacher.answer(downscale(h, 4), 4), h, 4) for h in highs]
    assert np.mean(scores) >= 30.8


def test_a_full_size_esrgan_is_recognised(shared: Path) -> None:
    teacher = load_teacher(str(shared / "weights/rrdb_x4_realsr_df2k.safetensors"), 4)
    assert teacher.params == 16_697_987


def test_what_is_no_teacher_is_refused(world: Path, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no such file"):
        load_teacher(str(tmp_path / "nowhere.pth"), 4)
    for name in ("text.pth", "text.safetensors", "text.weird"):
        (tmp_path / name).write_text("this is not a checkpoint")
        with pytest.raises(
            InputError, match=f"{name}: expected a checkpoint of an archi.* found Val"
        ):
            load_teacher(str(tmp_path / name), 4)
    with pytest.raises(InputError, match="scale 2, found scale 4"):
        load_teacher(str(world / "teacher.safetensors"), 2)
    save_file({"some.weight": torch.ones(1)}, tmp_path / "other.safetensors")
    with pytest.raises(InputError, match=r"found keys some\.weight"):
        load_teacher(str(tmp_path / "other.safetensors"), 4)
    with pytest.raises(InputError, match=r"architecture\.yaml, found a folder"):
        load_teacher(str(tmp_path), 4)
    with pytest.raises(InputError, match="one of auto, unit, symmetric, found half"):
        load_teacher("bundled", 4, value_range="half")


def test_a_student_of_ours_is_a_teacher(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    net = torch.nn.Upsample(scale_factor=4)
    for name in (teachers.ARCHITECTURE, teachers.WEIGHTS):
        (tmp_path / name).write_text(name)
    monkeypatch.setattr(teachers, "read_student", lambda folder: net)
    teacher = load_teacher(str(tmp_path), 4)
    x = torch.rand(1, 3, 9, 10)
    assert teacher.architecture == f"student {tmp_path.name}"
    assert torch.equal(teacher.net(x), net(x))
    with pytest.raises(InputError, match="scale 1, found scale 4"):
        load_teacher(str(tmp_path), 1)


def test_a_range_that_was_set_is_kept_to(world: Path) -> None:
    source = str(world / "teacher.safetensors")
    unit, symmetric = (load_teacher(source, 4, value_range=r).net for r in ("unit", "symmetric"))
    x = torch.rand(1, 3, 12, 12)
    assert torch.allclose(symmetric(x), unit(x * 2 - 1) / 2 + 0.5)


def test_a_translation_sees_the_whole_picture(world: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(teachers, "TILE", 8)
    seen = []

    def net(x: torch.Tensor) -> torch.Tensor:
        seen.append(tuple(x.shape))
        return x

    low = photograph(20, 30, 1)
    assert np.array_equal(teachers.Teacher(net, "", 0, "", tiled=False).answer(low, 1), low)
    assert seen == [(1, 3, 20, 30)]


def test_tiles_leave_no_seams(world: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    teacher = load_teacher(str(world / "teacher.safetensors"), 4)
    low = photograph(40, 50, 3)
    whole = teacher.answer(low, 4)
    monkeypatch.setattr(teachers, "TILE", 24)
    tiled = teacher.answer(low, 4)
    assert tiled.shape == (160, 200, 3)
    assert np.abs(tiled.astype(int) - whole).max() <= 1
