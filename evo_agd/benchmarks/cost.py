"""``benchmark cost``: multiply-accumulates and parameters, as counted here and as papers count.

Two conventions. GMACs are the multiplications that the convolutions do / 1e9. Papers take what thop
says: transposed convolutions on the grid of their output, and with some of its versions also one
operation for each bias added and each value that goes through a LeakyReLU.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

import yaml
from rich.console import Console
from rich.markup import escape
from rich.table import Table
from spandrel.architectures.ESRGAN import ESRGAN
from torch import nn

from evo_agd.benchmarks.counting import Count, count, open_space
from evo_agd.config.load import load, shipped
from evo_agd.errors import InputError
from evo_agd.nets.build import Space, student_of
from evo_agd.nets.published import VDSR, CycleGANGenerator
from evo_agd.nets.students import ARCHITECTURE, read_architecture
from evo_agd.space.genes import Genome, SearchSpace

INPUT_SIZE = (256, 256)  # of students, whose files name none
LARGE = (1024, 1024)  # VDSR works on the enlarged picture
SHIPPED = ("agd_esrgan_x4", "agd_cyclegan", "sr_x4_small", "esrgan_x4")
BILLION = 1e9
MIXED = 1000 * 2**20  # a thousand binary millions

HEADINGS = (
    "network",
    "input",
    "GMACs",
    "as papers",
    "published",
    "parameters",
    "MB",
    "published",
    "note",
)

Row = dict[str, Any]


@dataclass(frozen=True)
class Anchor:
    """A published network.

    Attributes:
        build: makes it; None where only its figures are published.
        shape: of its input, (N, C, H, W).
        gflops, megabytes: as published; megabytes None where the paper has none.
        extras: the published figure has biases and LeakyReLUs in it.
        unit: what the published figure counts in.
        note: where the figure is from, and why ours is another if it is.
    """

    name: str
    build: Callable[[], nn.Module] | None
    shape: tuple[int, int, int, int]
    gflops: float
    megabytes: float | None
    note: str
    extras: bool = False
    unit: float = BILLION


def rgb_vdsr() -> nn.Module:
    """VDSR's shape with 3 channels in and out: 20 convolutions without biases."""
    sizes = [3, *[64] * 19, 3]
    layers: list[nn.Module] = []
    for c_in, c_out in pairwise(sizes):
        layers += [nn.Conv2d(c_in, c_out, 3, padding=1, bias=False), nn.ReLU()]
    return nn.Sequential(*layers[:-1])


# AGD: Fu et al., ICML 2020, arXiv 2006.08198. GAN Compression: Li et al., CVPR 2020. CEC: Shu et
# al., ICCV 2019.
ANCHORS = (
    Anchor(
        "ESRGAN",
        ESRGAN,
        (1, 3, *INPUT_SIZE),
        1176.61,
        66.8,
        "in AGD's paper: biases (1.03 G) and LeakyReLUs (0.73 G) are in it",
        extras=True,
    ),
    Anchor(
        "VDSR, RGB",
        rgb_vdsr,
        (1, 3, *LARGE),
        699.36,
        2.67,
        "in AGD's paper; 0.007 % less than this shape has, we do not know why",
    ),
    Anchor(
        "VDSR, luma",
        VDSR,
        (1, 1, *LARGE),
        699.36,
        2.67,
        "the network in use has 1 channel in and out where the published figure fits 3",
    ),
    Anchor(
        "CycleGAN",
        CycleGANGenerator,
        (1, 3, *INPUT_SIZE),
        56.8,
        None,
        "in GAN Compression's paper; transposed convolutions on the output grid",
    ),
    Anchor(
        "CycleGAN, other unit",
        CycleGANGenerator,
        (1, 3, *INPUT_SIZE),
        54.17,
        None,
        "also quoted; the same 56,799,264,768 if a G is 1000 x 2^20",
        unit=MIXED,
    ),
    Anchor("AGD, x4", None, (1, 3, *INPUT_SIZE), 110.9, 1.8, "published only, not built here"),
    Anchor("AGD, horse2zebra", None, (1, 3, *INPUT_SIZE), 6.39, 4.48, "the same"),
    Anchor("CEC, horse2zebra", None, (1, 3, *INPUT_SIZE), 13.45, 10.16, "the same"),
)


def _row(
    name: str, size: Sequence[int], gmacs: float | None, papers: float | None, params: int | None
) -> Row:
    return {
        "name": name,
        "input_size": list(size),
        "gmacs": gmacs,
        "gflops_as_papers": papers,
        "gflops_published": None,
        "params": params,
        "memory_mb": None if params is None else params * 4 / 1e6,
        "memory_mb_published": None,
        "note": "",
    }


