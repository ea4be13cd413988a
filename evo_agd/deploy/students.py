"""From a trained network to a finished student folder with its measured figures."""

from __future__ import annotations

import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from evo_agd.config.settings import Quantization
from evo_agd.deploy.latency import milliseconds
from evo_agd.deploy.measures import Measures
from evo_agd.deploy.onnx_file import export, quantize, run, session
from evo_agd.files import write_json
from evo_agd.nets.build import Student
from evo_agd.nets.students import write_student
from evo_agd.train.images import Photo
from evo_agd.train.pairs import Pair

CALIBRATION = 3  # random-stream key
METRICS, FP32, INT8 = "metrics.json", "student.onnx", "student.int8.onnx"


def calibration_inputs(pairs: Sequence[Pair], count: int, side: int, seed: int) -> list[Photo]:
    """Square input crops of one size from training photographs, spread over all of them."""
    rng = np.random.default_rng([seed, CALIBRATION])
    size = min(side, *(edge for pair in pairs for edge in pair.low.shape[:2]))
    crops = []
    for index in range(count):
        low = np.asarray(pairs[index % len(pairs)].low)
        top = int(rng.integers(low.shape[0] - size + 1))
        left = int(rng.integers(low.shape[1] - size + 1))
        crops.append(low[top : top + size, left : left + size])
    return crops


def finish_student(
    folder: Path,
    name: str,
    net: Student,
    *,
    calibration: Sequence[Photo],
    inputs: Sequence[Photo],
    measures: Measures,
    settings: Quantization,
    threads: int,
    known: Mapping[str, Any],
) -> dict[str, Any]:
    """Fold, export, quantize and measure one student; its folder appears when all of it is done.

    Args:
        inputs: the validation inputs that ``measures`` judges the outputs for.
        known: figures that go into ``metrics.json`` as they are (cost, supernet score, references).

    Returns:
        The figures in ``metrics.json``.
    """
    net = net.folded()
    half_done = folder.parent / f".{folder.name}.partial"
    shutil.rmtree(half_done, ignore_errors=True)
    write_student(half_done, name, net)
    export(net, half_done / FP32)
    quantize(half_done / FP32, half_done / INT8, calibration, settings.method)
    models = {
        "fp32": session(half_done / FP32, threads),
        "int8": session(half_done / INT8, threads),
    }
    figures = {k: measures.of([run(m, low) for low in inputs]) for k, m in models.items()}
    taken = milliseconds(models, settings.latency_size)
    metrics = {
        **known,
        **figures["fp32"],
        **{f"{key}_int8": value for key, value in figures["int8"].items()},
        "fp32_mb": (half_done / FP32).stat().st_size / 1e6,
        "int8_mb": (half_done / INT8).stat().st_size / 1e6,
        "ms_fp32": taken["fp32"],
        "ms_int8": taken["int8"],
        "ms_size": settings.latency_size,
        "ms_threads": threads,
    }
    write_json(half_done / METRICS, metrics)
    shutil.rmtree(folder, ignore_errors=True)
    half_done.rename(folder)
    return metrics
