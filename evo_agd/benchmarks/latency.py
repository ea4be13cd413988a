"""``benchmark latency``: milliseconds of each layer of a space, and what their sums are worth."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from evo_agd.benchmarks.counting import open_space
from evo_agd.deploy.latency_table import (
    PASSES,
    TableError,
    load_table,
    measure_table,
    read_table,
    steps,
    table_error,
)
from evo_agd.errors import InputError
from evo_agd.files import write_json
from evo_agd.progress import bar
from evo_agd.train.loop import cores


def latency(
    console: Console,
    path: Path,
    to: Path,
    *,
    members: int,
    threads: int | None,
    int8: bool,
    check: bool,
) -> dict[str, Any]:
    """Measure a space's layers and write the table, then compare its sums with built networks.

    Args:
        path: a search-space file.
        to: the table's file.
        members: random networks to compare with, 2 or more.
        threads: of ONNX Runtime; None: one a core.
        int8: quantized layers and networks.
        check: only compare, for a table that is there; what it says of threads and precision holds.

    Returns:
        What is in the table's file now.

    Raises:
        InputError: not a search space; a table is in the way, or with ``check`` none is there or
            it is of another space.
    """
    space = open_space(path)
    precision = "int8" if int8 else "fp32"
    if check:
        unsaid: dict[str, Any] = {
            "threads": threads or cores(),
            "precision": precision,
            "machine": "elsewhere",
        }
        table = unsaid | load_table(to)
    elif to.exists():
        raise InputError(to, "a file that does not exist yet (--check reports on one)", "one there")
    else:
        with bar(console, "layers", steps(space)) as tick:
            table = measure_table(
                space, size=space.input_size, threads=threads or cores(), int8=int8, tick=tick
            )
        write_json(to, table)
    milliseconds = read_table(to, space)
    with bar(console, "networks", PASSES * members) as tick:
        found = table_error(
            space,
            milliseconds,
            members=members,
            size=space.input_size,
            threads=table["threads"],
            int8=table["precision"] == "int8",
            tick=tick,
        )
    table["check"] = asdict(found)
    write_json(to, table)
    _show(console, table, found)
    return table


def _show(console: Console, table: dict[str, Any], found: TableError) -> None:
    size = "x".join(map(str, table["input_size"]))
    machine = f"{table['precision']}, {size}, {table['threads']} thread(s), {table['machine']}"
    shown = Table(title=f"latency: {len(table['layers'])} layers, {machine}")
    shown.add_column("id", overflow="fold")
    for heading in ("predicted ms", "measured ms", "ratio"):
        shown.add_column(heading, justify="right", no_wrap=True)
    for row in found.members:
        predicted, measured = row["predicted_ms"], row["measured_ms"]
        figures = f"{predicted:.1f}", f"{measured:.1f}", f"{predicted / measured:.3f}"
        shown.add_row(row["id"], *figures)
    console.print(shown)
    tau = "-" if found.tau is None else f"{found.tau:.3f}"
    console.print(
        f"sums against {len(found.members)} built networks: error {found.median_error:.1%} "
        f"(median), {found.largest_error:.1%} (largest), tau {tau}"
    )
    console.print(
        f"divided by their common ratio {found.ratio:.2f} (far from 1 where the machine was busy): "
        f"{found.median_error_scaled:.1%} (median), {found.largest_error_scaled:.1%} (largest)"
    )
