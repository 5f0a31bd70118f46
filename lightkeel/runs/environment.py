"""Where and how a run was started."""

import datetime
import os
import platform
import subprocess
import sys
from typing import Any

import lightning
import torch
from lightning.pytorch import Trainer

from ..project import current, started_as


def environment(trainer: Trainer) -> dict[str, Any]:
    """Describe where and how a run was started."""
    device = trainer.strategy.root_device
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else platform.processor()
    return {
        "command": " ".join([started_as(), *sys.argv[1:]]),
        "started": datetime.datetime.now(datetime.timezone.utc).isoformat(timespec="seconds"),
        "git_commit": _git("rev-parse", "HEAD"),
        "git_changed": bool(_git("status", "--porcelain")),
        "device": f"{device.type} {name}".strip(),
        "num_devices": trainer.world_size,
        "num_cpus": os.cpu_count(),
        "platform": platform.platform(),
        "python": platform.python_version(),
        "torch": str(torch.__version__),
        "lightning": str(lightning.__version__),
        "packages": _versions(),
    }


def _versions() -> dict[str, str]:
    """List the versions of the packages that this process has imported."""
    versions = {name: vars(module).get("__version__") for name, module in sys.modules.items()}
    own = {n: str(v) for n, v in versions.items() if v and "." not in n}
    return {name: own[name] for name in sorted(own.keys() - sys.stdlib_module_names)}


def _git(*args: str) -> str | None:
    options: dict[str, Any] = {"cwd": current().root, "stderr": subprocess.DEVNULL, "timeout": 10}
    try:
        return str(subprocess.check_output(["git", *args], text=True, **options)).strip()
    except (OSError, subprocess.SubprocessError):
        return None
