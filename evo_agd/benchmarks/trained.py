"""A run as benchmarks of its supernet take it up."""

from __future__ import annotations

from rich.console import Console

from evo_agd.errors import InputError
from evo_agd.run.directory import RunDirectory
from evo_agd.run.pipeline import Pipeline


def pipeline_of(run: RunDirectory, console: Console) -> Pipeline:
    """The pipeline of a run whose supernet is trained.

    Raises:
        InputError: it is not, or photographs or teacher are not those that it began with.
    """
    settings = run.settings()
    if not run.supernet.is_file():
        raise InputError(run.path, "a run whose supernet is trained", "no supernet.safetensors")
    pipeline = Pipeline(settings, console)
    run.check_inputs(pipeline.inputs.digest)
    return pipeline
