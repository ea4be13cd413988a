"""From a trained network to a finished student folder with its measured figures."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from evo_agd.config.settings import Quantization
from evo_agd.deploy.accuracy import quantize_within
from evo_agd.deploy.latency import milliseconds
from evo_agd.deploy.measures import Measures
from evo_agd.deploy.memory import peak_megabytes
from evo_agd.deploy.onnx_file import export, metadata_of, run, session
from evo_agd.files import write_json
from evo_agd.nets.build import Student
from evo_agd.nets.integer_form import integer_form
from evo_agd.nets.students import write_student
from evo_agd.train.images import Photo
from evo_agd.train.pairs import Pair
from evo_agd.train.quality import psnr_rgb

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
    paths = {"fp32": half_done / FP32, "int8": half_done / INT8}
    says = metadata_of(net)
    export(net, paths["fp32"], says)

    def outputs_of(path: Path) -> list[Photo]:
        model = session(path, threads)
        return [run(model, low) for low in inputs]

    exact = outputs_of(paths["fp32"])
    figures = measures.of(exact)
    with tempfile.TemporaryDirectory() as place:
        form = Path(place) / "form.onnx"
        export(integer_form(net), form, says)
        floating = quantize_within(
            form,
            paths["int8"],
            calibration,
            settings,
            lambda path: figures["psnr"] - measures.psnr(outputs_of(path)),
        )
    rounded = outputs_of(paths["int8"])
    size = settings.latency_size
    taken = milliseconds({k: session(path, threads) for k, path in paths.items()}, size)
    metrics = {
        **known,
        **figures,
        **{f"{key}_int8": value for key, value in measures.of(rounded).items()},
        # Each picture's own, then the mean: what a typical one looks like.
        "psnr_int8_to_fp32": float(np.mean(list(map(psnr_rgb, rounded, exact)))),
        "int8_floating": floating,
        **{f"{key}_mb": path.stat().st_size / 1e6 for key, path in paths.items()},
        **{f"ms_{key}": taken[key] for key in paths},
        **{f"peak_mb_{key}": peak_megabytes(path, size, threads) for key, path in paths.items()},
        "ms_size": size,
        "ms_threads": threads,
    }
    metrics |= beside_the_teacher(metrics)
    write_json(half_done / METRICS, metrics)
    shutil.rmtree(folder, ignore_errors=True)
    half_done.rename(folder)
    return metrics


def beside_the_teacher(metrics: Mapping[str, Any]) -> dict[str, float]:
    """How many times smaller and faster the INT8 file is, and how many dB it is away.

    Nothing where a figure of the teacher is not known. Of a translation, whose PSNR is to the
    teacher's output, the teacher has none.
    """
    found = {}
    for ours, theirs, name in (
        ("int8_mb", "teacher_mb", "times_smaller"),
        ("ms_int8", "teacher_ms", "times_faster"),
        ("gmacs", "teacher_gmacs", "times_cheaper"),
    ):
        if metrics.get(theirs) and metrics.get(ours):
            found[name] = metrics[theirs] / metrics[ours]
    if "psnr_teacher" in metrics:
        found["db_from_teacher"] = metrics["psnr_int8"] - metrics["psnr_teacher"]
    return found
