from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from evo_agd.errors import InputError
from evo_agd.nets import teachers
from evo_agd.nets.teachers import TeacherCache, load_teacher, teacher_path
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
        with pytest.raises(InputError, match="spandrel recognises"):
            load_teacher(str(tmp_path / name), 4)
    with pytest.raises(InputError, match="scale 2, found scale 4"):
        load_teacher(str(world / "teacher.safetensors"), 2)


def test_tiles_leave_no_seams(world: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    teacher = load_teacher(str(world / "teacher.safetensors"), 4)
    low = photograph(40, 50, 3)
    whole = teacher.answer(low, 4)
    monkeypatch.setattr(teachers, "TILE", 24)
    tiled = teacher.answer(low, 4)
    assert tiled.shape == (160, 200, 3)
    assert np.abs(tiled.astype(int) - whole).max() <= 1


def test_answers_are_computed_once(world: Path, tmp_path: Path) -> None:
    teacher = load_teacher(str(world / "teacher.safetensors"), 4)
    low = photograph(12, 16, 4)
    first = TeacherCache(tmp_path, teacher, 4).answer(low)

    def refuse(x: torch.Tensor) -> torch.Tensor:
        raise AssertionError("computed again")

    silent = teachers.Teacher(refuse, teacher.architecture, teacher.params, teacher.digest)
    assert np.array_equal(TeacherCache(tmp_path, silent, 4).answer(low), first)
    with pytest.raises(AssertionError, match="computed again"):
        TeacherCache(tmp_path, silent, 4).answer(low[:, :12])
