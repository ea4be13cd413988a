"""``python -m evo_agd.apply``: pictures through a network, of any size, in bounded memory."""

from __future__ import annotations

import argparse
import logging
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from rich.console import Console

from evo_agd.errors import InputError
from evo_agd.processors import cores
from evo_agd.search import guarded

if TYPE_CHECKING:
    from evo_agd.deploy.applying import Sheet

MEMORY = 1024  # MB
LEAST_MEMORY = 16
FORMATS = ("keep", "png", "jpeg", "webp")
RANGES = ("auto", "unit", "symmetric")


def parser() -> argparse.ArgumentParser:
    """The command line."""
    result = argparse.ArgumentParser(
        prog="python -m evo_agd.apply",
        description="Apply a student, or any ONNX network from picture to picture, to pictures of "
        "any size. Alpha, grey, ICC profiles and EXIF are kept. Exit status: 0 done, 1 failed, "
        "2 bad input (also where some pictures of a folder could not be read), 130 stopped.",
    )
    result.add_argument("model", type=Path, metavar="MODEL.onnx", help="FP32 or INT8")
    result.add_argument(
        "inputs", type=Path, nargs="+", metavar="IMAGE_OR_DIR", help="folders are walked"
    )
    result.add_argument("--to", type=Path, required=True, metavar="DIR", help="where to")
    result.add_argument(
        "--format",
        choices=FORMATS,
        default="keep",
        help="of the outputs; default: that of the input, PNG where it is none of PNG, JPEG, WebP "
        "and TIFF; JPEG and WebP at quality 95",
    )
    result.add_argument("--overwrite", action="store_true", help="replace what is in DIR already")
    result.add_argument(
        "--memory",
        type=int,
        default=MEMORY,
        metavar="MB",
        help=f"for the network to work in; larger pictures are cut into tiles (default {MEMORY}). "
        "The pictures themselves come on top",
    )
    result.add_argument(
        "--workers", type=int, metavar="N", help="threads for several pictures (default: cores)"
    )
    result.add_argument(
        "--range",
        choices=RANGES,
        default="auto",
        help="the network's values: unit is 0..1, symmetric -1..1; default: asked of the network",
    )
    result.add_argument(
        "--compare",
        action="store_true",
        help="write NAME.compare.png beside each output: input, bicubic, teacher, student",
    )
    result.add_argument(
        "--teacher", metavar="T", help="for --compare: anything that a search takes as teacher"
    )
    result.add_argument("--json", type=Path, metavar="FILE", help="size, seconds, tiles of each")
    return result


class _Lines(logging.Handler):
    """Warnings as lines on stderr, above the progress bar."""

    def emit(self, record: logging.LogRecord) -> None:
        line = " ".join(record.getMessage().split())
        print(f"evo_agd: {line}", file=sys.stderr)


def _sheets(teacher: str | None, scale: int) -> Sheet:
    """What writes comparisons.

    Raises:
        InputError: not a teacher, or one of another scale.
    """
    from PIL import Image

    from evo_agd.deploy.picture_files import Picture
    from evo_agd.files import writing
    from evo_agd.report.compare import compared

    known = None
    if teacher is not None:
        from evo_agd.nets.teachers import load_teacher  # torch, and all that spandrel knows

        known = load_teacher(teacher, scale)

    def write(path: Path, picture: Picture, canvas: Image.Image) -> None:
        with writing(path) as file:
            compared(picture.colour, canvas, scale, known).save(file, "PNG")

    return write


def apply(arguments: argparse.Namespace) -> None:
    """Do it.

    Raises:
        InputError: see :func:`evo_agd.deploy.model_file.open_model`,
            :func:`evo_agd.deploy.picture_lists.list_tasks`; some pictures could not be read.
    """
    # Late: the command line should answer --help and typing errors before ONNX Runtime is loaded.
    from evo_agd.deploy.applying import Applying, Done
    from evo_agd.deploy.model_file import open_model
    from evo_agd.deploy.picture_lists import list_tasks
    from evo_agd.files import write_json
    from evo_agd.progress import bar

    if arguments.teacher is not None and not arguments.compare:
        raise InputError("--teacher", "--compare beside it", "nothing")
    if arguments.memory < LEAST_MEMORY:
        raise InputError("--memory", f"at least {LEAST_MEMORY} MB", arguments.memory)
    workers = cores() if arguments.workers is None else arguments.workers
    if workers < 1:
        raise InputError("--workers", "at least 1", workers)
    single = len(arguments.inputs) == 1 and arguments.inputs[0].is_file()
    model = open_model(arguments.model, cores() if single else 1, arguments.range)
    scale = model.nature.scale
    tasks = list_tasks(
        arguments.inputs,
        arguments.to,
        scale=scale,
        form=arguments.format,
        sheets=arguments.compare,
        overwrite=arguments.overwrite,
        kept=[arguments.model],
        others=[] if arguments.json is None else [arguments.json],
    )
    sheet = _sheets(arguments.teacher, scale) if arguments.compare else None
    done: list[Done] = []
    if tasks.open:
        console = Console(highlight=False)
        work = Applying(model, memory=arguments.memory * 1_000_000, sheet=sheet)
        with bar(console, "tiles", work.count(tasks.open)) as tick:
            done = work.run(tasks.open, 1 if single else workers, tick)
    failed = [d for d in done if d.error is not None]
    if arguments.json is not None:
        rows = [d.figures() for d in done]
        rows += [{"input": e.where, "error": f"found {e.found}"} for e in tasks.broken]
        write_json(arguments.json, rows)
    for error in tasks.broken:
        print(f"evo_agd: {error}", file=sys.stderr)
    if tasks.done:
        print(f"{len(tasks.done)} skipped, which are there already (--overwrite)")
    print(f"{len(done) - len(failed)} written to {arguments.to}")
    if broken := len(failed) + len(tasks.broken):
        of = broken + len(done) - len(failed) + len(tasks.done)
        raise InputError(arguments.to, "pictures that can be read", f"{broken} of {of} that cannot")


def main(arguments: Sequence[str] | None = None) -> int:
    """The door; returns the exit status."""
    parsed = parser().parse_args(arguments)
    handler = _Lines(logging.WARNING)
    logger = logging.getLogger("evo_agd")

    def shown() -> None:
        logger.addHandler(handler)
        try:
            apply(parsed)
        finally:
            logger.removeHandler(handler)

    return guarded(shown, "stopped; what was written is whole")


if __name__ == "__main__":
    sys.exit(main())
