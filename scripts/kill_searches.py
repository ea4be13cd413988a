"""Kill searches at random moments and compare what they end with.

    python scripts/kill_searches.py RUN [--kills 20] [--seed 0] [--json FILE]

RUN is one whose supernet is trained. Its search is done once undisturbed, with one worker, and then
again and again with two on a Ray of two nodes, from nothing: at a random moment SIGKILL goes to the
driver, to a worker or to the second node (with all its processes), in turns. The driver is started
again with ``--resume`` where it has died. Every search has to end with the same ``front.json``.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

import ray  # noqa: F401, which brings psutil along

import psutil  # isort: skip

KEPT = ("config.yaml", "inputs.txt", "supernet.safetensors", "teacher")
os.environ["RAY_AUTH_MODE"] = "disabled"  # of nodes that only this machine can reach
LIMIT = 600.0  # seconds a search may take
TARGETS = ("driver", "worker", "node")


def copy(run: Path, to: Path, kept: Sequence[str] = KEPT) -> Path:
    """The run as it was before its search, or with more of what it has reached."""
    to.mkdir(parents=True)
    for name in kept:
        source = run / name
        (shutil.copytree if source.is_dir() else shutil.copy)(source, to / name)
    return to


def drive(run: Path, more: Sequence[str]) -> subprocess.Popen[bytes]:
    """A process of its own that goes on with a run."""
    command = [sys.executable, "-m", "evo_agd.search", "--run", str(run), "--resume", *more]
    return subprocess.Popen(
        command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, start_new_session=True
    )


class Search:
    """A driver at work on a run, until the search has ended."""

    def __init__(self, run: Path, *more: str) -> None:
        self.run, self.more = run, more
        self.starts = 0
        self.start()

    def start(self) -> None:
        self.driver = drive(self.run, self.more)
        self.starts += 1

    @property
    def searching(self) -> bool:
        """Whether a generation has been written and more are to come."""
        return (self.run / "search/state.json").exists() and not self.done

    @property
    def done(self) -> bool:
        return (self.run / "front.json").exists()

    def evaluations(self) -> int:
        history = self.run / "search/history.csv"
        return max(0, len(history.read_text().splitlines()) - 1) if history.exists() else 0

    def wait(self, until: float = LIMIT) -> None:
        """For the search's end, with the driver started again whenever it dies."""
        end = time.monotonic() + until
        while not self.done:
            if self.driver.poll() is not None:
                self.start()
            if time.monotonic() > end:
                raise SystemExit(f"{self.run}: no front after {until:.0f} s")
            time.sleep(0.05)
        self.stop()

    def stop(self) -> None:
        """The stages behind the search are not needed."""
        if self.driver.poll() is None:
            os.killpg(self.driver.pid, signal.SIGKILL)
        self.driver.wait()


