"""What the teacher takes where its students run: its figures beside theirs."""

from __future__ import annotations

import logging
import tempfile
from pathlib import Path
from statistics import median
from time import perf_counter
from typing import Any

import torch
from torch import Tensor, nn

from evo_agd.deploy.latency import milliseconds
from evo_agd.deploy.memory import peak_megabytes
from evo_agd.deploy.onnx_file import INPUT, quiet, session
from evo_agd.nets.model_cost import model_cost
from evo_agd.nets.probing import reason_of
from evo_agd.nets.teachers import Teacher, teacher_path

RUNS = 3  # of a teacher that is timed in torch

log = logging.getLogger(__name__)


class _Module(nn.Module):
    """What a teacher is called by, as a module that can be exported."""

    def __init__(self, teacher: Teacher) -> None:
        super().__init__()
        self.net = teacher.net

    def forward(self, x: Tensor) -> Tensor:
        return self.net(x)


def teacher_figures(
    teacher: Teacher, source: str, input_size: tuple[int, int], *, size: int, threads: int
) -> dict[str, Any]:
    """Cost, size, time and memory of a teacher, under names that begin with ``teacher_``.

    As an ONNX file in ONNX Runtime, as its students; where it cannot be exported, in torch, and
    ``teacher_runtime`` says so.

    Args:
        source: the ``teacher`` setting that it was loaded from.
        input_size: height and width at which GMACs are counted.
        size: side of the input at which it is timed.
        threads: of ONNX Runtime.
    """
    cost = model_cost(str(teacher_path(source)), teacher, input_size)
    found: dict[str, Any] = {"teacher_gmacs": cost.gmacs, "teacher_params": teacher.params}
    with tempfile.TemporaryDirectory() as folder:
        path = _as_onnx(teacher, source, Path(folder), size)
        if path is not None:
            taken = milliseconds({"teacher": session(path, threads)}, size, rounds=RUNS)["teacher"]
            found |= {
                "teacher_mb": path.stat().st_size / 1e6,
                "teacher_ms": taken,
                "teacher_peak_mb": peak_megabytes(path, size, threads),
                "teacher_runtime": "ONNX Runtime",
            }
            return found
    found |= {"teacher_mb": cost.memory_mb, "teacher_ms": _torch_milliseconds(teacher, size)}
    return found | {"teacher_peak_mb": None, "teacher_runtime": "torch"}


def _as_onnx(teacher: Teacher, source: str, folder: Path, size: int) -> Path | None:
    if source.lower().endswith(".onnx"):
        return Path(source)
    path = folder / "teacher.onnx"
    try:
        with quiet(), torch.no_grad():
            torch.onnx.export(
                _Module(teacher).eval(),
                (torch.rand(1, 3, size, size),),
                str(path),
                input_names=[INPUT],
                dynamo=True,
                external_data=False,
            )
    except Exception as error:  # the exporter's own of many kinds, and a user's code's
        log.info("%s is timed in torch: no ONNX, %s", teacher.architecture, reason_of(error))
        return None
    return path


def _torch_milliseconds(teacher: Teacher, size: int) -> float:
    x = torch.rand(1, 3, size, size).contiguous(memory_format=torch.channels_last)
    taken = []
    with torch.inference_mode():
        for turn in range(1 + RUNS):
            began = perf_counter()
            teacher.net(x)
            taken.append(1000 * (perf_counter() - began))
            if turn == 0:
                taken.clear()
    return median(taken)
