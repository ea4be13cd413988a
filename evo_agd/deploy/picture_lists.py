"""Which pictures become which files: found, named, and checked before anything is done."""

from __future__ import annotations

import logging
import os
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from evo_agd.deploy.picture_files import ENDINGS, LARGEST, SUFFIXES, kind_of
from evo_agd.errors import InputError
from evo_agd.train.images import is_photo, photo_size

SHEET = ".compare.png"

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Task:
    """A picture and the file that its answer goes to."""

    source: Path
    target: Path
    kind: str
    """Of the target: ``png``, ``jpeg``, ``webp`` or ``tiff``."""
    height: int
    width: int
    sheet: Path | None = None
    """Where a comparison goes."""

    @property
    def outputs(self) -> tuple[Path, ...]:
        """The files that are written."""
        return (self.target,) if self.sheet is None else (self.target, self.sheet)


@dataclass(frozen=True)
class Tasks:
    """What there is to do, what is done already, and the files that are no pictures."""

    open: tuple[Task, ...]
    done: tuple[Task, ...]
    broken: tuple[InputError, ...]


def list_tasks(
    inputs: Sequence[Path],
    to: Path,
    *,
    scale: int,
    form: str = "keep",
    sheets: bool = False,
    overwrite: bool = False,
    kept: Iterable[Path] = (),
    others: Iterable[Path] = (),
) -> Tasks:
    """Pictures and where their answers go; folders are walked, their structure is kept.

    What lies in ``to`` is nobody's input, unless ``to`` is a given folder itself. Only headers are
    read.

    Args:
        form: ``png``, ``jpeg``, ``webp`` or ``keep``; kept are PNG, JPEG, WebP and TIFF, other
            files become PNG, and so do answers that are too large for their format.
        sheets: whether a comparison is written beside each answer.
        overwrite: do what is there already again, instead of leaving it.
        kept: files beside the pictures that no output may replace.
        others: files that are written beside the outputs.

    Raises:
        InputError: no such file or folder, no picture in a folder, a single file that is none, two
            pictures with one output, or an output that is one of the pictures.
    """
    tasks, broken = [], []
    for source, name in _found(inputs, to):
        try:
            tasks.append(_task(source, to / name, scale, form, sheets))
        except InputError as error:
            if source in inputs:
                raise
            broken.append(error)
    originals = [task.source for task in tasks] + [Path(error.where) for error in broken]
    _check(tasks, [*originals, *kept], others)
    done = tuple(task for task in tasks if not overwrite and task.target.exists())
    waiting = tuple(task for task in tasks if overwrite or not task.target.exists())
    return Tasks(waiting, done, tuple(broken))


def _found(inputs: Sequence[Path], to: Path) -> Iterator[tuple[Path, Path]]:
    """Each picture once, with its place below ``to``."""
    seen: set[Path] = set()
    for given in inputs:
        if given.is_dir():
            paths = list(_walked(given, to))
            if not paths:
                raise InputError(given, "a folder with pictures", "none")
            pairs = [(path, path.relative_to(given)) for path in paths]
        elif given.is_file():
            pairs = [(given, Path(given.name))]
        else:
            raise InputError(given, "a picture or a folder of pictures", "no such file")
        for path, name in pairs:
            place = path.absolute()
            if place not in seen:
                seen.add(place)
                yield path, name


def _walked(folder: Path, to: Path) -> Iterator[Path]:
    own = to.resolve()
    for place, folders, files in os.walk(folder):
        inside = [f for f in sorted(folders) if not f.startswith(".")]
        folders[:] = [f for f in inside if (Path(place) / f).resolve() != own]
        paths = (Path(place) / name for name in sorted(files) if not name.startswith("."))
        yield from filter(is_photo, paths)


def _task(source: Path, wanted: Path, scale: int, form: str, sheets: bool) -> Task:
    """The task of one picture by its header.

    Raises:
        InputError: not a picture.
    """
    kind = kind_of(source) or "png" if form == "keep" else form
    height, width = photo_size(source)
    if max(height, width) * scale > LARGEST.get(kind, max(height, width) * scale):
        log.warning(
            "%s: %dx%d pixels are too many for %s, it becomes PNG",
            source, width * scale, height * scale, kind.upper(),
        )  # fmt: skip
        kind = "png"
    target = wanted
    if wanted.suffix.lower() not in SUFFIXES[kind]:
        target = wanted.with_suffix(ENDINGS[kind])
    sheet = target.with_suffix(SHEET) if sheets else None
    return Task(source, target, kind, height, width, sheet)


def _check(tasks: Sequence[Task], originals: Sequence[Path], others: Iterable[Path]) -> None:
    """Two files in one place, and files in the place of originals, are errors."""
    taken: dict[Path, Path] = {path.resolve(): path for path in others}
    for task in tasks:
        for output in task.outputs:
            place = output.resolve()
            if place in taken:
                found = f"{taken[place]} and {task.source}"
                raise InputError(output, "one picture for each output", found)
            taken[place] = task.source
    known = {_identity(path): path for path in originals}
    for output in taken:
        if output.exists() and (original := known.get(_identity(output))) is not None:
            raise InputError(output, "an output that is no input", f"the input {original}")


def _identity(path: Path) -> tuple[int, int]:
    """The file behind all links to it."""
    status = path.stat()
    return status.st_dev, status.st_ino
