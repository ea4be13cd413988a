"""The plots of the page: data gathered here, drawn by plotly."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import plotly.graph_objects as go

from evo_agd.report.table import MILLISECONDS, Row

INK, MUTED, ACCENT, WARM = "#24303d", "#9aa5b1", "#1f6feb", "#d1572b"


def _layout(figure: go.Figure, x: str, y: str) -> go.Figure:
    figure.update_layout(
        template="simple_white",
        height=420,
        margin={"l": 60, "r": 20, "t": 20, "b": 50},
        font={"family": "system-ui, sans-serif", "color": INK},
        xaxis={"title": x},
        yaxis={"title": y},
        legend={"orientation": "h", "y": 1.08},
        hoverlabel={"font": {"family": "ui-monospace, monospace"}},
    )
    return figure


def _milliseconds(row: Row) -> str:
    """What a member of the front may be there for beside GMACs."""
    known = [f"{row[name]:.1f} {words}" for name, words in MILLISECONDS.items() if name in row]
    return "".join(f"<br>{text}" for text in known)


def front_figure(
    rows: Sequence[Row], history: Sequence[dict[str, str]], levels: Mapping[str, float], y: str
) -> go.Figure:
    """Every evaluated architecture, the front, and what students reached; GMACs against dB.

    Args:
        levels: what to draw as horizontal lines, in dB by name.
        y: title of the axis.
    """
    figure = go.Figure()
    members = [r for r in rows if r["front"]]
    on_front = {r["id"] for r in members}
    others = [h for h in history if h["id"] not in on_front]
    figure.add_scatter(
        x=[float(h["gmacs"]) for h in others],
        y=[float(h["psnr"]) for h in others],
        text=[h["id"] for h in others],
        name="evaluated",
        mode="markers",
        marker={"color": MUTED, "size": 5, "opacity": 0.5},
        hovertemplate="%{text}<br>%{x:.2f} GMACs, %{y:.2f} dB",
    )
    figure.add_scatter(
        x=[r["gmacs"] for r in members],
        y=[r["psnr"] for r in members],
        text=[r["id"] + _milliseconds(r) for r in members],
        name="front (supernet score)",
        mode="markers",
        marker={"color": ACCENT, "size": 8},
        hovertemplate="%{text}<br>%{x:.2f} GMACs, %{y:.2f} dB",
    )
    ready = [r for r in rows if r["student"]]
    for key, name, symbol in (("psnr", "student", "diamond"), ("psnr_int8", "INT8", "square-open")):
        figure.add_scatter(
            x=[r["gmacs"] for r in ready],
            y=[r["student"][key] for r in ready],
            text=[r["id"] for r in ready],
            name=name,
            mode="lines+markers",
            marker={"color": WARM, "size": 10, "symbol": symbol},
            line={"color": WARM, "width": 1, "dash": "solid" if key == "psnr" else "dot"},
            hovertemplate="%{text}<br>%{x:.2f} GMACs, %{y:.2f} dB",
        )
    for name, level in levels.items():
        figure.add_hline(
            y=level, line={"color": MUTED, "dash": "dash", "width": 1}, annotation_text=name
        )
    return _layout(figure, "GMACs", y)


def progress_figure(volumes: Sequence[Sequence[float]]) -> go.Figure:
    """Hypervolume over evaluations."""
    figure = go.Figure()
    figure.add_scatter(
        x=[v[0] for v in volumes],
        y=[v[1] for v in volumes],
        mode="lines+markers",
        line={"color": ACCENT},
        name="hypervolume",
    )
    return _layout(figure, "evaluated architectures", "hypervolume of the archive (box = 1)")


def as_div(figure: Any, name: str) -> str:
    """A figure as an HTML fragment; the page carries plotly's script once."""
    html: str = figure.to_html(
        full_html=False,
        include_plotlyjs=False,
        div_id=name,
        config={"displaylogo": False, "responsive": True},
    )
    return html
