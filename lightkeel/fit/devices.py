"""How the processes of several devices begin and end."""

import atexit
import os
import re
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from lightning.pytorch import Trainer
from lightning.pytorch.accelerators import CPUAccelerator
from lightning.pytorch.utilities import rank_zero_only
from torch import distributed

from ..errors.checks import warn

LOOK_EVERY_S = 5.0
# Instructions for it, as Linux names them; ARM's last.
BFLOAT16 = {"avx512_bf16", "amx_bf16", "bf16"}


def lacks_bfloat16(cpu: Path = Path("/proc/cpuinfo")) -> bool:
    """Tell whether the CPU lacks instructions for bfloat16; False where nobody says."""
    text = cpu.read_text() if cpu.exists() else ""
    found = re.search(r"^(flags|Features)\s*:(.*)$", text, re.MULTILINE)
    return found is not None and not BFLOAT16 & set(found[2].split())


@rank_zero_only
def warn_of_slow_precision(trainer: Trainer) -> None:
    """Say on standard error that the CPU has to imitate the arithmetic that is asked for."""
    is_bfloat16 = str(trainer.precision).startswith("bf16")
    if is_bfloat16 and isinstance(trainer.accelerator, CPUAccelerator) and lacks_bfloat16():
        warn(
            f"trainer.precision: {trainer.precision}, but this CPU has no AVX512_BF16 or AMX "
            "instructions: up to ten times slower than --trainer.precision 32-true."
        )


def leave_at_exit(trainer: Trainer) -> None:
    """Have this process leave the others before Python ends, where they ended in agreement.

    Otherwise threads of the process group may abort it (pytorch issue 190489). Not at once: it may
    train again. Not after a crash: leaving would wait for whoever it was at work with.
    """

    def leave() -> None:
        if distributed.is_available() and distributed.is_initialized():
            distributed.destroy_process_group()

    if trainer.world_size > 1:
        atexit.register(leave)


def busy_port(error: BaseException) -> str | None:
    """Say that the port is taken where processes are to meet, if that is what is wrong."""
    if not isinstance(error, RuntimeError) or "EADDRINUSE" not in str(error):
        return None
    port = os.environ.get("MASTER_PORT")
    return f"MASTER_PORT {port}: is in use by another process.\nSet it to a free port, or unset it."


@contextmanager
def ending_with_first() -> Iterator[None]:
    """In a process that another one started for its device, end when that one is gone.

    On GPUs it may wait for the other in the midst of a sum over devices, for half an hour.
    """
    is_first = "FIRST_DEVICE_PID" not in os.environ
    first = int(os.environ.setdefault("FIRST_DEVICE_PID", str(os.getpid())))
    done = threading.Event()

    def watch() -> None:
        while not done.wait(LOOK_EVERY_S):
            if os.getppid() != first:
                text = "the process of the first device is gone: ending too"
                print(text, file=sys.stderr, flush=True)
                os._exit(1)

    if os.environ.get("LOCAL_RANK", "0") != "0" and os.getppid() == first:
        threading.Thread(target=watch, daemon=True).start()
    try:
        yield
    finally:
        done.set()
        if is_first:  # or runs that this process starts later would watch for it
            os.environ.pop("FIRST_DEVICE_PID", None)
