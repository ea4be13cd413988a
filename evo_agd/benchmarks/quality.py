"""``benchmark quality``: PSNR and SSIM of networks on test sets, beside what papers publish.

Each photograph is cut to a multiple of the scale, made small by
:func:`~evo_agd.train.images.downscale`, and enlarged again: bicubically and by every model. Given
low-resolution counterparts are not looked at, so that all figures are of one kind.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from itertools import count
from pathlib import Path
from statistics import fmean
from typing import Any

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from evo_agd.benchmarks.published_figures import INPUT_SIZE, PUBLISHED, SCALE, published_set
from evo_agd.errors import InputError
from evo_agd.nets.model_cost import ModelCost, model_cost
from evo_agd.nets.teachers import Teacher, load_teacher
from evo_agd.progress import bar
from evo_agd.train.images import Photo, crop_to_multiple, downscale, read_photo, upscale
from evo_agd.train.loop import cores, threads
from evo_agd.train.prepare import TOLERATED, check_sources
from evo_agd.train.quality import psnr_y, ssim_y
from evo_agd.train.sources import Source, super_resolution_sources

BICUBIC = "bicubic"
MEASURED, PUBLISHED_ROW = "measured", "published"
# Input pixels a side: what every teacher answers, and more than the window of SSIM needs.
SMALLEST = 8
# Output pixels up to which a network sees the whole picture; an ESRGAN takes 2 kB a pixel. Seams of
# tiles are nothing that the papers' figures have in them.
WHOLE = 4_000_000

Enlarge = Callable[[Photo], Photo]


@dataclass(frozen=True)
class ImageSet:
    """A test set: its name in the tables, the folder's own name, and its photographs."""

    name: str
    folder: str
    sources: Sequence[Source]


@dataclass(frozen=True)
class Method:
    """A model that is measured."""

    name: str
    source: str
    teacher: Teacher

    def enlarge(self, low: Photo, scale: int) -> Photo:
        """(h, w, 3) to (h * scale, w * scale, 3)."""
        whole = low.shape[0] * low.shape[1] * scale**2 <= WHOLE
        teacher = replace(self.teacher, tiled=self.teacher.tiled and not whole)
        return teacher.answer(low, scale)


@dataclass(frozen=True)
class Score:
    """Means over the pictures of a test set."""

    psnr: float
    ssim: float
    pictures: int


def open_sets(folders: Sequence[str], scale: int, console: Console) -> list[ImageSet]:
    """The test sets behind folders, each once; says which pictures cannot be read.

    Raises:
        InputError: a folder without images, with too small ones, or with more than one broken in
            ten.
    """
    paths = {Path(folder).absolute(): folder for folder in folders}
    names = told_apart(list(paths))
    sets = []
    for (path, folder), name in zip(paths.items(), names, strict=True):
        found = super_resolution_sources(folder, None, scale, validation=True)
        found = [Source(source.name, source.photo) for source in found]
        sound = check_sources(found, scale, SMALLEST)
        for source in found:
            if source not in sound:
                console.print(f"left out, it cannot be read: {escape(str(source.photo))}")
        sets.append(ImageSet(name, path.name, sound))
    return sets


def told_apart(paths: Sequence[Path]) -> list[str]:
    """The names of different folders, with as many parents as tell those of one name apart."""

    def name(path: Path) -> str:
        depth = next(d for d in count(1) if sum(p.parts[-d:] == path.parts[-d:] for p in paths) < 2)
        return "/".join(path.parts[-depth:])

    return [name(path) for path in paths]


def load_methods(models: Sequence[str], scale: int) -> list[Method]:
    """The models, each once, by names that tell them apart.

    Raises:
        InputError: as :func:`~evo_agd.nets.teachers.load_teacher`.
    """
    found = []
    for source in dict.fromkeys(models):
        teacher = load_teacher(source, scale)
        name, stem = teacher.architecture, Path(source).stem
        # ONNX files, students and functions have their name in what they are called already.
        found.append(Method(name if stem in name else f"{name} ({stem})", source, teacher))
    names = [method.name for method in found]
    return [
        replace(m, name=f"{m.name} {m.source}") if names.count(m.name) > 1 else m for m in found
    ]


def measure(
    images: ImageSet, methods: dict[str, Enlarge], scale: int, console: Console
) -> dict[str, Score]:
    """What each method reaches on a test set.

    Raises:
        InputError: more than one picture in ten turns out broken when decoded (fewer are left out).
    """
    values: dict[str, list[tuple[float, float]]] = {name: [] for name in methods}
    broken = 0
    with bar(console, escape(images.name), len(images.sources)) as tick:
        for done, source in enumerate(images.sources):
            try:
                high = crop_to_multiple(read_photo(source.photo), scale)
            except InputError as error:
                broken += 1
                if broken * TOLERATED > len(images.sources):
                    raise
                console.print(f"left out: {escape(str(error))}")
                continue
            low = downscale(high, scale)
            for name, enlarge in methods.items():
                tick(done, escape(f"{source.name}, {name}"))
                answer = enlarge(low)
                values[name].append((psnr_y(answer, high, scale), ssim_y(answer, high, scale)))
        tick(len(images.sources), "")
    return {
        name: Score(fmean(p for p, _ in pairs), fmean(s for _, s in pairs), len(pairs))
        for name, pairs in values.items()
    }


