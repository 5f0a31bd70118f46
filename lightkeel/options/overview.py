"""What there is to choose from: the first page of help, and a list of experiments and classes."""

import re
import shutil
import sys
import textwrap
from collections.abc import Mapping, Sequence
from itertools import pairwise
from pathlib import Path

from ..project import current
from ..runs.files import read_text
from ..runs.output import PIPE_WIDTH
from ..runs.safe_yaml import flatten
from .cache import Known
from .configs import read_yaml, resolve_configs

WIDTH, MOST = 80, 12  # columns of the first page, and experiments on it
HELP = {"--help", "-h"}
# The options that are changed most; those of models and data where the experiment has them.
CHANGED = {
    "trainer.max_epochs": "passes over the training data",
    "data.batch_size": "samples in a step, on all devices together",
    "model.optimizer.name": "a class of torch.optim",
    "model.optimizer.lr": "learning rate",
    "trainer.accelerator": "cpu, gpu, ... (default: the best there is)",
    "trainer.devices": "how many of them",
    "trainer.precision": "such as bf16-mixed, faster on most GPUs",
    "seed_everything": "of weights, order and changes (default: 0)",
    "run_name": "folder of the run (default: the time)",
    "resume": "a run's folder, `last` or `auto`",
}
MORE = {
    "--config NAME --help": "this page, with the values of another experiment",
    "--list": "experiments, models, data, callbacks: a line for each",
    "--model.help [CLASS]": "options of a model (default: that of the experiment)",
    "--data.help [CLASS]": "options of data",
    "--callbacks.NAME.help": "options of a callback",
    "--print_config": "all values, as YAML to be saved for --config FILE",
    "--help all": "all options",
}


def first_page(args: Sequence[str], about: str) -> str:
    """Write what there is on one screen, with the values of the experiment that is chosen."""
    project = current()
    tokens, experiment = resolve_configs([token for token in args if token not in HELP])
    settings: dict[str, object] = {}
    for option, file in pairwise(tokens):
        content = flatten(read_yaml(Path(file))) if option == "--config" else {}
        settings |= {name.replace(".init_args", ""): value for name, value in content.items()}
    chosen = {
        f"--{name} {settings.get(name, '')}".rstrip(): text
        for name, text in CHANGED.items()
        if name in settings or not name.startswith(("model.", "data."))
    }
    files = _experiments("*.yaml")
    room = max(WIDTH - 4 - max(map(len, files), default=0), 20)
    files = {n: textwrap.shorten(text, room, placeholder=" ...") for n, text in files.items()}
    more = {"...": f"and {len(files) - MOST} more, see --list"} if len(files) > MOST else {}
    default = f" (default: {project.default_config})" if project.default_config else ""
    parts = {
        f"Experiments, files in configs/{default}": dict([*files.items()][:MOST]) | more,
        f"Options that are changed most, with what {experiment} has": chosen,
        "More": MORE,
    }
    command = f"{project.command('train')} [--config EXPERIMENT] [--OPTION VALUE ...]"
    return f"{command}\n\n{textwrap.fill(about, WIDTH)}\n{_lists(parts, WIDTH)}"


def choices(known: Known) -> str:
    """Write what experiments, models, data and callbacks there are, a line for each."""
    callbacks = {
        owner.partition(".")[2]: next(iter(classes.values()), "")
        for owner, classes in known.listed.items()
        if owner.startswith("callbacks.")
    }
    parts = {
        "Experiments (--config NAME)": _experiments("*.yaml"),
        "Laid over an experiment (a further --config NAME)": _experiments("overlays/*.yaml"),
        "Models (--model NAME)": known.listed["model"],
        "Data (--data NAME)": known.listed["data"],
        "Callbacks (--callbacks.NAME.OPTION VALUE, --callbacks.NAME null: off)": callbacks,
    }
    width = shutil.get_terminal_size().columns if sys.stdout.isatty() else PIPE_WIDTH
    return _lists(parts, width).lstrip("\n")


def _experiments(pattern: str) -> dict[str, str]:
    """Name the configs of a kind, and the first sentence of each where that is a comment."""
    found = {}
    for path in sorted(current().configs.glob(pattern)):
        first = read_text(path).partition("\n")[0]
        name = str(path.relative_to(current().configs).with_suffix(""))
        found[name] = re.split(r"(?<=\.) ", first)[0].lstrip("# ") * first.startswith("#")
    return found


def _lists(parts: Mapping[str, Mapping[str, str]], width: int) -> str:
    """Write names and what they are in two columns, under titles."""
    lines = []
    for title, rows in parts.items():
        lines += ["", f"{title}:"] * bool(rows)
        left = max(map(len, rows), default=0) + 4
        for name, text in rows.items():
            first, *rest = textwrap.wrap(text, max(width - left, 20)) or [""]
            lines.append(f"  {name}".ljust(left) + first)
            lines += [" " * left + line for line in rest]
    return "\n".join(line.rstrip() for line in lines) + "\n"
