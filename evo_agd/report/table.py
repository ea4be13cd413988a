"""The front as a table in the terminal, and the columns that each task has."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from rich.table import Table

from evo_agd.report.retraining import agreement, shift_of
from evo_agd.run.directory import RunDirectory

MILLISECONDS = {"latency_ms": "table ms", "latency_int8_ms": "INT8 table ms"}

Row = dict[str, Any]


@dataclass(frozen=True)
class Column:
    """A figure of the students: its heading, and how it is taken from metrics and written."""

    heading: str
    form: str
    key: str | Callable[[Mapping[str, Any]], float | None]

    def text(self, metrics: Mapping[str, Any]) -> str:
        """The cell; empty where the run has no such figure."""
        value = self.key(metrics) if callable(self.key) else metrics.get(self.key)
        return "" if value is None else self.form.format(value)


DEPLOYED = (
    Column("MB", "{:.3f}", "fp32_mb"),
    Column("INT8", "{:.3f}", "int8_mb"),
    Column("ms", "{:.1f}", "ms_fp32"),
    Column("INT8", "{:.1f}", "ms_int8"),
    Column("peak MB", "{:.0f}", "peak_mb_fp32"),
    Column("INT8", "{:.0f}", "peak_mb_int8"),
)
BESIDE_THE_TEACHER = (
    Column("smaller", "{:.0f}x", "times_smaller"),
    Column("faster", "{:.1f}x", "times_faster"),
)
AWAY = Column("teacher", "{:+.2f}", "db_from_teacher")
INT8_FILE = (
    Column("kB", "{:.0f}", lambda m: 1000 * m["int8_mb"]),
    Column("ms", "{:.1f}", "ms_int8"),
)
SUPER_RESOLUTION = (Column("PSNR", "{:.2f}", "psnr"), Column("INT8", "{:.2f}", "psnr_int8"))
SIMILARITY = (Column("SSIM", "{:.4f}", "ssim"), Column("INT8", "{:.4f}", "ssim_int8"))
GAINED = Column("bicubic+", "{:+.2f}", lambda m: m["psnr"] - m["psnr_bicubic"])
TRANSLATION = (
    Column("PSNR", "{:.2f}", "psnr"),
    Column("INT8", "{:.2f}", "psnr_int8"),
    Column("to FP32", "{:.1f}", "psnr_int8_to_fp32"),
    Column("L1", "{:.3f}", "l1"),
    Column("perceptual", "{:.3f}", "perceptual"),
)
SHARES = (
    Column("class", "{:.0%}", "class_share"),
    Column("INT8", "{:.0%}", "class_share_int8"),
)


def columns_of(metrics: Mapping[str, Any], *, brief: bool = False) -> tuple[Column, ...]:
    """The columns for students with these metrics; ``brief`` ones fit into 80 characters."""
    measured = tuple(c for c in BESIDE_THE_TEACHER if c.key in metrics)
    if "psnr_bicubic" in metrics:
        if brief:
            return (*SUPER_RESOLUTION, *INT8_FILE, *measured, AWAY)
        alike = SIMILARITY if "ssim" in metrics else ()
        return (*SUPER_RESOLUTION, *measured, AWAY, GAINED, *alike, *DEPLOYED)
    shares = SHARES if "class_share" in metrics else ()
    if brief:
        return (*TRANSLATION[:3], *shares, *INT8_FILE, *measured)
    frechet = [Column(n.upper() if n == "fid" else "Frechet", "{:.1f}", n)
               for n in ("frechet", "fid") if n in metrics]  # fmt: skip
    return (*TRANSLATION[:3], *measured, *shares, *TRANSLATION[3:], *frechet, *DEPLOYED)


def references(metrics: Mapping[str, Any], *, brief: bool = False) -> str:
    """One sentence on what the figures are, and what they are compared with."""
    if "psnr_bicubic" in metrics:
        return "; ".join(
            [
                f"Y-PSNR in dB (bicubic {metrics['psnr_bicubic']:.2f}, "
                f"teacher {metrics['psnr_teacher']:.2f})",
                *_teacher(metrics),
            ]
        )
    parts = ["RGB-PSNR in dB to the teacher's output"]
    if not brief:
        parts = ["RGB-PSNR in dB and mean difference (0..1) to the teacher's output"]
    if "features" in metrics and not brief:
        parts.append(f"perceptual and Frechet distances on {metrics['features']}")
    if "class_share_teacher" in metrics:
        real = metrics.get("class_share_target")
        parts.append(
            f"class: share that it calls the target class (inputs "
            f"{metrics['class_share_input']:.0%}, teacher {metrics['class_share_teacher']:.0%}"
            + (f", real ones {real:.0%})" if real is not None else ")")
        )
    for name in ("frechet", "fid"):
        if f"{name}_teacher" in metrics and not brief:
            parts.append(
                f"{name} to real ones (inputs {metrics[f'{name}_input']:.1f}, "
                f"teacher {metrics[f'{name}_teacher']:.1f})"
            )
    return "; ".join([*parts, *_teacher(metrics)])


def _teacher(metrics: Mapping[str, Any]) -> list[str]:
    """What INT8 files are so many times smaller and faster than."""
    if not metrics.get("teacher_ms") or not metrics.get("teacher_mb"):
        return []
    gmacs, peak = metrics.get("teacher_gmacs"), metrics.get("teacher_peak_mb")
    known = [f"{gmacs:.1f} GMACs"] if gmacs else []
    known += [f"{metrics['teacher_mb']:.2f} MB", f"{metrics['teacher_ms']:.0f} ms"]
    known += [f"{peak:.0f} MB at its peak"] if peak else []
    where = (
        "" if metrics["teacher_runtime"] == "ONNX Runtime" else f", in {metrics['teacher_runtime']}"
    )
    return [f"INT8 files beside the teacher in FP32 ({', '.join(known)}{where})"]


def front_rows(run: RunDirectory) -> list[Row]:
    """Front members and others that were retrained, cheapest first.

    Each has its student's metrics under ``student`` or None, what stopped its retraining early
    under ``stopped`` or None, and whether it is of the ``front``.

    Raises:
        InputError: the search is not done.
    """
    outcomes = run.read_outcomes()
    members = {m["id"]: {**m, "front": True} for m in run.read_front()}
    for name, entry in outcomes.items():
        figures = {k: v for k, v in entry.items() if k not in ("scores", "stopped")}
        members.setdefault(name, {**figures, "front": False})
    rows = []
    for name, member in members.items():
        metrics = run.student(name) / "metrics.json"
        student = json.loads(metrics.read_text()) if metrics.is_file() else None
        ended = outcomes[name]["stopped"] if name in outcomes and not student else None
        rows.append({**member, "student": student, "stopped": ended})
    return sorted(rows, key=lambda r: (r["gmacs"], r["id"]))


def size_of_front(rows: list[Row]) -> int:
    """How many of the rows are of the front."""
    return sum(row["front"] for row in rows)


def _retrained(row: Row) -> tuple[str, str]:
    """What a member reached, and how much more that is than its supernet score."""
    metrics = row["student"]
    if not metrics:
        return ("stopped" if row["stopped"] else ""), ""
    shift = shift_of(metrics)
    if shift is None:
        return f"{metrics['psnr']:.2f}", ""
    return f"{metrics['psnr_retrained']:.2f}", f"{shift:+.2f}"


def front_table(run: RunDirectory, rows: list[Row] | None = None) -> Table:
    """The whole front, cheapest first, by its supernet scores, and what else was retrained."""
    rows = front_rows(run) if rows is None else rows
    size = size_of_front(rows)
    others = f", {len(rows) - size} others that were retrained" if size < len(rows) else ""
    table = Table(
        title=f"Pareto front: {size} members{others}",
        caption="GMACs at the space's input size, convolutions only; PSNR in dB, in the supernet "
        "and retrained, on the pictures of the search",
    )
    timed = [name for name in MILLISECONDS if any(name in row for row in rows)]
    table.add_column("id", overflow="fold")
    latency = [MILLISECONDS[name] for name in timed]
    for heading in ("GMACs", "params", *latency, "distillation", "PSNR", "retrained", "gain"):
        table.add_column(heading, justify="right", no_wrap=True)
    for row in rows:
        cells = [row["id"], f"{row['gmacs']:.2f}", f"{row['params']:,}"]
        cells += [f"{row[name]:.1f}" for name in timed]
        cells += [f"{row['distillation_loss']:.4f}", f"{row['psnr']:.2f}", *_retrained(row)]
        table.add_row(*cells)
    return table


def student_table(rows: list[Row]) -> Table | None:
    """What the retrained members reached; None if there are none yet."""
    ready = [r for r in rows if r["student"]]
    if not ready:
        return None
    first = ready[0]["student"]
    size, columns = first["ms_size"], columns_of(first, brief=True)
    table = Table(
        title=f"{len(ready)} students, retrained and quantized",
        caption=f"{references(first, brief=True)}; ONNX Runtime at {size}x{size}, "
        f"{first['ms_threads']} threads. {agreement(rows)}".strip(),
    )
    table.add_column("id", overflow="fold")
    table.add_column("GMACs", justify="right", no_wrap=True)
    for column in columns:
        table.add_column(column.heading, justify="right", no_wrap=True)
    for row in ready:
        cells = [column.text(row["student"]) for column in columns]
        table.add_row(row["id"], f"{row['gmacs']:.2f}", *cells)
    return table
