from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import Tensor

from evo_agd.deploy.students import beside_the_teacher
from evo_agd.deploy.teacher import teacher_figures
from evo_agd.nets.teachers import Teacher, load_teacher


def test_a_teacher_is_measured_as_its_students_are() -> None:
    """GMACs at the space's size; the rest of the ONNX file that it is exported to."""
    teacher = load_teacher("bundled", 4)
    found = teacher_figures(teacher, "bundled", (64, 64), size=16, threads=1)
    assert found["teacher_params"] == teacher.params and found["teacher_gmacs"] > 1
    assert found["teacher_mb"] * 1e6 == pytest.approx(4 * teacher.params, rel=0.15)
    assert found["teacher_ms"] > 0 and found["teacher_peak_mb"] > 0
    assert found["teacher_runtime"] == "ONNX Runtime"


def test_one_that_cannot_be_exported_is_timed_in_torch() -> None:
    def net(x: Tensor) -> Tensor:
        if float(x.mean()) > 2:  # what an exporter cannot follow
            return x
        return torch.from_numpy(x.numpy() * 0.5)

    teacher = Teacher(net, "a function", 0, "0" * 16)
    found = teacher_figures(teacher, "module:function", (16, 16), size=16, threads=1)
    assert found["teacher_runtime"] == "torch" and found["teacher_ms"] > 0
    assert found["teacher_mb"] is None and found["teacher_peak_mb"] is None


def test_nothing_is_said_of_what_is_not_known(tmp_path: Path) -> None:
    ours = {"int8_mb": 0.1, "ms_int8": 2.0, "gmacs": 1.0, "psnr_int8": 29.0}
    assert beside_the_teacher(ours) == {}
    known = {**ours, "teacher_mb": 2.0, "teacher_ms": None, "psnr_teacher": 30.0}
    found = beside_the_teacher(known)
    assert found == {
        "times_smaller": pytest.approx(20.0), "db_from_teacher": pytest.approx(-1.0),
    }  # fmt: skip
