"""Kill a run at random moments, resume it, and compare it with one that was never killed.

    python -m tests.lightkeel.soak [--kills 100] [--seed 0] [OPTIONS of a run]

Each trial begins a run, kills its process (SIGKILL) at a moment drawn from the seconds that a whole
run takes, goes on with ``--resume auto`` and lets it finish; every third trial kills twice. A run
counts as identical if its last checkpoint (weights, optimizer, schedule, callbacks, loops, random
numbers), the weights of its best one, its rows in metrics.csv and its final metrics are those of
the run that was never killed, bit for bit. Processes are forked off this one, so that imports are
not what is killed.
"""

import argparse
import csv
import json
import os
import random
import select
import shutil
import signal
import sys
import tempfile
import time
import traceback
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch

from lightkeel.runs.checkpoints import WholeCheckpointIO
from src.train import main as train

MEASURED = {"samples_per_s", "memory_mib", "train_seconds"}
TINY = ["--config", str(Path(__file__).with_name("tiny.yaml"))]


def start(args: list[str], log: Path) -> int:
    """Run the command in a process of its own; return the process's number."""
    sys.stdout.flush()
    process = os.fork()
    if process == 0:
        status = 1
        try:
            file = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
            os.dup2(file, 1)
            os.dup2(file, 2)
            torch.set_num_threads(1)
            status = train(args)
        except SystemExit as stop:
            status = stop.code if isinstance(stop.code, int) else 1
        except Exception:  # noqa: BLE001
            traceback.print_exc()
        finally:
            sys.stdout.flush()
            sys.stderr.flush()
            os._exit(status)
    return process


def finish(process: int, kill_after_s: float | None = None) -> int | None:
    """Wait for a process, or kill it; return its status, None: killed."""
    descriptor = os.pidfd_open(process)
    ready, _, _ = select.select([descriptor], [], [], kill_after_s)
    os.close(descriptor)
    if not ready:
        os.kill(process, signal.SIGKILL)
    _, status = os.waitpid(process, 0)
    return None if os.WIFSIGNALED(status) else os.waitstatus_to_exitcode(status)


def flat(tree: Any, name: str = "") -> Iterator[tuple[str, Any]]:
    """List the leaves of nested containers, by dotted names."""
    items = tree.items() if isinstance(tree, dict) else enumerate(tree)
    for key, value in items:
        if isinstance(value, (dict, list, tuple)):
            yield from flat(value, f"{name}.{key}")
        else:
            yield f"{name}.{key}", value


def content(run: Path) -> dict[str, Any]:
    """Everything of a run that must not depend on whether it was killed."""
    last = torch.load(run / "checkpoints" / "last.ckpt", weights_only=True)
    # Lightning's count of the batches of the last validation begins anew.
    del last["loops"]["fit_loop"]["epoch_loop.val_loop.batch_progress"]
    for name in MEASURED & last["resume"]["watched"].keys():
        del last["resume"]["watched"][name]
    best = torch.load(run / "checkpoints" / "best.ckpt", weights_only=True)["state_dict"]
    with (run / "metrics.csv").open() as file:
        rows = [{k: v for k, v in row.items() if k not in MEASURED} for row in csv.DictReader(file)]
    metrics = json.loads((run / "metrics.json").read_text())
    kept = {name: value for name, value in metrics.items() if name not in MEASURED}
    found = dict(flat({"last": last, "best": best, "rows": rows, "metrics": kept}))
    place = str(run)
    return {
        name.replace(place, ""): value.replace(place, "") if isinstance(value, str) else value
        for name, value in found.items()
    }


def differences(one: dict[str, Any], other: dict[str, Any]) -> list[str]:
    """Name what differs between two runs."""

    def same(a: Any, b: Any) -> bool:
        if isinstance(a, torch.Tensor) and isinstance(b, torch.Tensor):
            if a.dtype.is_floating_point and a.dtype == b.dtype and a.shape == b.shape:
                return torch.allclose(a, b, rtol=0, atol=0, equal_nan=True)
            return a.dtype == b.dtype and torch.equal(a, b)
        return bool(a == b) or (a != a and b != b)  # NaN

    names = [*one, *(name for name in other if name not in one)]
    return [n for n in names if n not in one or n not in other or not same(one[n], other[n])]