class Nodes:
    """A Ray of two nodes with one core each."""

    def __init__(self, port: int) -> None:
        self.port = port
        self.address = f"127.0.0.1:{port}"
        self.ray = str(Path(sys.executable).parent / "ray")
        common = ["--num-cpus", "1", "--disable-usage-stats", "--object-store-memory", "200000000"]
        self._call("start", "--head", "--port", str(port), "--include-dashboard", "false", *common)
        head = self.processes()
        self._call("start", "--address", self.address, *common)
        self.second = self.processes() - head

    def _call(self, *arguments: str) -> None:
        quiet = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
        subprocess.run([self.ray, *arguments], check=True, **quiet)

    def processes(self) -> set[int]:
        """What belongs to this Ray: its address is in the command."""
        found = set()
        for process in psutil.process_iter():
            try:
                command = " ".join(process.cmdline())
            except psutil.Error:
                continue
            # Nodes name each other by whichever address of this machine Ray chose.
            if f":{self.port}" in command or f"_server_port={self.port}" in command:
                found.add(process.pid)
        return found - {os.getpid()}

    def raylets(self) -> list[psutil.Process]:
        """The processes that start workers, one a node."""
        found = []
        for pid in self.processes():
            try:
                process = psutil.Process(pid)
                if process.name() == "raylet":
                    found.append(process)
            except psutil.Error:
                continue
        return found

    def workers(self, kind: str = "_Evaluator") -> list[int]:
        """Processes that score candidates, or Ray actors of another kind."""
        found = []
        for raylet in self.raylets():
            for child in raylet.children(recursive=True):
                try:
                    if kind in " ".join(child.cmdline()):
                        found.append(child.pid)
                except psutil.Error:
                    continue
        return found

    def kill_second(self) -> None:
        """The second node, with all that it started."""
        children = [
            child.pid
            for raylet in self.raylets()
            if raylet.pid in self.second
            for child in raylet.children(recursive=True)
        ]
        for pid in (*self.second, *children):
            kill(pid)

    def close(self) -> None:
        """Both nodes, or what is left of them."""
        children = [c.pid for raylet in self.raylets() for c in raylet.children(recursive=True)]
        drivers = [p for p in self.processes() if "evo_agd.search" in _command(p)]
        for pid in (*(self.processes() - set(drivers)), *children):
            kill(pid)


def _command(pid: int) -> str:
    try:
        return " ".join(psutil.Process(pid).cmdline())
    except psutil.Error:
        return ""


def kill(pid: int) -> None:
    try:
        os.kill(pid, signal.SIGKILL)
    except ProcessLookupError:
        return


def disturbed(run: Path, target: str, rng: random.Random, lasts: float) -> dict[str, object] | None:
    """Kill ``target`` at a random moment of the search of ``run`` and let it end; None if too late.

    Args:
        lasts: seconds that a search takes, about.
    """
    nodes = Nodes(20000 + rng.randrange(20000))
    search = Search(run, "--address", nodes.address)
    try:
        while not (nodes.workers() or search.done) and search.driver.poll() is None:
            time.sleep(0.05)
        # From before the first generation on to near the end.
        time.sleep(rng.uniform(0, lasts))
        workers, at = nodes.workers(), search.evaluations()
        if search.done or not workers:
            return None
        if target == "driver":
            os.killpg(search.driver.pid, signal.SIGKILL)
        elif target == "worker":
            kill(rng.choice(workers))
        else:
            nodes.kill_second()
        if search.done:
            return None
        search.wait()
        return {"of": target, "evaluations_then": at, "drivers": search.starts}
    finally:
        search.stop()
        nodes.close()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("run", type=Path)
    parser.add_argument("--kills", type=int, default=20)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--json", type=Path)
    arguments = parser.parse_args()
    rng = random.Random(arguments.seed)
    rows: list[dict[str, object]] = []
    with tempfile.TemporaryDirectory() as folder:
        whole = Search(copy(arguments.run, Path(folder) / "whole"), "--set", "compute.workers=1")
        began = None
        while not whole.done:
            began = began or (time.monotonic() if whole.searching else None)
            time.sleep(0.02)
        lasts = time.monotonic() - (began or time.monotonic())
        whole.wait()
        front = (whole.run / "front.json").read_bytes()
        for attempt in range(10 * arguments.kills):
            if len(rows) == arguments.kills:
                break
            run = copy(arguments.run, Path(folder) / str(attempt))
            row = disturbed(run, TARGETS[len(rows) % 3], rng, lasts)
            if row is not None:
                row["same_front"] = (run / "front.json").read_bytes() == front
                rows.append({"kill": len(rows) + 1, **row})
                sys.stdout.write(json.dumps(rows[-1]) + "\n")
                sys.stdout.flush()
            shutil.rmtree(run)
    if arguments.json:
        arguments.json.write_text(json.dumps(rows, indent=2) + "\n")
    sys.exit(len(rows) < arguments.kills or not all(row["same_front"] for row in rows))


if __name__ == "__main__":
    main()
