"""Kill runs at random moments of their retraining and INT8 stages; compare what they end with.

    python scripts/kill_retraining.py RUN [--kills 12] [--seed 0] [--json FILE]

RUN is one whose search is done. Its students are retrained and quantized once undisturbed, with one
worker, and then again and again with two on a Ray of two nodes: at a random moment SIGKILL goes to
the driver, to a worker of Tune or to the second node, in turns, and the driver is started again
with ``--resume`` where it has died. Every run has to end with the same weights and the same
``students.json``, and at no moment may a student's folder lack one of its files.
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
import threading
import time
from pathlib import Path

from kill_searches import KEPT, TARGETS, Nodes, copy, kill

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
        command = [sys.executable, "-m", "evo_agd.search", "--run", str(self.run), "--resume"]
        quiet = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
        self.process = subprocess.Popen([*command, *self.more], start_new_session=True, **quiet)
        self.starts += 1

    @property
    def done(self) -> bool:
        return (self.run / "report.html").exists()

    def reached(self, what: str) -> bool:
        log = self.run / "log.txt"
        return log.exists() and what in log.read_text()

    def stage(self) -> str:
        return "INT8" if self.reached(INT8) else "students"

    def until(self, what: str) -> float:
        """When the log says so."""
        while not (self.reached(what) or self.done) and self.process.poll() is None:
            time.sleep(0.02)
        return time.monotonic()

    def wait(self) -> None:
        """For the page, with the driver started again whenever it dies."""
        end = time.monotonic() + LIMIT
        while not self.done:
            if self.process.poll() is not None:
                self.start()
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


def disturbed(
    run: Path, target: str, rng: random.Random, lasts: dict[str, float]
) -> dict[str, object] | None:
    """Kill ``target`` at a random moment and let the run end; None if it was too late for that.

    Args:
        lasts: seconds that the stages take, about.
    """
    nodes = Nodes(20000 + rng.randrange(20000))
    watch = Watch(run)
    driver = Driver(run, "--address", nodes.address)
    try:
        watch.start()
        began = driver.until(STUDENTS)
        if target == "driver":  # the others have no part in the INT8 stage
            time.sleep(rng.uniform(0, lasts["students"] + lasts["INT8"]))
        else:
            while not (nodes.workers(TRAINER) or driver.done) and driver.process.poll() is None:
                time.sleep(0.05)
            time.sleep(rng.uniform(0, 0.8 * lasts["students"]))
        trainers, stage, at = nodes.workers(TRAINER), driver.stage(), time.monotonic() - began
        if driver.done or (target != "driver" and not trainers):
            return None
        if target == "driver":
            os.killpg(driver.process.pid, signal.SIGKILL)
        elif target == "worker":
            kill(rng.choice(trainers))
        else:
            nodes.kill_second()
        driver.wait()
        watch.look()
        return {
            **{"of": target, "stage": stage, "after_seconds": round(at, 1)},
            **{"drivers": driver.starts, "looks": watch.looks, "torn": sorted(watch.torn)},
        }
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
        lasts = {"students": (moments[1] - moments[0]) / 2, "INT8": moments[2] - moments[1]}
        for attempt in range(10 * arguments.kills):
            if len(rows) == arguments.kills:
                break
            run = copy(arguments.run, Path(folder) / str(attempt), SEARCHED)
            row = disturbed(run, TARGETS[len(rows) % 3], rng, lasts)
            if row is not None:
                row["same"] = outcome(run) == expected
                rows.append({"kill": len(rows) + 1, **row})
                sys.stdout.write(json.dumps(rows[-1]) + "\n")
                sys.stdout.flush()
                if arguments.json:
                    arguments.json.write_text(json.dumps(rows, indent=2) + "\n")
            shutil.rmtree(run)
    wrong = [row for row in rows if row["torn"] or not row["same"]]
    sys.exit(len(rows) < arguments.kills or bool(wrong))


if __name__ == "__main__":
    main()
