"""Milliseconds of ONNX models, measured side by side, and of one student alone."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Mapping
from pathlib import Path
from statistics import median
from time import perf_counter, thread_time

import numpy as np
import onnxruntime

from evo_agd.deploy.onnx_file import export, session
from evo_agd.deploy.quantizing import quantize
from evo_agd.nets.build import Student
from evo_agd.nets.integer_form import integer_form

WARM_UP = 3
ROUNDS = 15
LEAST = 3  # timed runs of a student, however long they take
MOST = 200
CALIBRATION = 16  # side of the random inputs that INT8 ranges are taken from: any will do for time


def clock(threads: int) -> Callable[[], float]:
    """What to time ONNX Runtime on the CPU with, in seconds.

    With one thread ONNX Runtime works in the one that calls it. Then its processor time is what is
    asked for: it does not count the time in which other processes had the core.
    """
    return thread_time if threads == 1 else perf_counter


def milliseconds(
    models: Mapping[str, onnxruntime.InferenceSession], size: int, *, rounds: int = ROUNDS
) -> dict[str, float]:
    """Median milliseconds of each model on one ``size`` x ``size`` input.

    The models take turns, so that whatever else the machine does meets all of them alike; ratios
    between them are steadier than the figures.
    """
    x = np.random.default_rng(0).random((1, 3, size, size), dtype=np.float32)
    taken: dict[str, list[float]] = {name: [] for name in models}
    for turn in range(WARM_UP + rounds):
        for name, model in models.items():
            feed = {model.get_inputs()[0].name: x}
            began = perf_counter()
            model.run(None, feed)
            if turn >= WARM_UP:
                taken[name].append(1000 * (perf_counter() - began))
    return {name: median(values) for name, values in taken.items()}


def quantized_for_timing(path: Path, channels: int) -> Path:
    """The INT8 counterpart of a model, beside it; its ranges are those of random inputs.

    Args:
        channels: of the model's input.
    """
    rng = np.random.default_rng(0)
    shape = (2, CALIBRATION, CALIBRATION, channels)
    result = path.with_suffix(".int8.onnx")
    quantize(path, result, list(rng.integers(0, 256, shape, dtype=np.uint8)), "minmax")
    return result


def measured_milliseconds(
    student: Student,
    *,
    size: tuple[int, int],
    threads: int = 1,
    int8: bool,
    seconds: float,
) -> float:
    """Median milliseconds of a student as it would be deployed, on one input.

    Exporting takes some 3 seconds of processor time beside ``seconds``. With one thread it is the
    processor time of the runs, so that workers may measure beside each other; they still share
    caches and memory, and figures of a busy machine are larger.

    Args:
        student: folded already. It comes back in FP32, contiguous and in evaluation mode.
        size: height and width of the input.
        threads: of ONNX Runtime.
        int8: quantize it, with ranges of random inputs: weights may have any values.
        seconds: how long to run it for, after warming up; at least 3 runs whatever they take.
    """
    now = clock(threads)
    taken: list[float] = []
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "student.onnx"
        export(integer_form(student) if int8 else student, path)
        model = session(quantized_for_timing(path, 3) if int8 else path, threads)
    x = np.random.default_rng(0).random((1, 3, *size), dtype=np.float32)
    feed = {model.get_inputs()[0].name: x}
    for _ in range(WARM_UP):
        model.run(None, feed)
    end = perf_counter() + seconds
    while len(taken) < LEAST or (perf_counter() < end and len(taken) < MOST):
        began = now()
        model.run(None, feed)
        taken.append(1000 * (now() - began))
    return median(taken)
