"""``python -m evo_agd.benchmark``: the tables behind the claims."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.console import Console

from evo_agd.files import write_json
from evo_agd.search import guarded

if TYPE_CHECKING:
    from evo_agd.run.directory import RunDirectory

WIDE = 180  # columns


def _positive(text: str) -> int:
    value = int(text)
    if value < 1:
        raise argparse.ArgumentTypeError(f"expected 1 or more, found {text}")
    return value


def _at_least_two(text: str) -> int:
    if _positive(text) < 2:
        raise argparse.ArgumentTypeError("expected 2 or more, one has no rank")
    return int(text)


def _enlarging(text: str) -> int:
    if _positive(text) < 2:
        raise argparse.ArgumentTypeError(f"expected 2 or more, found {text}")
    return int(text)


def _console() -> Console:
    """One as wide as the terminal, or as a table needs that goes to a file."""
    console = Console(highlight=False)
    return console if console.is_terminal else Console(highlight=False, width=WIDE)


def _run_argument(command: argparse.ArgumentParser) -> None:
    command.add_argument("run", type=Path, metavar="RUN", help="a run whose supernet is trained")


def _json_option(command: argparse.ArgumentParser) -> None:
    command.add_argument("--json", type=Path, metavar="FILE", help="write the rows there")


def _data_option(command: argparse.ArgumentParser, *, required: bool) -> None:
    command.add_argument(
        "--data",
        nargs="+",
        required=required,
        default=[],
        metavar="DIR",
        help="test sets: folders of high-resolution photographs, or a data set's root",
    )


def _seeds_option(command: argparse.ArgumentParser) -> None:
    command.add_argument("--seeds", type=_positive, default=1, help="trainings of each (1)")


def _batch_option(command: argparse.ArgumentParser) -> None:
    command.add_argument("--batch", type=_positive, help="of each step (that of the students)")


def _budget_options(command: argparse.ArgumentParser) -> None:
    command.add_argument("--steps", type=_positive, help="of each training (those of the students)")
    _batch_option(command)


# Imports are late: the command line should answer --help and typing errors before torch is loaded.


def _rank_arguments(command: argparse.ArgumentParser) -> None:
    _run_argument(command)
    command.add_argument("--members", type=_at_least_two, default=16, help="architectures (16)")
    command.add_argument(
        "--near-gmacs", type=float, metavar="X", help="only within 10 %% of X GMACs"
    )
    _seeds_option(command)
    _budget_options(command)
    command.add_argument("--seed", type=int, default=0, help="of the draw (0)")
    _json_option(command)


def _measured(
    arguments: argparse.Namespace, measure: Callable[[RunDirectory, Console], list[dict[str, Any]]]
) -> None:
    """Measure on the run that was named, with nobody else at it, and keep the rows if asked to."""
    from evo_agd.run.directory import RunDirectory, locked

    run = RunDirectory(arguments.run)
    run.settings()
    with locked(run):
        rows = measure(run, _console())
    if arguments.json:
        write_json(arguments.json, rows)


def _rank(arguments: argparse.Namespace) -> None:
    from evo_agd.benchmarks.rank import rank

    _measured(
        arguments,
        partial(
            rank,
            members=arguments.members,
            near_gmacs=arguments.near_gmacs,
            seeds=arguments.seeds,
            steps=arguments.steps,
            batch=arguments.batch,
            seed=arguments.seed,
        ),
    )


def _cost_arguments(command: argparse.ArgumentParser) -> None:
    command.add_argument(
        "paths",
        nargs="*",
        type=Path,
        metavar="PATH",
        help="further search spaces, and students (a folder or its architecture.yaml)",
    )
    _json_option(command)


def _cost(arguments: argparse.Namespace) -> None:
    from evo_agd.benchmarks.cost import cost

    rows = cost(_console(), arguments.paths)
    if arguments.json:
        write_json(arguments.json, rows)


def _latency_arguments(command: argparse.ArgumentParser) -> None:
    command.add_argument("space", type=Path, metavar="SPACE.yaml")
    command.add_argument("--to", type=Path, metavar="FILE", required=True, help="the table's file")
    command.add_argument(
        "--members", type=_at_least_two, default=8, help="networks to check it with (8)"
    )
    command.add_argument("--int8", action="store_true", help="of quantized layers")
    command.add_argument("--threads", type=_positive, metavar="N", help="(one a core)")
    command.add_argument("--check", action="store_true", help="only check the table in FILE")


def _latency(arguments: argparse.Namespace) -> None:
    from evo_agd.benchmarks.latency import latency

    latency(
        _console(),
        arguments.space,
        arguments.to,
        members=arguments.members,
        threads=arguments.threads,
        int8=arguments.int8,
        check=arguments.check,
    )


def _quality_arguments(command: argparse.ArgumentParser) -> None:
    _data_option(command, required=True)
    command.add_argument(
        "--model",
        nargs="+",
        default=[],
        metavar="FILE_OR_FOLDER",
        help="whatever can be a teacher, and students (.onnx too, or their folders)",
    )
    command.add_argument("--scale", type=_enlarging, default=4, help="(4)")
    _json_option(command)


def _quality(arguments: argparse.Namespace) -> None:
    from evo_agd.benchmarks.quality import quality

    rows = quality(arguments.data, arguments.model, arguments.scale, _console())
    if arguments.json:
        write_json(arguments.json, rows)


def _effort_arguments(command: argparse.ArgumentParser) -> None:
    command.add_argument(
        "--member",
        nargs=2,
        action="append",
        default=[],
        metavar=("SPACE.yaml", "ID"),
        help="a network; can be repeated",
    )
    near = command.add_argument_group("members of a space by what a published one costs")
    near.add_argument("--nearest", type=Path, metavar="SPACE.yaml")
    near.add_argument("--nearest-gmacs", type=float, default=110.6, metavar="X", help="(AGD's)")
    near.add_argument("--nearest-mb", type=float, default=1.8, metavar="Y", help="(AGD's)")
    near.add_argument("--nearest-count", type=_positive, default=2, metavar="N", help="(2)")
    command.add_argument(
        "--like",
        type=Path,
        required=True,
        metavar="SPACE.yaml",
        help="whose photographs, teacher, losses and students' training are taken",
    )
    command.add_argument(
        "--set", action="append", default=[], metavar="KEY=VALUE", help="another value in that file"
    )
    _budget_options(command)
    command.add_argument(
        "--rates",
        nargs="+",
        type=float,
        default=[],
        metavar="R",
        help="learning rates, of which each network gets its best (that of the students)",
    )
    command.add_argument(
        "--rate-steps", type=_positive, help="of the trainings that tell (a quarter of --steps)"
    )
    _seeds_option(command)
    _data_option(command, required=True)
    command.add_argument(
        "--to", type=Path, required=True, metavar="FOLDER", help="of all trainings"
    )
    _json_option(command)


def _effort(arguments: argparse.Namespace) -> None:
    from evo_agd.benchmarks.contenders import Wanted
    from evo_agd.benchmarks.effort import effort
    from evo_agd.config import load

    wanted = None
    if arguments.nearest:
        size = (arguments.nearest_gmacs, arguments.nearest_mb)
        wanted = Wanted(arguments.nearest, *size, arguments.nearest_count)
    rows = effort(
        load(arguments.like, arguments.set),
        _console(),
        members=[(Path(space), name) for space, name in arguments.member],
        wanted=wanted,
        tests=arguments.data,
        to=arguments.to,
        steps=arguments.steps,
        batch=arguments.batch,
        rates=arguments.rates,
        rate_steps=arguments.rate_steps,
        seeds=arguments.seeds,
    )
    if arguments.json:
        write_json(arguments.json, rows)


def _retraining_arguments(command: argparse.ArgumentParser) -> None:
    _run_argument(command)
    command.add_argument("--members", type=_positive, default=3, help="of the front (3)")
    command.add_argument(
        "--steps",
        nargs="+",
        type=_positive,
        default=[250, 1000, 4000],
        metavar="N",
        help="budgets (250 1000 4000)",
    )
    _batch_option(command)
    _seeds_option(command)
    _data_option(command, required=False)
    _json_option(command)


def _retraining(arguments: argparse.Namespace) -> None:
    from evo_agd.benchmarks.retraining import retraining

    _measured(
        arguments,
        partial(
            retraining,
            members=arguments.members,
            steps=arguments.steps,
            batch=arguments.batch,
            seeds=arguments.seeds,
            tests=arguments.data,
        ),
    )


def _search_arguments(command: argparse.ArgumentParser) -> None:
    _run_argument(command)
    command.add_argument("--seeds", type=_positive, default=5, help="of each method (5)")
    command.add_argument(
        "--evaluations", type=_at_least_two, help="of each method and seed (those of the run)"
    )
    command.add_argument(
        "--enumerate", action="store_true", help="score every member, and compare with the truth"
    )
    _json_option(command)


def _search(arguments: argparse.Namespace) -> None:
    from evo_agd.benchmarks.search import search

    _measured(
        arguments,
        partial(
            search,
            seeds=arguments.seeds,
            evaluations=arguments.evaluations,
            enumerated=arguments.enumerate,
        ),
    )


def _throughput_arguments(command: argparse.ArgumentParser) -> None:
    _run_argument(command)
    command.add_argument(
        "--evaluations", type=_at_least_two, default=240, help="of each search (240)"
    )
    command.add_argument(
        "--sample", type=_at_least_two, default=24, help="scored in the plain way, a search (24)"
    )
    command.add_argument("--rounds", type=_positive, default=3, help="of everything (3)")
    _json_option(command)


def _throughput(arguments: argparse.Namespace) -> None:
    from evo_agd.benchmarks.throughput import throughput

    _measured(
        arguments,
        partial(
            throughput,
            evaluations=arguments.evaluations,
            sample=arguments.sample,
            rounds=arguments.rounds,
        ),
    )


def _int8_arguments(command: argparse.ArgumentParser) -> None:
    command.add_argument("run", type=Path, metavar="RUN", help="a finished run")
    command.add_argument("--size", type=_positive, metavar="N", help="of the input (the run's)")
    command.add_argument("--rounds", type=_positive, default=30, help="of all forms (30)")
    _json_option(command)


def _int8(arguments: argparse.Namespace) -> None:
    from evo_agd.benchmarks.int8 import int8

    _measured(arguments, partial(int8, size=arguments.size, rounds=arguments.rounds))


@dataclass(frozen=True)
class Benchmark:
    """A sub-command: what it takes and does."""

    help: str
    arguments: Callable[[argparse.ArgumentParser], None]
    run: Callable[[argparse.Namespace], None]


BENCHMARKS = {
    "rank": Benchmark("supernet scores against training alone", _rank_arguments, _rank),
    "cost": Benchmark("multiply-accumulates and parameters", _cost_arguments, _cost),
    "latency": Benchmark("milliseconds of each layer of a space", _latency_arguments, _latency),
    "quality": Benchmark("PSNR and SSIM on test sets", _quality_arguments, _quality),
    "effort": Benchmark("networks of different spaces trained alike", _effort_arguments, _effort),
    "retraining": Benchmark("inherited weights or none", _retraining_arguments, _retraining),
    "search": Benchmark("the evolution beside others", _search_arguments, _search),
    "int8": Benchmark("students in FP32 and INT8: quality, size, time", _int8_arguments, _int8),
    "throughput": Benchmark("candidates scored per second", _throughput_arguments, _throughput),
}


def parser() -> argparse.ArgumentParser:
    """The command line."""
    result = argparse.ArgumentParser(prog="python -m evo_agd.benchmark", description=__doc__)
    names = result.add_subparsers(dest="name", required=True)
    for name, one in BENCHMARKS.items():
        one.arguments(names.add_parser(name, help=one.help))
    return result


def benchmark(arguments: argparse.Namespace) -> None:
    """Run the benchmark that was asked for."""
    BENCHMARKS[arguments.name].run(arguments)


def main(arguments: Sequence[str] | None = None) -> int:
    """The door; returns the exit status."""
    parsed = parser().parse_args(arguments)
    return guarded(lambda: benchmark(parsed))


if __name__ == "__main__":
    sys.exit(main())
