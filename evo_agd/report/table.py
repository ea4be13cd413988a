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
    "gain": ("over bicubic", "{:+.2f}"),
    "fp32_mb": ("MB", "{:.2f}"),
    "int8_mb": ("INT8 MB", "{:.3f}"),
    "ms_fp32": ("ms", "{:.1f}"),
    "ms_int8": ("INT8 ms", "{:.1f}"),
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
    """The front; members that were retrained show what they reached."""
    rows = front_rows(run) if rows is None else rows
    students = [r["student"] for r in rows if r["student"]]
    size = f", ms at {students[0]['ms_size']}x{students[0]['ms_size']}" if students else ""
    table = Table(
        title=f"Pareto front: {len(rows)} members, {len(students)} retrained",
        caption=f"GMACs at the space's input size, convolutions only; Y-PSNR in dB{size}",
    )
    table.add_column("id", no_wrap=True)
    for heading in ("GMACs", "params", "distillation", "supernet PSNR"):
        table.add_column(heading, justify="right")
    for heading, _ in STUDENT_COLUMNS.values():
        table.add_column(heading, justify="right", style="bold")
    for row in rows:
        cells = [row["id"], f"{row['gmacs']:.2f}", f"{row['params']:,}"]
        cells += [f"{row['distillation_loss']:.4f}", f"{row['psnr']:.2f}"]
        if student := row["student"]:
            student = {**student, "gain": student["psnr"] - student["psnr_bicubic"]}
            cells += [form.format(student[key]) for key, (_, form) in STUDENT_COLUMNS.items()]
        table.add_row(*cells)
    return table