def soak(args: list[str], num_kills: int, seed: int, folder: Path) -> tuple[int, list[str]]:
    """Kill ``num_kills`` times or more; return how often, and what differed, run by run."""
    log = folder / "log.txt"

    def go_on(runs_dir: Path, kill_after_s: float | None = None) -> bool:
        command = [*args, "--runs_dir", str(runs_dir), "--resume", "auto"]
        status = finish(start(command, log), kill_after_s)
        assert not status, log.read_text()[-3000:]
        return status is None

    def result(runs_dir: Path) -> dict[str, Any]:
        (done,) = runs_dir.glob("*/*/metrics.json")
        return content(done.parent)

    go_on(folder / "whole")
    began = time.perf_counter()
    go_on(folder / "again")
    seconds = time.perf_counter() - began
    reference = result(folder / "whole")
    failed = []
    if wrong := differences(reference, result(folder / "again")):
        failed.append(f"never killed: {len(wrong)} differ, such as {', '.join(wrong[:3])}")
    draw, num_killed, trial = random.Random(seed), 0, 0
    while num_killed < num_kills:
        trial += 1
        runs_dir = folder / str(trial)
        for number in range(2 + (trial % 3 == 0)):
            is_last = number == 1 + (trial % 3 == 0)
            if not go_on(runs_dir, None if is_last else draw.uniform(0, seconds)):
                break
            num_killed += 1
        if wrong := differences(reference, result(runs_dir)):
            failed.append(f"trial {trial}: {len(wrong)} differ, such as {', '.join(wrong[:3])}")
    return num_killed, failed


def survives_kills(number: int, folder: Path, *args: str) -> None:
    """Check that runs that are killed end as one that is not."""
    num_kills, failed = soak([*args], number, 0, folder)
    assert num_kills >= number
    assert failed == []


def resume_everywhere(args: list[str], folder: Path) -> list[str]:
    """Go on from each state that a run leaves as it writes a checkpoint; say what differed.

    In this process, and in the same place, whose name is in checkpoints.
    """
    copies: list[Path] = []
    write = WholeCheckpointIO.save_checkpoint

    def write_and_copy(io: WholeCheckpointIO, checkpoint: Any, path: Any, **options: Any) -> None:
        write(io, checkpoint, path, **options)
        copies.append(folder / "copies" / f"{len(copies)}, step {checkpoint['global_step']}")
        shutil.copytree(Path(path).parent.parent, copies[-1])

    command = [*args, "--runs_dir", str(folder / "runs"), "--resume", "auto"]
    WholeCheckpointIO.save_checkpoint = write_and_copy  # type: ignore[method-assign, assignment]
    try:
        train(command)
    finally:
        WholeCheckpointIO.save_checkpoint = write  # type: ignore[method-assign]
    (metrics,) = (folder / "runs").glob("*/*/metrics.json")
    run, reference, failed = metrics.parent, content(metrics.parent), []
    for copy in copies:
        shutil.rmtree(run)
        shutil.copytree(copy, run)
        train(command)
        if wrong := differences(reference, content(run)):
            failed.append(f"{copy.name}: {len(wrong)} differ, such as {', '.join(wrong[:3])}")
    assert len(copies) > 3
    return failed


def main() -> int:
    """Print how many killed runs ended as the one that was not."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\\n")[0])
    parser.add_argument("--kills", type=int, default=100)
    parser.add_argument("--seed", type=int, default=0)
    options, args = parser.parse_known_args()
    with tempfile.TemporaryDirectory() as folder:
        began = time.perf_counter()
        killed, failed = soak(args or TINY, options.kills, options.seed, Path(folder))
        minutes = (time.perf_counter() - began) / 60
    print(*failed, f"{killed} kills in {minutes:.1f} min, {len(failed)} not identical", sep="\n")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
