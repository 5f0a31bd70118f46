import atexit
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from torch import distributed

from src.devices import leave_at_exit


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
