"""Data beyond the disk of one machine: streamed from folders and object storage by litdata."""

import os
from collections.abc import Callable, Iterator
from functools import cache
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from lightning.pytorch import LightningDataModule

from ..errors.checks import at_least, warn


class StreamingDataModule(LightningDataModule):
    """Serve data sets made by ``litdata.optimize``; needs litdata (``make setup ADD=litdata``).

    Order, shards, prefetching and the place at which a killed run resumes are litdata's own:

    - An epoch is a function of (seed, epoch), for the same numbers of devices and workers; with
      other numbers it has another order. A run is resumed exactly, also within an epoch, by as
      many devices and workers.
    - What ``transform`` draws at random is no function of the sample, and other after a resume.
    - On several devices, samples that cannot be shared equally are left out, which is said, in
      validation and test too.

    Batches are what ``collate_fn`` makes. All else is as in PyTorch, with the names of litdata.

    Args:
        input_dir: Folder or address (``s3://``, ``gs://``, ``azure://``, ``hf://``) to train on.
        val_input_dir: The same for validation; none where not given.
        test_input_dir: The same for test; none where not given.
        batch_size: Samples in one forward pass over all devices together.
        seed: Of the order; the seed of the run where not given.
        shuffle: Draw a new order of chunks, and of samples within them, for each epoch.
        drop_last: Leave out training samples that cannot be shared; where not given, on several
            devices.
        cache_dir: Where chunks from an address are kept.
        max_cache_size: Of these chunks, such as ``100GB``.
        subsample: Share of the training samples to train on.
        storage_options: Of the object storage: credentials, region, endpoint.
        max_pre_download: Chunks that each worker fetches ahead.
        transform: Changes a sample as it is read.
        collate_fn: Makes a batch from a list of samples.
        num_workers: Processes that read samples.
        pin_memory: Copy batches to page-locked memory.
        persistent_workers: Keep the processes between epochs.
        prefetch_factor: Batches that each process prepares ahead.
        timeout: Seconds to wait for a batch from a process, 0: for ever.
    """

    def __init__(
        self,
        input_dir: str,
        val_input_dir: str | None = None,
        test_input_dir: str | None = None,
        batch_size: int = 32,
        seed: int | None = None,
        shuffle: bool = True,
        drop_last: bool | None = None,
        cache_dir: str | None = None,
        max_cache_size: int | float | str | None = None,
        subsample: float = 1.0,
        storage_options: dict[str, Any] | None = None,
        max_pre_download: int = 2,
        transform: Callable[[Any], Any] | None = None,
        collate_fn: Callable[[list[Any]], Any] | None = None,
        num_workers: int = 0,
        pin_memory: bool = False,
        persistent_workers: bool = False,
        prefetch_factor: int | None = None,
        timeout: float = 0,
    ) -> None:
        super().__init__()
        self.seed = int(os.environ.get("PL_GLOBAL_SEED", 0)) if seed is None else seed
        at_least(1, batch_size=batch_size, max_pre_download=max_pre_download)
        at_least(0, seed=self.seed, num_workers=num_workers, timeout=timeout)
        if not 0 < subsample <= 1:
            raise ValueError(f"subsample: {subsample} is not in (0, 1].")
        needing = {"persistent_workers": persistent_workers, "prefetch_factor": prefetch_factor}
        for name, setting in {**needing, "timeout": timeout}.items():
            if setting and num_workers == 0:
                raise ValueError(f"{name}: {setting} needs worker processes. Set num_workers too.")
        if find_spec("litdata") is None:
            text = "StreamingDataModule needs litdata, which is not installed."
            raise ValueError(f"{text}\nRun `make setup ADD=litdata`.")
        self.addresses = {"": input_dir, "val_": val_input_dir, "test_": test_input_dir}
        self.global_batch_size = batch_size
        self.training = {"shuffle": shuffle, "drop_last": drop_last, "subsample": subsample}
        self.dataset_options = {
            "seed": self.seed,
            "cache_dir": cache_dir,
            "max_cache_size": max_cache_size,
            "storage_options": storage_options,
            "max_pre_download": max_pre_download,
            "transform": transform,
        }
        self.loader_options = {
            **needing,
            "collate_fn": collate_fn,
            "num_workers": num_workers,
            "pin_memory": pin_memory,
            "timeout": timeout,
        }

    def prepare_data(self) -> None:
        devices = self.trainer.world_size if self.trainer else 1
        if self.global_batch_size % devices:
            shared = f"{self.global_batch_size} samples cannot be shared by {devices} devices."
            raise ValueError(f"batch_size: {shared}")
        for name, address in self.addresses.items():
            is_local = address is not None and "://" not in address
            if is_local and not (Path(str(address)) / "index.json").is_file():
                made = "holds no data set of litdata (index.json). Make it with litdata.optimize."
                raise FileNotFoundError(f"{name}input_dir: {address} {made}")

    def train_dataloader(self) -> Any:
        return self._loader("", **self.training)

    def val_dataloader(self) -> Any:
        return self._loader("val_")

    def test_dataloader(self) -> Any:
        return self._loader("test_")

    def _loader(self, name: str, **options: Any) -> Any:
        if self.addresses[name] is None:
            return []
        from litdata import StreamingDataset

        data = StreamingDataset(self.addresses[name], **{**self.dataset_options, **options})
        devices = self.trainer.world_size if self.trainer else 1
        if devices > 1 and data.drop_last and self.trainer and self.trainer.is_global_zero:
            each = f"each of {devices} devices has {len(data)} samples"
            warn(f"data.{name}input_dir: {each}, and litdata leaves out what is left.")
        size = self.global_batch_size // devices
        loader = loader_class()(data, batch_size=size, **self.loader_options)
        loader.trainer = self.trainer
        return loader


@cache
def loader_class() -> Any:
    """Make litdata's loader, for a trainer that leaves a pass before its end and counts epochs."""
    from litdata import StreamingDataLoader

    class CountedLoader(StreamingDataLoader):  # type: ignore[misc]
        trainer: Any = None
        is_resumed = restore = False

        def load_state_dict(self, obj: dict[str, Any]) -> None:
            self.is_resumed = False
            super().load_state_dict(obj)

        def __iter__(self) -> Iterator[Any]:
            # Lightning asks for all batches, and never for the end: the pass is not yet over.
            self.restore = self.is_resumed = self.restore and not self.is_resumed
            if not self.restore and self.trainer:  # Lightning loads no state between two epochs
                self.current_epoch = self.trainer.current_epoch
            yield from super().__iter__()

    return CountedLoader
