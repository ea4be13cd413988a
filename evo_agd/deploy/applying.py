"""A network applied to many pictures, in the memory and on the cores that there are."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Executor, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from time import perf_counter
from typing import Any

from PIL import Image

from evo_agd.deploy.model_file import ModelFile
from evo_agd.deploy.picture_files import Picture, read_picture, write_picture
from evo_agd.deploy.picture_lists import Task
from evo_agd.deploy.tiles import Layout, blended, layout, padded, rounded, tile_answer
from evo_agd.deploy.working_memory import Room
from evo_agd.errors import InputError

CANVAS = 5  # bytes a pixel of an answer: Pillow keeps RGB in 4, alpha is enlarged beside it
DECODED = 8  # of an input: RGB twice while it is decoded, alpha

Tick = Callable[[int, str], None]
Sheet = Callable[[Path, Picture, Image.Image], None]

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Done:
    """What became of a picture; ``error`` says why nothing did."""

    task: Task
    tiles: int = 0
    seconds: float = 0.0
    error: str | None = None

    def figures(self) -> dict[str, Any]:
        """For JSON; the size is width and height of the input, as it is upright."""
        found: dict[str, Any] = {"input": str(self.task.source), "output": str(self.task.target)}
        if self.error is not None:
            return {"input": found["input"], "error": self.error}
        size = [self.task.width, self.task.height]
        return found | {"size": size, "seconds": round(self.seconds, 3), "tiles": self.tiles}


class _StoppedError(Exception):
    """Somebody else failed, or Ctrl-C."""


class Applying:
    """One network, at work on pictures.

    Args:
        memory: bytes for tiles to be worked on at once. Pictures that are worked on beside each
            other take as much again; one is always allowed.
        sheet: called with where a comparison goes, the picture and its answer.
    """

    def __init__(self, model: ModelFile, *, memory: int, sheet: Sheet | None = None) -> None:
        self.model = model
        self.memory = memory
        self.tick: Tick = lambda done, note: None
        self.sheet = sheet
        self.pictures, self.tiles = Room(memory), Room(memory)
        self.lock = threading.Lock()
        self.stop = threading.Event()
        self.ticks = 0

    def layout(self, task: Task) -> Layout:
        """How a picture is cut, by the size in its header."""
        return layout(task.height, task.width, self.model.nature, self.memory)

    def count(self, tasks: Sequence[Task]) -> int:
        """Tiles of all of them."""
        return sum(self.layout(task).count for task in tasks)

    def warn(self, tasks: Sequence[Task]) -> None:
        """Say which pictures cannot be seen whole by a network that should."""
        cut = [task for task in tasks if self.layout(task).blended]
        if cut:
            more = f" and {len(cut) - 1} more" if len(cut) > 1 else ""
            log.warning(
                "%s%s: the network looks at whole pictures, which do not fit the memory; tiles are "
                "blended and differ in colour from the whole (--memory)", cut[0].source, more,
            )  # fmt: skip

    def run(self, tasks: Sequence[Task], workers: int, tick: Tick) -> list[Done]:
        """All pictures, several at once; the outputs are the same for any number of workers.

        Args:
            workers: threads that a tile each is worked on in.
            tick: called with tiles done, of :meth:`count`, and a picture's name.

        Raises:
            InputError: an output cannot be written. Pictures that cannot be read are logged.
        """
        self.tick = tick
        self.warn(tasks)
        if workers == 1:
            return [self._one(task, None) for task in tasks]
        with ThreadPoolExecutor(workers) as tiles, ThreadPoolExecutor(workers) as pictures:
            waiting = [pictures.submit(self._one, task, tiles) for task in tasks]
            try:
                return [future.result() for future in waiting]
            except BaseException:
                self.stop.set()
                pictures.shutdown(wait=False, cancel_futures=True)
                raise

    def _one(self, task: Task, pool: Executor | None) -> Done:
        scale = self.model.nature.scale
        need = task.height * task.width * (DECODED + CANVAS * scale**2)
        with self.pictures.taken(need):
            if self.stop.is_set():
                raise _StoppedError
            began = perf_counter()
            try:
                picture = read_picture(task.source)
            except InputError as error:
                log.warning("%s", error)
                self._tick(self.layout(task).count, task)
                return Done(task, error=f"expected {error.expected}, found {error.found}")
            cut, canvas = self._answer(task, picture, pool)
            if task.sheet is not None and self.sheet is not None:
                self.sheet(task.sheet, picture, canvas)
            write_picture(task.target, task.kind, canvas, picture)
            return Done(task, cut.count, perf_counter() - began)

    def _answer(
        self, task: Task, picture: Picture, pool: Executor | None
    ) -> tuple[Layout, Image.Image]:
        """The network's answer as an ``L`` or ``RGB`` image, rounded once."""
        height, width = picture.colour.shape[:2]
        nature = self.model.nature
        scale = nature.scale
        cut = layout(height, width, nature, self.memory)
        canvas = Image.new("L" if picture.grey else "RGB", (width * scale, height * scale))
        pixels = padded(picture.colour, nature)
        room = cut.area * nature.bytes_per_pixel

        def put(answer: Any, left: int, top: int) -> None:
            piece = Image.fromarray(rounded(answer, picture.grey))
            with self.lock:
                canvas.paste(piece, (left, top))

        def tile(at: int) -> None:
            row, column = cut.rows[at // len(cut.columns)], cut.columns[at % len(cut.columns)]
            with self._working(room):
                answer = tile_answer(self.model, pixels, row, column, scale)
                put(answer, column.first * scale, row.first * scale)
            self._tick(1, task)

        if cut.blended:
            with self._working(room * 2):
                for top, rows in blended(self.model, pixels, cut, scale):
                    put(rows, 0, top)
            self._tick(cut.count, task)
        else:
            for _ in (pool.map if pool else map)(tile, range(cut.count)):
                pass
        return cut, canvas

    @contextmanager
    def _working(self, room: int) -> Iterator[None]:
        with self.tiles.taken(room):
            if self.stop.is_set():
                raise _StoppedError
            yield

    def _tick(self, tiles: int, task: Task) -> None:
        with self.lock:
            self.ticks += tiles
            self.tick(self.ticks, task.source.name)