def anchor_row(anchor: Anchor) -> Row:
    """A published network, counted and beside its published figures."""
    size = anchor.shape[2:]
    if anchor.build is None:
        row = _row(anchor.name, size, None, None, None)
    else:
        found = count(anchor.build, anchor.shape)
        papers = found.with_extras if anchor.extras else found.output_grid_macs
        gmacs = found.macs / BILLION
        row = _row(anchor.name, size, gmacs, papers / anchor.unit, found.params)
        row |= _details(found)
    published = {"gflops_published": anchor.gflops, "memory_mb_published": anchor.megabytes}
    return row | published | {"note": anchor.note}


def _details(found: Count) -> Row:
    return {
        "macs": found.macs,
        "output_grid_macs": found.output_grid_macs,
        "bias_additions": found.bias_additions,
        "leaky_relus": found.leaky_relus,
    }


def published_macs(space: SearchSpace[Any], genome: Genome) -> int:
    """Multiply-accumulates of a member with transposed convolutions on the output's grid."""
    layers = space.layers(space.decode(genome))
    return sum(layer.published_macs(*space.input_size) for layer in layers)


def space_rows(name: str, space: Space) -> list[Row]:
    """The largest and the smallest member of a space, by multiply-accumulates."""

    def macs(genome: Genome) -> float:
        return space.cost(genome).gmacs

    rows = []
    largest, smallest = max(space.anchors(), key=macs), min(space.smallest(), key=macs)
    for which, genome in (("largest", largest), ("smallest", smallest)):
        cost = space.cost(genome)
        papers = published_macs(space, genome) / BILLION
        row = _row(f"{name}, {which}", space.input_size, cost.gmacs, papers, cost.params)
        rows.append(row | {"id": space.id_of(genome)})
    return rows


def student_row(path: Path) -> Row:
    """A student, from its folder or its ``architecture.yaml``, built and counted.

    Raises:
        InputError: not a student's, or an architecture that cannot be built.
    """
    architecture = read_architecture(path / ARCHITECTURE if path.is_dir() else path)

    def build() -> nn.Module:
        return student_of(architecture).folded()

    try:
        found = count(build, (1, 3, *INPUT_SIZE))
    except (LookupError, TypeError, ValueError, RuntimeError, AssertionError) as error:
        reason = f"{type(error).__name__}: {error}"[:200]
        raise InputError(path, "an architecture that can be built", reason) from error
    gmacs, papers = found.macs / BILLION, found.output_grid_macs / BILLION
    name = path.name if path.is_dir() else f"{path.parent.name}/{path.name}"
    return _row(name, INPUT_SIZE, gmacs, papers, found.params) | _details(found)


def rows_of(path: Path) -> list[Row]:
    """What a file or folder named on the command line holds.

    Raises:
        InputError: neither a search space nor a student.
    """
    expected = f"a search space, a student's {ARCHITECTURE} or its folder"
    if path.is_dir():
        if not (path / ARCHITECTURE).is_file():
            raise InputError(path, expected, f"a folder without {ARCHITECTURE}")
        return [student_row(path)]
    try:
        value = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, yaml.YAMLError):
        load(path)  # says what is wrong, and in which line
        raise
    keys = value.keys() if isinstance(value, dict) else set()
    if "genes" in keys or "extends" in keys:
        return space_rows(path.stem, open_space(path))
    if "id" in keys:
        return [student_row(path)]
    raise InputError(path, expected, "a file with none of genes, extends and id in it")


def cost(console: Console, paths: Sequence[Path]) -> list[Row]:
    """Count the published networks, the shipped spaces and what is named; print the table.

    Returns:
        The table's rows.

    Raises:
        InputError: a path is neither a search space nor a student.
    """
    named = [row for path in paths for row in rows_of(path)]
    rows = [anchor_row(anchor) for anchor in ANCHORS]
    for name in SHIPPED:
        rows += space_rows(name, open_space(shipped(f"{name}.yaml")))
    rows += named
    _show(console, rows)
    return rows


def _show(console: Console, rows: Sequence[Row]) -> None:
    table = Table(title="cost: GMACs, and GFLOPs as papers count them")
    for heading in HEADINGS:
        words = heading in ("network", "note")
        # Folded: where the terminal is narrow no digit is left out.
        table.add_column(heading, justify="left" if words else "right", overflow="fold")
    for row in rows:
        table.add_row(*map(escape, cells(row)))
    console.print(table)


def cells(row: Row) -> tuple[str, ...]:
    """A row as text, under :data:`HEADINGS`."""

    def text(key: str, form: str = ".2f") -> str:
        return "-" if row[key] is None else format(row[key], form)

    return (
        row["name"],
        "x".join(map(str, row["input_size"])),
        text("gmacs"),
        text("gflops_as_papers"),
        text("gflops_published"),
        text("params", ",d"),
        text("memory_mb"),
        text("memory_mb_published"),
        row["note"],
    )
