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
from evo_agd.report.table import front_rows
from evo_agd.run.directory import RunDirectory
from evo_agd.train.pairs import Pair


def write_page(run: RunDirectory, settings: Settings, validation: Sequence[Pair]) -> None:
    """Write the page of a finished run."""
    rows = front_rows(run)
    ready = [r for r in rows if r["student"]]
    students = [r["student"] for r in ready]
    volumes = json.loads(run.search_state.read_text())["volumes"]
    history = run.read_history()
    shown = [ready[0]["id"], ready[-1]["id"]] if len(ready) > 1 else [r["id"] for r in ready]
    environment = Environment(
        loader=PackageLoader("evo_agd.report"), autoescape=True, undefined=StrictUndefined
    )
    figure = front_figure(rows, history, students[0]["psnr_bicubic"], students[0]["psnr_teacher"])
    html = environment.get_template("page.html.j2").render(
        name=run.path.name,
        path=str(run.path),
        plotly=get_plotlyjs(),
        front=as_div(figure, "front"),
        progress=as_div(progress_figure(volumes), "progress"),
        rows=rows,
        ready=ready,
        evaluated=len(history),
        strips=strips(run, shown, validation),
        settings=dump(settings),
    )
    write_text(run.report, html)
