"""Kill runs at random moments of their retraining and INT8 stages; compare what they end with.

    python scripts/kill_retraining.py RUN [--kills 12] [--seed 0] [--json FILE]

RUN is one whose search is done. Its students are retrained and quantized once undisturbed, with one
worker, and then again and again with two on a Ray of two nodes, each time with four kills: SIGKILL
goes to a worker of Tune, the driver and the second node at random moments of the retraining and to
the driver in the INT8 stage, and the driver is started again with ``--resume`` where it has died.
Every run has to end with the same weights and the same ``students.json``, and at no moment may a
student's folder lack one of its files.

The nodes have to find this evo_agd: where another one is installed, set ``PYTHONPATH``.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import shutil
import signal
import sys
import tempfile
import threading
import time
from pathlib import Path

from kill_searches import KEPT, Nodes, copy, drive, kill

FILES = {"architecture.yaml", "student.safetensors", "metrics.json", "student.onnx"}
FILES |= {"student.int8.onnx"}
SEARCHED = (*KEPT, "front.json", "search")
TRAINER = "ImplicitFunc"  # what Tune calls the actor of a function
STUDENTS, INT8 = "4/6 students: started", "5/6 INT8: started"
LIMIT = 900.0  # seconds that a run may take


class Watch(threading.Thread):
    """Looks into the students' folders all the time."""

    def __init__(self, run: Path) -> None:
        super().__init__(daemon=True)
        self.run_directory = run
        self.looks = 0
        self.torn: set[str] = set()
        self.over = threading.Event()

    def run(self) -> None:
        while not self.over.wait(0.005):
            self.look()

    def look(self) -> None:
        students = self.run_directory / "students"
        for folder in students.iterdir() if students.is_dir() else ():
            if not folder.name.startswith(".") and not {p.name for p in folder.iterdir()} >= FILES:
                self.torn.add(folder.name)
        self.looks += 1


class Driver:
    """A driver at work on a run, until its page is there."""

    def __init__(self, run: Path, *more: str) -> None:
        self.run, self.more = run, more
        self.starts = 0
        self.start()

    def start(self) -> None:
        self.process = drive(self.run, self.more)
        self.starts += 1

    @property
    def done(self) -> bool:
        return (self.run / "report.html").exists()

    def reached(self, what: str) -> bool:
        """Whether the log says so since this driver has begun."""
        log = self.run / "log.txt"
        return log.exists() and what in log.read_text().rpartition("search: started:")[2]

    def revive(self) -> None:
        """Start it again if it has died.

        Raises:
            SystemExit: it dies by itself.
        """
        status = self.process.poll()
        if status is not None and not self.done:
            if status != -signal.SIGKILL:
                raise SystemExit(f"{self.run}: the driver ended with {status}, see its log.txt")
            self.start()

    def until(self, what: str) -> float:
        """When the log says so."""
        while not (self.reached(what) or self.done) and self.process.poll() is None:
            time.sleep(0.02)
        return time.monotonic()

    def wait(self) -> None:
        """For the page, with the driver started again whenever it dies."""
        end = time.monotonic() + LIMIT
        while not self.done:
            self.revive()
            if time.monotonic() > end:
                raise SystemExit(f"{self.run}: no page after {LIMIT:.0f} s")
            time.sleep(0.05)
        self.process.wait()

    def stop(self) -> None:
        if self.process.poll() is None:
            os.killpg(self.process.pid, signal.SIGKILL)
        self.process.wait()


def outcome(run: Path) -> dict[str, bytes]:
    """What has to be the same: every student's weights, and what became of whom."""
    found = {p.parent.name: p.read_bytes() for p in run.glob("students/*/student.safetensors")}
    return found | {"": (run / "students.json").read_bytes()}


def strike(driver: Driver, nodes: Nodes, target: str, pause: float, rng: random.Random) -> bool:
    """Kill ``target`` some time after it is there; False where it was too late for that."""

    def there() -> bool:
        return driver.reached(INT8) if target == "INT8" else bool(nodes.workers(TRAINER))

    while not there():
        if driver.done or (target != "INT8" and driver.reached(INT8)):
            return False
        driver.revive()
        time.sleep(0.02)
    time.sleep(pause)
    trainers = nodes.workers(TRAINER)
    if driver.done or (target != "INT8" and not trainers):
        return False
    if target == "worker":
        kill(rng.choice(trainers))
    elif target == "node":
        nodes.kill_second()
    else:
        os.killpg(driver.process.pid, signal.SIGKILL)
        driver.process.wait()
    return True


def disturbed(run: Path, rng: random.Random, lasts: dict[str, float]) -> dict[str, object]:
    """Let a run end under kills.

    Args:
        lasts: seconds that the stages take, about.
    """
    nodes = Nodes(20000 + rng.randrange(20000))
    watch = Watch(run)
    driver = Driver(run, "--address", nodes.address)
    killed: list[dict[str, object]] = []
    try:
        watch.start()
        for target in (*rng.sample(("worker", "driver"), 2), "node", "INT8"):
            pause = rng.uniform(0, lasts[target])
            if strike(driver, nodes, target, pause, rng):
                killed.append({"of": target, "seconds_after_it_was_there": round(pause, 1)})
        driver.wait()
        watch.look()
        found = {"killed": killed, "drivers": driver.starts, "looks": watch.looks}
        return {**found, "torn": sorted(watch.torn)}
    finally:
        driver.stop()
        watch.over.set()
        watch.join()
        nodes.close()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("run", type=Path)
    parser.add_argument("--kills", type=int, default=12)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--json", type=Path)
    arguments = parser.parse_args()
    rng = random.Random(arguments.seed)
    rows: list[dict[str, object]] = []
    with tempfile.TemporaryDirectory() as folder:
        run = copy(arguments.run, Path(folder) / "whole", SEARCHED)
        whole = Driver(run, "--set", "compute.workers=1")
        moments = [whole.until(what) for what in (STUDENTS, INT8, "6/6 report: started")]
        whole.wait()
        expected = outcome(run)
        # Of two workers, where one took that long.
        third = (moments[1] - moments[0]) / 6
        lasts = {"worker": third, "driver": third, "node": third, "INT8": moments[2] - moments[1]}
        kills = 0
        while kills < arguments.kills:
            run = copy(arguments.run, Path(folder) / str(len(rows)), SEARCHED)
            row = disturbed(run, rng, lasts)
            row["same"] = outcome(run) == expected
            rows.append(row)
            kills += len(row["killed"])  # type: ignore[arg-type]
            sys.stdout.write(json.dumps(row) + "\n")
            sys.stdout.flush()
            if arguments.json:
                arguments.json.write_text(json.dumps(rows, indent=2) + "\n")
            shutil.rmtree(run)
    sys.exit(any(row["torn"] or not row["same"] for row in rows))


if __name__ == "__main__":
    main()