def quality(
    folders: Sequence[str], models: Sequence[str], scale: int, console: Console
) -> list[dict[str, Any]]:
    """Measure bicubic enlargement and the models on test sets; prints the tables.

    Args:
        folders: of high-resolution photographs, or the roots of data sets, as
            :func:`~evo_agd.train.sources.super_resolution_sources` takes them.
        models: as :func:`~evo_agd.nets.teachers.load_teacher` takes them.

    Returns:
        A row for each test set and method: ``set``, ``method``, ``origin`` (``measured`` or
        ``published``), ``source`` (the model, or the paper), ``pictures``, ``psnr`` in dB,
        ``ssim``, ``gflops`` and ``memory_mb`` as of :class:`ModelCost`, ``memory_of``
        (``parameters`` or ``file``), and a ``note``; None for what is not known.

    Raises:
        InputError: a folder or a model that cannot be used; before anything is measured, but for
            photographs that break only when they are decoded.
    """
    sets = open_sets(folders, scale, console)
    with threads(cores()):
        methods = load_methods(models, scale)
        enlarging: dict[str, Enlarge] = {BICUBIC: partial(upscale, scale=scale)}
        enlarging |= {m.name: partial(m.enlarge, scale=scale) for m in methods}
        scores = [measure(images, enlarging, scale, console) for images in sets]
    costs = {m.name: model_cost(m.source, m.teacher, INPUT_SIZE) for m in methods}
    sources = {m.name: m.source for m in methods}
    rows = []
    for images, reached in zip(sets, scores, strict=True):
        for name, score in reached.items():
            cost = costs.get(name, ModelCost(None, None, file=False))
            rows.append(_measured(images, name, sources.get(name), score, cost))
        if scale == SCALE:
            rows += _published(images)
    for images, reached in zip(sets, scores, strict=True):
        console.print(_set_table(images.name, rows, reached[BICUBIC].pictures, scale))
    console.print(_joint_table([images.name for images in sets], rows, scale))
    return rows


def _measured(
    images: ImageSet, name: str, source: str | None, score: Score, cost: ModelCost
) -> dict[str, Any]:
    memory_of = "file" if cost.file else "parameters"
    return {
        "set": images.name,
        "method": name,
        "origin": MEASURED,
        "source": source,
        "pictures": score.pictures,
        "psnr": score.psnr,
        "ssim": score.ssim,
        "gflops": cost.gmacs,
        "memory_mb": cost.memory_mb,
        "memory_of": None if cost.memory_mb is None else memory_of,
        "note": None,
    }


def _published(images: ImageSet) -> list[dict[str, Any]]:
    known = published_set(images.folder)
    if known is None:
        return []
    return [
        {
            "set": images.name,
            "method": method.name,
            "origin": PUBLISHED_ROW,
            "source": method.source,
            "pictures": None,
            "psnr": method.psnr[known],
            "ssim": method.ssim.get(known),
            "gflops": method.gflops,
            "memory_mb": method.memory_mb,
            "memory_of": None if method.memory_mb is None else "parameters",
            "note": method.note,
        }
        for method in PUBLISHED
        if known in method.psnr
    ]


def text(value: float | None, digits: int) -> str:
    """A figure for a table."""
    return "-" if value is None else f"{value:.{digits}f}"


def _set_table(name: str, rows: list[dict[str, Any]], pictures: int, scale: int) -> Table:
    """Quality on one test set, measured rows first."""
    counted = f"{pictures} picture{'' if pictures == 1 else 's'}"
    table = Table(title=f"{escape(name)}, x{scale}, {counted}")
    table.add_column("method")
    table.add_column("PSNR dB", justify="right")
    table.add_column("SSIM", justify="right")
    table.add_column("from")
    for row in rows:
        if row["set"] == name:
            origin = row["origin"]
            if origin == PUBLISHED_ROW:
                origin += f": {row['source']}"
            figures = (text(row["psnr"], 2), text(row["ssim"], 4))
            table.add_row(escape(row["method"]), *figures, escape(origin))
    return table


def _joint_table(names: list[str], rows: list[dict[str, Any]], scale: int) -> Table:
    """Cost and PSNR on all test sets, a line a method, measured ones first."""
    height, width = INPUT_SIZE
    caption = f"GFLOPs: multiply-accumulates / 1e9 for 3x{height}x{width}, measured without biases "
    caption += "and activations. MB: parameters x 4 / 1e6, of an ONNX file its size."
    for name, note in dict.fromkeys((row["method"], row["note"]) for row in rows if row["note"]):
        caption += f" {name}: {note}."
    table = Table(title=f"cost and PSNR, x{scale}", caption=caption)
    table.add_column("method")
    for heading in ("GFLOPs", "MB", *(f"{escape(name)} dB" for name in names)):
        table.add_column(heading, justify="right")
    table.add_column("from")
    lines: dict[tuple[str, str], dict[str, dict[str, Any]]] = {}
    for origin in (MEASURED, PUBLISHED_ROW):
        for row in rows:
            if row["origin"] == origin:
                lines.setdefault((origin, row["method"]), {})[row["set"]] = row
    for (origin, method), found in lines.items():
        row = next(iter(found.values()))
        memory = text(row["memory_mb"], 2) + (" (file)" if row["memory_of"] == "file" else "")
        reached = [text(found[name]["psnr"] if name in found else None, 2) for name in names]
        table.add_row(escape(method), text(row["gflops"], 2), memory, *reached, origin)
    return table
