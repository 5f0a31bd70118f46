"""Batches of any loader as a function of seed and epoch, also from the middle of an epoch."""

import random
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import nullcontext
from typing import Any, NamedTuple

import numpy as np
import torch
from lightning.pytorch.utilities import CombinedLoader
from torch import Generator

from ..data.random_streams import RandomStreams

# Objects that hold random numbers of their own, which no checkpoint can hold for them.
OWN_RANDOM = (Generator, np.random.Generator, np.random.RandomState, random.Random)
NOTICE_AFTER_S = 3.0


class Pass(NamedTuple):
    """One pass over the data: what it is a function of, what samplers are told, where it begins."""

    key: tuple[int, ...]
    epoch: int
    first_batch: int = 0


def random_states(device: torch.device) -> dict[str, Any]:
    """Read the global random numbers of torch, numpy and ``random`` in this process."""
    _, words, *rest = np.random.get_state()
    version, numbers, gauss = random.getstate()
    return {
        "cpu": torch.get_rng_state(),
        "numpy": [torch.from_numpy(np.asarray(words).astype(np.int64)), *rest],
        "python": [version, torch.tensor(numbers), gauss],
        **({"cuda": torch.cuda.get_rng_state(device)} if device.type == "cuda" else {}),
    }


def restore_random(states: Mapping[str, Any], device: torch.device) -> None:
    """Set the global random numbers of this process to what ``random_states`` has read."""
    torch.set_rng_state(states["cpu"])
    words, *rest = states["numpy"]
    np.random.set_state(("MT19937", words.numpy().astype(np.uint32), *rest))
    version, numbers, gauss = states["python"]
    random.setstate((version, tuple(numbers.tolist()), gauss))
    if device.type == "cuda" and "cuda" in states:
        torch.cuda.set_rng_state(states["cuda"], device)


class ReplayLoader(CombinedLoader):
    """Loaders whose batches depend on the seed and the epoch, and not on who draws in between.

    At each pass, the random numbers of torch, numpy and ``random`` begin anew from the key of the
    pass, for as long as the loaders are at work; so do generators that were given to loaders or
    samplers. A run that is resumed within an epoch repeats it up to the batch where it was stopped,
    passing over what was trained on. Loaders that can begin anywhere (``begin_at``), or keep a
    state of their own (``state_dict``), are not repeated.

    ``next_pass`` tells which pass is due; ``before_batch`` is called with whether it is the first
    of the pass.
    """

    def __init__(
        self,
        loaders: Any,
        mode: Any,
        next_pass: Callable[[], Pass],
        before_batch: Callable[[bool], None] = lambda _: None,
    ) -> None:
        super().__init__(loaders, mode)
        self._next_pass, self._before_batch = next_pass, before_batch
        self.num_given = 0
        self.current: Pass | None = None
        self._streams: RandomStreams | None = None
        self._generators: dict[Generator, int] = {}

    def __iter__(self) -> "ReplayLoader":
        self.current, self.num_given = self._next_pass(), 0
        loaders = self.flattened
        for sampler in samplers_of(loaders):
            if hasattr(sampler, "set_epoch"):  # workers ask for samples at once, before Lightning
                sampler.set_epoch(self.current.epoch)
        if all(hasattr(loader, "begin_at") for loader in loaders):
            self._streams, self.num_given = None, self.current.first_batch
            for loader in loaders:
                loader.begin_at(self.num_given)
        else:
            self._streams = RandomStreams(self.current.key)
            if all(is_stateful(loader) for loader in loaders):
                self.num_given = self.current.first_batch
            for loader in loaders:
                if getattr(loader, "persistent_workers", False) and loader.generator is None:
                    # Their seed is drawn once, at the first pass: not from what the order follows.
                    loader.generator = Generator()
            parts = [getattr(part, "generator", None) for part in (*loaders, *samplers_of(loaders))]
            for generator in dict.fromkeys(p for p in parts if isinstance(p, Generator)):
                seed = self._generators.setdefault(generator, generator.initial_seed())
                words = np.random.SeedSequence((seed, *self.current.key)).generate_state(2)
                generator.manual_seed((int(words[0]) << 32) + int(words[1]))
        with self._active():
            super().__iter__()
        return self

    def __next__(self) -> Any:
        if self.current != self._next_pass():  # made before the state of the run was restored
            iter(self)
        assert self.current is not None
        is_first = self.num_given <= self.current.first_batch
        if self.num_given < self.current.first_batch:
            self._pass_over(self.current.first_batch)
        self._before_batch(is_first)
        with self._active():
            batch = super().__next__()
        self.num_given += 1
        return batch

    def _pass_over(self, number: int) -> None:
        notice_at = time.monotonic() + NOTICE_AFTER_S
        while self.num_given < number:
            with self._active():  # for each: as it ends, a second normal of numpy is dropped
                try:
                    super().__next__()
                except StopIteration:
                    raise ValueError(
                        f"data: has {self.num_given} batches, but the run to resume was stopped "
                        f"after {number}. Resume with the data that it was trained on."
                    ) from None
                self.num_given += 1
                if time.monotonic() > notice_at:
                    notice_at = float("inf")
                    print(f"passing over {number} batches that were trained on", file=sys.stderr)

    def _active(self) -> Any:
        return nullcontext() if self._streams is None else self._streams.active()


def is_stateful(loader: Any) -> bool:
    """Tell whether a loader can resume by itself; Lightning keeps its state in checkpoints."""
    return hasattr(loader, "state_dict") and hasattr(loader, "load_state_dict")


def samplers_of(parts: list[Any]) -> list[Any]:
    """List the samplers of loaders, and those within samplers."""
    pairs = ((part, name) for part in parts for name in ("sampler", "batch_sampler"))
    found = [inner for part, name in pairs if (inner := getattr(part, name, None)) is not None]
    return [*found, *(samplers_of(found) if found else [])]


def not_resumable(loaders: list[Any]) -> list[str]:
    """Say what is known of loaders that keeps a resumed run from being exact."""
    problems = []
    if 0 < sum(map(is_stateful, loaders)) < len(loaders):
        problems.append("a loader with a state of its own is repeated too, beside others")
    repeated = [part for part in loaders if not (hasattr(part, "begin_at") or is_stateful(part))]
    unseeded = [
        p for p in repeated if not getattr(getattr(p, "dataset", 0), "seeds_samples", False)
    ]
    if any(getattr(loader, "persistent_workers", False) for loader in unseeded):
        text = "the random numbers of persistent workers begin anew (persistent_workers=False)"
        problems.append(text)
    unordered = [part for part in loaders if not getattr(part, "in_order", True)]
    if any(part.num_workers > 1 for part in unordered):
        problems.append("batches come as processes have them ready (in_order=True)")
    alone = [part for part in loaders if not is_stateful(part)]
    for dataset in (d for part in alone for d in datasets_in(getattr(part, "dataset", part))):
        for name, value in getattr(dataset, "__dict__", {}).items():
            for part in value.values() if isinstance(value, dict) else [value]:
                if isinstance(part, OWN_RANDOM):
                    what = f"{type(dataset).__name__}.{name} ({type(part).__name__}) begins anew"
                    problems.append(f"{what} (draw from torch, numpy.random or random)")
    return problems


def datasets_in(dataset: Any) -> Iterator[Any]:
    """List a dataset and those that it takes its samples from, such as of a ``Subset``."""
    yield dataset
    inner = getattr(dataset, "__dict__", {})
    for part in (inner.get("dataset"), *(inner.get("datasets") or ())):
        if part is not None:
            yield from datasets_in(part)
