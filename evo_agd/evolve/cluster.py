"""Ray: a local one for this run, or somebody's cluster."""

from __future__ import annotations

import logging
import os
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import ray

from evo_agd.errors import InputError

# Of Ray: in the environment of a job's processes, and above the copy of its working directory.
JOB = "RAY_JOB_CONFIG_JSON_ENV_VAR"
RESOURCES = "runtime_resources"


def check_address(address: str) -> None:
    """Knock at a cluster's door; Ray itself takes two minutes to find nobody in.

    Raises:
        InputError: not an address, or nobody answers there.
    """
    if address == "auto":
        return
    host, colon, port = address.removeprefix("ray://").rpartition(":")
    if not (colon and port.isdecimal()):
        raise InputError("--address", "HOST:PORT, ray://HOST:PORT or auto", address)
    try:
        socket.create_connection((host, int(port)), timeout=5).close()
    except (OSError, OverflowError) as error:
        raise InputError("--address", f"a Ray cluster at {address}", error) from error


def address_of(option: str | None) -> str | None:
    """The cluster to join: the option's, else that of the Ray job that this process is part of."""
    return option or os.environ.get("RAY_ADDRESS") or None


def check_outlives_job(run: Path) -> None:
    """Refuse to write a run into the folder that Ray makes for a job, and removes with it.

    Raises:
        InputError: this process is part of a job, and ``run`` lies in the job's working directory.
    """
    here = Path.cwd()
    if JOB in os.environ and RESOURCES in here.parts and run.resolve().is_relative_to(here):
        expected = "a path from the root on, since this job's own folder is removed when it ends"
        raise InputError("--run", expected, run)


@contextmanager
def cluster(address: str | None, workers: int) -> Iterator[None]:
    """A Ray of ``workers`` cores on this machine, or the cluster at ``address``.

    Raises:
        InputError: ``auto``, and no cluster runs here.
    """
    os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")
    for name in ("ray", "ray.tune"):  # they explain themselves at length; what fails is raised
        logging.getLogger(name).setLevel(logging.ERROR)
    local: dict[str, Any] = {"num_cpus": workers, "include_dashboard": False}
    try:
        ray.init(
            address=address or "local",  # None would look for a cluster to join
            log_to_driver=False,
            logging_level=logging.ERROR,
            configure_logging=False,
            **({} if address else local),
        )
    except ConnectionError as error:
        raise InputError("--address", f"a Ray cluster at {address}", error) from error
    try:
        yield
    finally:
        ray.shutdown()
