"""The front as a table in the terminal."""

from __future__ import annotations

import json
from typing import Any

from rich.table import Table

from evo_agd.run.directory import RunDirectory

Row = dict[str, Any]

STUDENT_COLUMNS = {
    "psnr": ("PSNR", "{:.2f}"),
    "psnr_int8": ("INT8", "{:.2f}"),
    "gain": ("bicubic+", "{:+.2f}"),
    "fp32_mb": ("MB", "{:.2f}"),
    "int8_mb": ("INT8", "{:.2f}"),
    "ms_fp32": ("ms", "{:.0f}"),
    "ms_int8": ("INT8", "{:.0f}"),
}


def front_rows(run: RunDirectory) -> list[Row]:
    """Front members, cheapest first, each with its student's metrics under ``student`` or None.

    Raises:
        InputError: the search is not done.
    """
    rows = []
    for member in run.read_front():
        metrics = run.student(member["id"]) / "metrics.json"
        student = json.loads(metrics.read_text()) if metrics.is_file() else None
        rows.append({**member, "student": student})
    return rows


def front_table(run: RunDirectory, rows: list[Row] | None = None) -> Table:
    """The whole front, cheapest first, by its supernet scores."""
    rows = front_rows(run) if rows is None else rows
    table = Table(
        title=f"Pareto front: {len(rows)} members",
        caption="GMACs at the space's input size, convolutions only; Y-PSNR in dB",
    )
    table.add_column("id", overflow="fold")
    for heading in ("GMACs", "params", "distillation", "PSNR", "retrained"):
        table.add_column(heading, justify="right", no_wrap=True)
    for row in rows:
        reached = f"{row['student']['psnr']:.2f}" if row["student"] else ""
        cells = [row["id"], f"{row['gmacs']:.2f}", f"{row['params']:,}"]
        cells += [f"{row['distillation_loss']:.4f}", f"{row['psnr']:.2f}", reached]
        table.add_row(*cells)
    return table


def student_table(rows: list[Row]) -> Table | None:
    """What the retrained members reached; None if there are none yet."""
    ready = [r for r in rows if r["student"]]
    if not ready:
        return None
    size, first = ready[0]["student"]["ms_size"], ready[0]["student"]
    table = Table(
        title=f"{len(ready)} students, retrained and quantized",
        caption=f"Y-PSNR in dB (bicubic {first['psnr_bicubic']:.2f}, teacher "
        f"{first['psnr_teacher']:.2f}); file sizes; ONNX Runtime at {size}x{size}, "
        f"{first['ms_threads']} threads",
    )
    table.add_column("id", overflow="fold")
    table.add_column("GMACs", justify="right", no_wrap=True)
    for heading, _ in STUDENT_COLUMNS.values():
        table.add_column(heading, justify="right", no_wrap=True)
    for row in ready:
        values = {**row["student"], "gain": row["student"]["psnr"] - row["student"]["psnr_bicubic"]}
        cells = [form.format(values[key]) for key, (_, form) in STUDENT_COLUMNS.items()]
        table.add_row(row["id"], f"{row['gmacs']:.2f}", *cells)
    return table
