"""Which options a name may stand for that is none: part of one, misspelt, or of another tool."""

import difflib
import re
from collections.abc import Iterable, Mapping

from ..project import current
from .cache import Class, Known

# Names of other tools, without dashes and underscores, by what to give here.
OTHER_TOOLS = {
    "config": "cfg conf exp experiment configfile",
    "config overlays/debug": "debug",
    "config overlays/wandb": "wandb usewandb",
    "data": "dataset ds task",
    "data.batch_size": "bs batch bsz trainbatchsize perdevicetrainbatchsize",
    "data.num_workers": "workers nworkers dataloadernumworkers",
    "model": "arch architecture backbone net network modelname",
    "model.lr_scheduler.name": "lrschedule lrschedulertype sched schedule scheduler",
    "model.optimizer.lr": "baselr learningrate lr",
    "model.optimizer.momentum": "momentum",
    "model.optimizer.name": "opt optim optimizer",
    "model.optimizer.weight_decay": "decay l2 wd weightdecay",
    "callbacks.gradient_accumulation.batches": "accumgrad gradaccum gradientaccumulationsteps",
    "callbacks.gradient_clipping.max_norm": "clip clipgrad gradclip maxgradnorm",
    "resume": "checkpoint ckpt ckptpath load loadfrom resumefrom resumefromcheckpoint",
    "run_name": "expname experimentname name runid",
    "runs_dir": "logdir outdir output outputdir savedir savepath",
    "seed_everything": "manualseed randomseed seed",
    "trainer.accelerator": "device",
    "trainer.accelerator cpu": "cpu nocuda nogpu",
    "trainer.accelerator gpu": "cuda gpu usecuda usegpu",
    "trainer.accelerator gpu --trainer.devices N": "gpuids gpus ngpu ngpus numgpus",
    "trainer.enable_progress_bar false": "noprogress quiet silent",
    "trainer.fast_dev_run true": "dryrun smoketest",
    "trainer.log_every_n_steps": "logfreq loggingsteps loginterval printfreq",
    "trainer.max_epochs": "epoch epochs nepoch nepochs numepoch numepochs numtrainepochs",
    "trainer.max_steps": "iterations maxiter maxiters numsteps steps",
    "trainer.precision 16-mixed": "amp fp16 half mixedprecision useamp",
    "trainer.precision bf16-mixed": "bf16 bfloat16",
    "callbacks.progress.interval_s": "verbose",
}
WORDS = {word: target for target, words in OTHER_TOOLS.items() for word in words.split()}
MOST, NEAR = 3, 0.8  # options that are named; how alike a misspelt name is


def plain(name: str) -> str:
    """Write a name as others do who take dashes, underscores and capitals otherwise."""
    return re.sub("[-_]", "", name).lower()


def guess(
    name: str,
    known: Known,
    chosen: Mapping[str, Class | None],
    given: Iterable[str],
    nearly: bool = False,
) -> str:
    """Ask whether options of that name were meant, or what other tools call so; empty: of none.

    Args:
        name: What was given, with dots.
        known: What the parser knows.
        chosen: The class of the model, the data and each callback; None: any.
        given: Options that are given already, in configs or on the command line.
        nearly: Whether a name may be misspelt.
    """
    made = [f"{owner}.{part}" for owner, cls in chosen.items() if cls for part in cls[1]]
    options = [*dict.fromkeys([*given, *made, *known.names])]
    found = _ending(name, options)
    target = WORDS.get(plain(name), "")
    if target and _is_there(target, chosen, options, made):
        others = (o for o in found if o != target and not target.startswith(f"{o}."))
        found = [target, *others]
    asked = [f"`--{option}`" for option in found[:MOST]] or _of_other_classes(name, known)
    if asked:
        return f"Did you mean {' or '.join(asked)}?"
    parts = {name.rpartition(".")[2] for name in options}
    parts |= {part for cls in known.classes.values() if cls for part in cls[1]}
    words = [*WORDS, *map(plain, parts)]
    last = plain(name.rpartition(".")[2])
    near = difflib.get_close_matches(last, words, 1, NEAR) if nearly else []
    return guess(near[0], known, chosen, given) if near else ""


def _ending(name: str, options: Iterable[str]) -> list[str]:
    return [option for option in options if f".{plain(option)}".endswith(f".{plain(name)}")]


def _is_there(
    target: str, chosen: Mapping[str, Class | None], options: Iterable[str], made: Iterable[str]
) -> bool:
    option, _, value = target.partition(" ")
    if option == "config" and value:
        return (current().configs / f"{value}.yaml").is_file()
    owner = next((owner for owner in chosen if option.startswith(f"{owner}.")), None)
    is_any = owner is not None and chosen[owner] is None
    return is_any or option in options or any(option.startswith(f"{part}.") for part in made)


def _of_other_classes(name: str, known: Known) -> list[str]:
    """List the options of that name of models and data that are not chosen."""
    found: dict[str, list[str]] = {}
    for owner, listed in known.listed.items():
        for short in listed:
            made = known.classes.get(f"{owner}:{short}") or ("", [])
            for option in _ending(name, [f"{owner}.{part}" for part in made[1]]):
                found.setdefault(option, []).append(short)
    more = {
        option: f" and {len(some) - 1} more" * (len(some) > 1) for option, some in found.items()
    }
    return [f"`--{option}` (of {some[0]}{more[option]})" for option, some in found.items()][:MOST]
