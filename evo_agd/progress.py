"""Progress bars with an ETA, one a stage."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from time import monotonic

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)

log = logging.getLogger(__name__)


@contextmanager
def bar(console: Console, title: str, total: int) -> Iterator[Callable[[int, str], None]]:
    """A bar to call with (steps done, note); where there is no terminal, a line when it ends."""
    columns = (
        TextColumn("{task.description:<24}"),
        BarColumn(bar_width=24),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TextColumn("left"),
        TimeRemainingColumn(),
        TextColumn("{task.fields[note]}"),
    )
    with Progress(*columns, console=console, refresh_per_second=4) as progress:
        task = progress.add_task(title, total=total, note="")
        log.info("%s: started", title)
        began = monotonic()

        def tick(done: int, note: str) -> None:
            progress.update(task, completed=done, note=note)

        yield tick
        log.info("%s: done in %.1f s", title, monotonic() - began)
