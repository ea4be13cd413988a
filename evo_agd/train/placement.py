"""Where in a Ray a training may be: on nodes that see its folder, with GPUs if it asks for them."""

from __future__ import annotations

import logging
import secrets
from pathlib import Path

import ray
from ray.exceptions import RayError
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from evo_agd.errors import InputError
from evo_agd.files import write_text

log = logging.getLogger(__name__)
NODE_SECONDS = 60.0  # for a node to say whether it sees a folder


def resources_of(folder: Path, gpus: float) -> dict[str, float]:
    """What a training that writes into ``folder`` asks of Ray: a core, and a share of a GPU.

    Raises:
        InputError: GPUs are asked for, and no node has any.
    """
    there: dict[str, float] = ray.cluster_resources()  # type: ignore[no-untyped-call]
    if gpus > there.get("GPU", 0.0):
        expected = f"nodes with {gpus:g} of a GPU free"
        raise InputError("compute.gpus_per_student", expected, "none in this Ray")
    return {"cpu": 1.0, **({"gpu": gpus} if gpus else {}), **nodes_of(folder)}


def nodes_of(folder: Path) -> dict[str, float]:
    """What a training has to ask of Ray to be on a node that sees this folder.

    Nothing where all nodes do, as on one machine or with shared storage; else the driver's node.
    """
    nodes = [n for n in ray.nodes() if n["Alive"]]  # type: ignore[no-untyped-call]
    if len(nodes) < 2:
        return {}
    token = folder / "token"
    write_text(token, secrets.token_hex())
    kept = token.read_text()

    @ray.remote(num_cpus=0)
    def sees() -> bool:
        return token.is_file() and token.read_text() == kept

    asked = [
        sees.options(
            scheduling_strategy=NodeAffinitySchedulingStrategy(n["NodeID"], soft=False)
        ).remote()
        for n in nodes
    ]
    answered, _ = ray.wait(asked, num_returns=len(asked), timeout=NODE_SECONDS)
    seeing = 0
    for answer in answered:
        try:
            seeing += bool(ray.get(answer))
        except RayError:  # a node that has just gone, or that has no evo_agd
            continue
    token.unlink()
    if seeing == len(nodes):
        return {}
    log.warning("%d of %d nodes see %s: students train on this one", seeing, len(nodes), folder)
    return {f"node:{_own_address()}": 0.001}


def _own_address() -> str:
    address: str = ray.util.get_node_ip_address()  # type: ignore[no-untyped-call]
    return address
