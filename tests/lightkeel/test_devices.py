import atexit
import os
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from torch import distributed

from lightkeel.fit import devices
from lightkeel.fit.devices import ending_with_first, lacks_bfloat16, leave_at_exit
from src import train
from tests.lightkeel.conftest import TINY


def test_group_is_left_at_exit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    registered: list[Any] = []
    monkeypatch.setattr(atexit, "register", registered.append)
    for world_size, number in ((1, 0), (2, 1), (2, 2)):
        trainer: Any = SimpleNamespace(world_size=world_size)
        leave_at_exit(trainer)
        assert len(registered) == number
    distributed.init_process_group(
        "gloo", init_method=f"file://{tmp_path}/store", rank=0, world_size=1
    )
    for leave in registered:
        leave()  # at the end of both of two runs
        assert not distributed.is_initialized()


@pytest.mark.parametrize(
    ("text", "lacks"),
    [
        ("processor : 0\nflags\t\t: fpu sse avx2 avx512f\nbugs : x\n", True),
        ("processor : 0\nflags\t\t: fpu avx512f avx512_bf16\n", False),
        ("flags : fpu amx_bf16 amx_tile\n", False),
        ("Features\t: fp asimd bf16 i8mm\n", False),
        ("Features\t: fp asimd\n", True),
        ("another system\n", False),
        (None, False),
    ],
)
def test_cpus_without_bfloat16(text: str | None, lacks: bool, tmp_path: Path) -> None:
    path = tmp_path / "cpuinfo"
    if text is not None:
        path.write_text(text)
    assert lacks_bfloat16(path) == lacks


@pytest.mark.parametrize(
    ("precision", "lacks", "lines"),
    [("bf16-mixed", True, 1), ("bf16-mixed", False, 0), ("32-true", True, 0)],
)
def test_slow_precision_is_said(
    precision: str,
    lacks: bool,
    lines: int,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr(devices, "lacks_bfloat16", lambda: lacks)
    args = [*TINY, "--trainer.precision", precision, "--trainer.fast_dev_run", "1"]
    assert train.main([*args, "--runs_dir", str(tmp_path)]) == 0
    said = [line for line in capsys.readouterr().err.splitlines() if "precision" in line]
    assert said == lines * [
        "warning: trainer.precision: bf16-mixed, but this CPU has no AVX512_BF16 or AMX "
        "instructions: up to ten times slower than --trainer.precision 32-true."
    ]


def test_nothing_is_left_for_processes_that_are_started_later(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.delenv("FIRST_DEVICE_PID", raising=False)
    with ending_with_first():
        assert os.environ["FIRST_DEVICE_PID"] == str(os.getpid())
    assert "FIRST_DEVICE_PID" not in os.environ
    monkeypatch.setenv("FIRST_DEVICE_PID", "1")  # by who has started this process
    with ending_with_first():
        assert os.environ["FIRST_DEVICE_PID"] == "1"
    assert os.environ["FIRST_DEVICE_PID"] == "1"
