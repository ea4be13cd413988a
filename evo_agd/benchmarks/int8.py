"""``benchmark int8``: what the students of a run take and give, in every form that they run in."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import nullcontext
from pathlib import Path
from statistics import median
from time import perf_counter
from typing import Any

import numpy as np
import torch
from rich.console import Console
from rich.table import Table
from torch import nn

from evo_agd.deploy.onnx_file import session
from evo_agd.deploy.students import FP32, INT8
from evo_agd.errors import InputError
from evo_agd.nets.students import read_student
from evo_agd.progress import bar
from evo_agd.report.table import columns_of, front_rows, references
from evo_agd.run.directory import RunDirectory
from evo_agd.train.loop import bf16_pays, cores, mixed, threads

WARM_UP = 3
FORMS = {
    "ort_fp32": "ORT FP32",
    "ort_int8": "ORT INT8",
    "torch_fp32": "torch FP32",
    "torch_channels_last": "channels last",
    "torch_bf16": "torch BF16",
}
"""ONNX Runtime; torch as it is, channels last, and BF16 autocast, which is channels last too."""


def _torch_form(net: nn.Module, x: torch.Tensor, *, bf16: bool) -> Callable[[], object]:
    def run() -> object:
        with torch.inference_mode(), mixed(True) if bf16 else nullcontext():
            return net(x)

    return run


def forms_of(folder: Path, size: int, count: int) -> dict[str, Callable[[], object]]:
    """One call of a student in each form, on the same input of ``size`` x ``size`` pixels.

    Args:
        folder: of the student.
        count: threads of ONNX Runtime.
    """
    x = np.random.default_rng(0).random((1, 3, size, size), dtype=np.float32)
    found: dict[str, Callable[[], object]] = {}
    for name, file in (("ort_fp32", FP32), ("ort_int8", INT8)):
        model = session(folder / file, count)
        feed = {model.get_inputs()[0].name: x}
        found[name] = lambda model=model, feed=feed: model.run(None, feed)  # type: ignore[misc]
    given = torch.from_numpy(x)
    last = given.contiguous(memory_format=torch.channels_last)
    plain = read_student(folder).eval()
    moved = read_student(folder).eval().to(memory_format=torch.channels_last)
    found["torch_fp32"] = _torch_form(plain, given, bf16=False)
    found["torch_channels_last"] = _torch_form(moved, last, bf16=False)
    if bf16_pays():
        found["torch_bf16"] = _torch_form(moved, last, bf16=True)
    return found


def alternating(calls: Mapping[str, Callable[[], object]], rounds: int) -> dict[str, list[float]]:
    """Milliseconds of each call, ``rounds`` times, in turn: what disturbs one disturbs all."""
    taken: dict[str, list[float]] = {name: [] for name in calls}
    for turn in range(WARM_UP + rounds):
        for name, call in calls.items():
            began = perf_counter()
            call()
            if turn >= WARM_UP:
                taken[name].append(1000 * (perf_counter() - began))
    return taken


def side_by_side(calls: Mapping[str, Callable[[], object]], rounds: int) -> dict[str, list[float]]:
    """Those of ONNX Runtime in turn, then those of torch.

    Both have threads that wait for more work on the cores that the other one needs: in turn with
    torch, INT8 took twice its time.
    """
    ours = {name: call for name, call in calls.items() if name.startswith("ort")}
    others = {name: call for name, call in calls.items() if name not in ours}
    return alternating(ours, rounds) | alternating(others, rounds)


def ratios(taken: Mapping[str, list[float]]) -> dict[str, float]:
    """How many times faster INT8 in ONNX Runtime is than each form: medians over the rounds."""
    fast = taken["ort_int8"]
    return {
        f"{name}_to_int8": median(a / b for a, b in zip(times, fast, strict=True))
        for name, times in taken.items()
        if name != "ort_int8"
    }


def int8(
    run: RunDirectory, console: Console, *, size: int | None = None, rounds: int = 30
) -> list[dict[str, Any]]:
    """Print the figures of every student of a run and time its forms side by side.

    Args:
        size: side of the input in pixels; without, the run's ``int8.latency_size``.
        rounds: in each of which every form runs once.

    Returns:
        A row a student: what ``metrics.json`` has, ``<form>_ms`` and ``<form>_to_int8``.

    Raises:
        InputError: no student is ready.
    """
    ready = [row for row in front_rows(run) if row["student"]]
    if not ready:
        raise InputError(run.path, "a run with students", "none")
    side = size or int(ready[0]["student"]["ms_size"])
    count, rows = cores(), []
    with bar(console, "timing", len(ready)) as tick, threads(count):
        for index, row in enumerate(ready):
            taken = side_by_side(forms_of(run.student(row["id"]), side, count), rounds)
            milliseconds = {f"{name}_ms": median(values) for name, values in taken.items()}
            rows.append({"id": row["id"], **row["student"], **milliseconds, **ratios(taken),
                         "size": side, "threads": count})  # fmt: skip
            tick(index + 1, row["id"])
    _print(console, rows)
    return rows


def _print(console: Console, rows: list[dict[str, Any]]) -> None:
    first = rows[0]
    figures = Table(title="students, FP32 and INT8", caption=references(first))
    times = Table(
        title=f"milliseconds at {first['size']}x{first['size']}, {first['threads']} threads, "
        "and how many times faster INT8 is",
        caption="medians in one process; ONNX Runtime's two in turn, then torch's",
    )
    forms = [name for name in FORMS if f"{name}_ms" in first]
    columns = columns_of(first)
    for table in (figures, times):
        table.add_column("id", overflow="fold", min_width=16)
    for heading in ("GMACs", "params", *(column.heading for column in columns), "FP32 left"):
        figures.add_column(heading, justify="right")
    for name in forms:
        times.add_column(FORMS[name], justify="right")
        if name != "ort_int8":
            times.add_column("x", justify="right")
    for row in rows:
        cells = [f"{row['gmacs']:.2f}", f"{row['params']:,}"]
        cells += [column.text(row) for column in columns]
        figures.add_row(row["id"], *cells, str(len(row["int8_floating"])))
        cells = []
        for name in forms:
            cells.append(f"{row[f'{name}_ms']:.1f}")
            if name != "ort_int8":
                cells.append(f"{row[f'{name}_to_int8']:.2f}")
        times.add_row(row["id"], *cells)
    console.print(figures)
    console.print(times)
