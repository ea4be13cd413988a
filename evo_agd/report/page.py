"""``report.html``: one file that opens from disk and asks the network for nothing."""

from __future__ import annotations

import json
from collections.abc import Sequence

from jinja2 import Environment, PackageLoader, StrictUndefined
from plotly.offline import get_plotlyjs

from evo_agd.config import Settings, dump
from evo_agd.files import write_text
from evo_agd.report.figures import as_div, front_figure, progress_figure
from evo_agd.report.pictures import strips
from evo_agd.report.retraining import agreement, shift_of, stopped
from evo_agd.report.table import Column, columns_of, front_rows, references
from evo_agd.run.directory import RunDirectory
from evo_agd.train.pairs import Pair

STRIPS = 6  # validation photographs that are shown
PAGE_COLUMNS = (
    Column("GMACs", "{:.2f}", "gmacs"),
    Column("parameters", "{:,}", "params"),
    Column("PSNR supernet", "{:.2f}", "psnr_supernet"),
    Column("retrained", "{:.2f}", "psnr_retrained"),
    Column("difference", "{:+.2f}", shift_of),
)

WORDS = {
    "gmacs": "GMACs",
    "params": "parameters",
    "memory_mb": "memory",
    "int8_memory_mb": "INT8 memory",
    "latency_ms": "milliseconds",
    "latency_int8_ms": "INT8 milliseconds",
    "distillation_loss": "distance to the teacher",
    "psnr": "PSNR",
    "psnr_int8": "INT8 PSNR",
}


def write_page(run: RunDirectory, settings: Settings, validation: Sequence[Pair]) -> None:
    """Write the page of a finished run."""
    rows = front_rows(run)
    ready = [r for r in rows if r["student"]]
    first = ready[0]["student"]
    volumes = json.loads(run.search_state.read_text())["volumes"]
    history = run.read_history()
    shown = [ready[0]["id"], ready[-1]["id"]] if len(ready) > 1 else [r["id"] for r in ready]
    environment = Environment(
        loader=PackageLoader("evo_agd.report"), autoescape=True, undefined=StrictUndefined
    )
    translation = settings.scale == 1
    levels = {n: first[f"psnr_{n}"] for n in ("bicubic", "teacher") if f"psnr_{n}" in first}
    title = "PSNR to the teacher's output, dB" if translation else "Y-PSNR to the photographs, dB"
    html = environment.get_template("page.html.j2").render(
        name=run.path.name,
        path=str(run.path),
        plotly=get_plotlyjs(),
        front=as_div(front_figure(rows, history, levels, title), "front"),
        progress=as_div(progress_figure(volumes), "progress"),
        rows=[r for r in rows if r["front"]],
        ready=ready,
        columns=PAGE_COLUMNS + columns_of(first),
        references=references(first),
        agreement=agreement(rows),
        stopped=stopped(rows),
        evaluated=len(history),
        objectives=", ".join(WORDS[name] for name in settings.objectives),
        strips=strips(run, shown, validation[:STRIPS]),
        settings=dump(settings),
    )
    write_text(run.report, html)
