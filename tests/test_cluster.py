"""Follows docs/cluster.md on a real Ray of two nodes on this machine."""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.conftest import ROOT

BIN = Path(sys.executable).parent
BLOCKS = re.findall(r"```sh\n(.*?)```", (ROOT / "docs/cluster.md").read_text(), re.DOTALL)
SMALL = [
    *("--set", "students.count=1", "--set", "students.steps=2"),
    *("--set", "search.evaluations=400", "--set", "search.population=24"),
]


def free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return int(listener.getsockname()[1])


def written(part: str, **places: str) -> str:
    """The one command of the document with this in it, with its places filled in."""
    (block,) = [b for b in BLOCKS if part in b]
    for name, value in places.items():
        block = block.replace(name, value)
    return block


@dataclass
class Nodes:
    port: int
    dashboard: int
    folder: Path
    pids: list[set[int]]

    def shell(
        self, command: str, *more: str, **environment: str
    ) -> subprocess.CompletedProcess[str]:
        text = " ".join([command.strip(), *more])
        return subprocess.run(
            ["bash", "-ec", text],
            capture_output=True,
            text=True,
            cwd=self.folder,
            timeout=240,
            env=self.environment(**environment),
        )

    def environment(self, **more: str) -> dict[str, str]:
        token = {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": "CHOOSE-ONE"}
        path = f"{BIN}:{os.environ['PATH']}"
        known = {k: v for k, v in os.environ.items() if not k.startswith("RAY_")}
        return known | {"PATH": path, "PYTHONPATH": str(ROOT)} | token | more


def ray_processes(port: int) -> set[int]:
    """Processes of the Ray whose head listens on this port."""
    found = set()
    for entry in Path("/proc").iterdir():
        try:
            text = (entry / "cmdline").read_bytes().decode(errors="replace")
        except (OSError, ValueError):
            continue
        if entry.name.isdecimal() and (f":{port}" in text or f"_server_port={port}" in text):
            found.add(int(entry.name))
    return found - {os.getpid()}


@pytest.fixture(scope="module")
def nodes(world: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Nodes]:
    folder = tmp_path_factory.mktemp("cluster")
    for name in ("tiny.yaml", "teacher.safetensors", "photos"):
        source = world / name
        (shutil.copytree if source.is_dir() else shutil.copy)(source, folder / name)
    found = Nodes(free_port(), free_port(), folder, [])
    small = ["--num-cpus 1", "--disable-usage-stats", "--object-store-memory 200000000"]

    def agent() -> str:  # else all Rays of a machine want the same port for it
        return f"--dashboard-agent-listen-port {free_port()}"

    try:
        board = f"--dashboard-port {found.dashboard} --include-dashboard true"
        command = written("ray start --head").replace("6379", str(found.port))
        done = found.shell(command, board, agent(), *small)
        assert done.returncode == 0, done.stderr
        found.pids.append(ray_processes(found.port))
        command = written("ray start --address", HEAD="127.0.0.1").replace("6379", str(found.port))
        done = found.shell(command, agent(), *small)
        assert done.returncode == 0, done.stderr
        found.pids.append(ray_processes(found.port) - found.pids[0])
        yield found
    finally:
        for pid in ray_processes(found.port):
            try:
                os.kill(pid, signal.SIGKILL)
            except ProcessLookupError:
                continue


@pytest.fixture(scope="module")
def alone(nodes: Nodes) -> bytes:
    """The front of one worker on this machine."""
    run = nodes.folder / "alone"
    done = nodes.shell(
        f"python -m evo_agd.search tiny.yaml --run {run} --set compute.workers=1", *SMALL
    )
    assert done.returncode == 0, done.stderr
    return (run / "front.json").read_bytes()


def test_two_nodes_give_the_front_of_one_worker(nodes: Nodes, alone: bytes) -> None:
    run = nodes.folder / "joined"
    places = {"HEAD:6379": f"127.0.0.1:{nodes.port}", "SPACE": "tiny", "RUN": str(run)}
    command = written("python -m evo_agd.search SPACE.yaml --run RUN --address", **places)
    done = nodes.shell(command, *SMALL)
    assert done.returncode == 0, done.stderr
    assert (run / "front.json").read_bytes() == alone
    assert "workers on 2 nodes" in (run / "log.txt").read_text()
    # No GPU here: one line, and nothing of the run is lost.
    asked = nodes.shell(
        f"python -m evo_agd.search tiny.yaml --run {nodes.folder / 'gpus'} --address "
        f"127.0.0.1:{nodes.port} --set compute.gpus_per_worker=0.5",
        *SMALL,
    )
    assert asked.returncode == 2 and asked.stderr.count("\n") == 1, asked.stderr
    assert "gpus_per_worker" in asked.stderr


def test_a_job_gives_the_same(nodes: Nodes, alone: bytes) -> None:
    run = nodes.folder / "job"
    places = {"HEAD:8265": f"127.0.0.1:{nodes.dashboard}", "SPACE": "tiny", "RUN": str(run)}
    lost = written("ray job submit", **places | {"RUN": "here"})
    done = nodes.shell(lost, *SMALL)
    assert done.returncode != 0 and "--run: expected a path from the root on" in done.stdout
    done = nodes.shell(written("ray job submit", **places), *SMALL)
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-2000:]
    assert (run / "front.json").read_bytes() == alone
    assert json.loads(alone)


def test_a_node_that_is_removed_costs_nothing_but_time(nodes: Nodes, alone: bytes) -> None:
    run = nodes.folder / "removed"
    command = [
        *(str(BIN / "python"), "-m", "evo_agd.search", "tiny.yaml", "--run", str(run)),
        *("--address", f"127.0.0.1:{nodes.port}", *SMALL),
    ]
    driver = subprocess.Popen(
        command, cwd=nodes.folder, env=nodes.environment(), stderr=subprocess.PIPE, text=True
    )
    state = run / "search/state.json"
    end = time.monotonic() + 200
    while not state.exists() and driver.poll() is None and time.monotonic() < end:
        time.sleep(0.01)
    for pid in nodes.pids[1]:
        os.kill(pid, signal.SIGKILL)
    _, errors = driver.communicate(timeout=240)
    assert driver.returncode == 0, errors
    assert (run / "front.json").read_bytes() == alone
