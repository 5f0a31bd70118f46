"""Which options a name may stand for that is none: part of one, misspelt, or of another tool."""

import difflib
import re
from collections.abc import Iterable

from .cache import Known

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


def ending(name: str, options: Iterable[str]) -> list[str]:
    """List the options whose dotted names end with a name, however that is written."""
    return [option for option in options if f".{plain(option)}".endswith(f".{plain(name)}")]


def of_other_classes(name: str, known: Known) -> list[str]:
    """List the options of that name which some of the project's classes have, and of which."""
    found: dict[str, list[str]] = {}
    for owner, listed in known.listed.items():
        for short in listed:
            _, parts = known.classes.get(f"{owner}:{short}") or ("", [])
            for option in ending(name, [f"{owner}.{part}" for part in parts]):
                found.setdefault(option, []).append(short)
    more = {
        option: f" and {len(some) - 1} more" * (len(some) > 1) for option, some in found.items()
    }
    return [f"`--{option}` (of {some[0]}{more[option]})" for option, some in found.items()]


def nearest(name: str, options: Iterable[str], known: Known) -> str:
    """Return the part of an option, or the word of another tool, that a name may be misspelt of."""
    parts = {option.rpartition(".")[2] for option in options}
    parts |= {part for cls in known.classes.values() if cls for part in cls[1]}
    last = plain(name.rpartition(".")[2])
    near = difflib.get_close_matches(last, [*WORDS, *map(plain, parts)], 1, NEAR)
    return near[0] if near else ""
