"""A person's own table, as features and a target."""

import zlib
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from lightning.pytorch.utilities import rank_zero_only
from torch import Tensor, nn
from torch.nn.parameter import is_lazy

from ..errors.checks import warn
from .in_memory import Arrays, InMemoryDataModule, Split
from .table_files import LARGEST, TableError, find_columns, open_rows, read_names
from .table_reader import Missing, TableReader

FAR = 1000  # mean or deviation of a target that is far for a network, whose outputs begin near 0
COARSE = 0.01  # largest step between numbers of float32, as a share of a column's deviation


class Standardize(nn.Module):
    """Bring columns to mean 0 and deviation 1: (B, F) -> (B, F) float32.

    Args:
        mean: Of each column.
        scale: One over the deviation of each; 0 makes a column 0, whatever it holds.
        fill: Replace what is missing (NaN) by the mean.
    """

    mean: Tensor
    scale: Tensor

    def __init__(self, mean: Sequence[float], scale: Sequence[float], fill: bool) -> None:
        super().__init__()
        self.register_buffer("mean", torch.tensor(mean, dtype=torch.float32))
        self.register_buffer("scale", torch.tensor(scale, dtype=torch.float32))
        self.fill = fill

    def forward(self, rows: Tensor) -> Tensor:
        scaled = (rows - self.mean) * self.scale
        return torch.where(scaled.isnan(), 0.0, scaled) if self.fill else scaled

    def inverse(self, inputs: Tensor) -> Tensor:
        """Bring back rows that are scaled to the inputs; of a column of scale 0, its mean."""
        return torch.where(self.scale > 0, inputs / self.scale, 0.0) + self.mean


class TableDataModule(InMemoryDataModule):
    """Serve rows of a CSV, Parquet or npz file: x (B, F) float32, y (B,) float32 or int64.

    Columns of numbers are scaled by mean and deviation of the training rows. What was scaled, how,
    and the classes are kept in checkpoints: a trained model is evaluated, used and exported with
    them whatever has become of the table. Columns are known by name, in any order.

    Args:
        path: Table that is trained on; rows of it are validation and test where these have no own.
        target: Column to predict.
        features: Columns to predict it from; where not given, all others.
        exclude: Columns that are no features.
        classes: The target is a class, by name, and no number.
        missing: What becomes of cells that are empty, NA or NaN: refused, replaced by the mean of
            the training rows, or their rows dropped.
        val_path: Table of validation.
        test_path: Table of test.
        val_fraction: Share for validation where that has no table.
        test_fraction: Share for test where that has no table.
        separator: Between the cells of CSV.
        decimal: Mark of decimals in CSV.
        kwargs: See ``InMemoryDataModule``.
    """

    def __init__(
        self,
        path: str,
        target: str,
        features: Sequence[str] | None = None,
        exclude: Sequence[str] = (),
        classes: bool = False,
        missing: Missing = "error",
        val_path: str | None = None,
        test_path: str | None = None,
        val_fraction: float = 0.1,
        test_fraction: float = 0.1,
        separator: str = ",",
        decimal: Literal[".", ","] = ".",
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        given = {"train": path, "val": val_path, "test": test_path}
        self.paths = {split: Path(p) for split, p in given.items() if p is not None}
        shares = {"val": val_fraction, "test": test_fraction}
        self.fractions = {split: f for split, f in shares.items() if split not in self.paths}
        for split, fraction in self.fractions.items():
            if not 0 < fraction < 1:
                raise ValueError(f"{split}_fraction: {fraction} is not in (0, 1).")
        if sum(self.fractions.values()) >= 1:
            raise ValueError(f"val_fraction: {val_fraction} with test_fraction leaves no training.")
        separator = "\t" if separator == r"\t" else separator  # as a command line has it
        if len(separator) != 1 or separator in f'"\r\n{decimal}':
            raise ValueError(f"separator: {separator!r} is no mark between cells, such as `;`.")
        if features is not None and not features:
            raise ValueError("features: [] is empty. Leave it out for all.")
        for name in features or ():
            if name == target or list(features or ()).count(name) > 1:
                wrong = "is the target" if name == target else "is given twice"
                raise ValueError(f"features: `{name}` {wrong}. Leave it out.")
        self.target, self.features, self.exclude = target, features, exclude
        self.classes, self.missing = classes, missing
        self.separator, self.decimal = separator, decimal
        self.trained_rows: int | None = None  # of the table, where it was that of a trained model

    @cached_property
    def feature_names(self) -> list[str]:
        """Names of the columns of x, in order: those of a trained model, or of the table."""
        with self._reading("train") as path:
            names = read_names(path, open_rows(path, self.separator))
            find_columns(path, [self.target, *self.exclude], names)
        left = [name for name in names if name not in (self.target, *self.exclude)]
        if self.features is None and "" in left:
            wrong = f"column {names.index('') + 1} has no name: is it an index?"
            raise ValueError(f"path: {path}: {wrong} Leave it out: data.exclude [''].")
        if not (chosen := left if self.features is None else list(self.features)):
            raise ValueError(f"path: {path}: has no column beside the target `{self.target}`.")
        return chosen

    @property
    def num_features(self) -> int:
        return len(self.feature_names)

    @property
    def class_names(self) -> list[str] | None:
        if self.classes and self.trained_classes is None:
            self.read("train")
        return self.trained_classes

    @property
    def num_classes(self) -> int | None:
        return len(self.class_names or ()) or None

    @cached_property
    def scaling(self) -> Standardize:
        """What brings features to mean 0 and deviation 1 over the training rows."""
        inputs = self.read("train").inputs
        rows = inputs[self.select("train", len(inputs))].double().numpy()
        for place, name in enumerate(self.feature_names):
            if np.isnan(rows[:, place]).all():
                raise ValueError(f"path: {self.paths['train']}: no row has a `{name}`. Exclude it.")
        # Of float32, sums in float64 are exact: the deviation of equal numbers is 0.
        mean, std = np.nanmean(rows, 0), np.nanstd(rows, 0)
        steps = np.spacing(np.nanmax(np.abs(rows), 0).astype(np.float32))
        for name, deviation, step in zip(self.feature_names, std, steps, strict=True):
            if deviation == 0:
                same = "is the same in all training rows (in float32), and taken for 0."
                _say(f"data: column `{name}` {same}")
            elif 1 / deviation > LARGEST:
                small = f"column `{name}` has a deviation of {deviation:.3g}, too small for float32"
                raise ValueError(
                    f"path: {self.paths['train']}: {small}. Multiply it by a constant."
                )
            elif step > COARSE * deviation:
                off = f"holds `{name}` in steps of {step:g}, for a deviation of {deviation:.3g}"
                _say(f"data: float32 {off}. Subtract a constant from it in the table.")
        scale = np.divide(1, std, out=np.zeros_like(std), where=std > 0)
        return Standardize(mean.tolist(), scale.tolist(), self.missing == "mean")

    @cached_property
    def checksum(self) -> int | None:
        """CRC-32 of what was read of the table; None of a model whose checkpoint has none."""
        return checksum_of(self.read("train"))

    def preprocessing(self) -> nn.Module:
        return Standardize(*self._scales(), self.scaling.fill)

    def transform(self, inputs: Tensor, rows: Tensor, split: Split) -> Tensor:
        if self.scaling.mean.device != inputs.device:
            self.scaling.to(inputs.device)
        scaled: Tensor = self.scaling(inputs)
        return scaled

    def state_dict(self) -> dict[str, Any]:
        mean, scale = self._scales()
        names, classes = self.feature_names, self.class_names
        rows = self.trained_rows or len(self.read("train").targets)
        table = {"rows": rows, "crc": self.checksum}
        return {"features": names, "classes": classes, "mean": mean, "scale": scale, **table}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self.use_trained(state_dict)

    def use_trained(self, state: dict[str, Any]) -> None:
        """Take features, scaling and classes from the state of a trained model."""
        try:
            names, classes, rows = list(state["features"]), state["classes"], int(state["rows"])
            mean, scale = (list(map(float, state[name])) for name in ("mean", "scale"))
            if not len(names) == len(mean) == len(scale):
                raise ValueError(f"{len(names)} features, {len(mean)} means")
        except (LookupError, TypeError, ValueError) as error:
            raise ValueError(f"what RUN holds of its table is damaged ({error}).") from None
        if self.features is not None and list(self.features) != names:
            trained = f"but the model was trained with {names}. Give none."
            raise ValueError(f"features: {list(self.features)}, {trained}")
        self.feature_names, self.scaling = names, Standardize(mean, scale, self.missing == "mean")
        self.trained_classes, self.trained_rows = classes, rows
        self.checksum = state.get("crc")

    def prepare_data(self) -> None:
        super().prepare_data()
        running = self.trainer.state.fn if self.trainer else None
        # Before training that of test too: what is wrong with it would be found at the end.
        for source in self.needed() if running in ("validate", "test") else self.paths:
            self.read(source)

    def setup(self, stage: str) -> None:
        super().setup(stage)
        if stage == "fit":
            _ = self.scaling
            self._warn_of_unit()

    def source(self, split: Split) -> str:
        return split if split in self.paths else "train"

    def select(self, split: Split, num_rows: int) -> Tensor:
        if split != "train" and split in self.paths:
            return torch.arange(num_rows)
        return self.split_rows(num_rows, **self.fractions)[split]

    def load(self, source: str) -> Arrays:
        if source != "train" and self.classes:
            _ = self.class_names  # which are those of training
        known = self.trained_classes
        codes = {name: code for code, name in enumerate(known or ())} if self.classes else None
        settings = self.separator, self.decimal, self.missing, codes, known is None
        reader = TableReader(self.target, self.feature_names, *settings)
        with self._reading(source) as path:
            table = reader.read(path)
        table = self._without_missing(path, table)
        arrays = Arrays(table[:, 1:].contiguous(), table[:, 0].contiguous())
        if codes is not None:
            arrays = arrays._replace(targets=self._classes_of(arrays.targets.long(), codes))
        if source == "train" and self.trained_rows is not None and self.fractions:
            self._compare(path, arrays)
        return arrays

    def _classes_of(self, targets: Tensor, codes: dict[str, int]) -> Tensor:
        """Number classes in the order of their names, which are learned if there are none yet."""
        if self.trained_classes is None:
            if len(codes) == 1:
                only = f"holds one class only, {min(codes)}"
                raise ValueError(f"target: column `{self.target}` {only}.")
            self.trained_classes = sorted(codes)
            order = {name: code for code, name in enumerate(self.trained_classes)}
            return torch.tensor([order[name] for name in codes])[targets]
        return targets

    def _compare(self, path: Path, arrays: Arrays) -> None:
        """Say if a table that is split is not the one that was split in training."""
        trained = "when the model was trained"
        if (rows := len(arrays.targets)) != self.trained_rows:
            has = f"{rows} rows, and had {self.trained_rows} {trained}"
            _say(f"data.path: {path} has {has}: other rows are in its parts.")
        elif self.checksum not in (None, checksum_of(arrays)):
            has = f"other values, or rows in another order, than {trained}"
            _say(f"data.path: {path} has {has}: rows of training may be in other parts.")

    def _warn_of_unit(self) -> None:
        """Say if a target is far from what a network gives at first: it would learn for long."""
        model = self.trainer.lightning_module if self.trainer else None
        if self.classes or self.trained_rows is not None or model is None:
            return
        if (
            sum(is_lazy(weights) or weights.ndim > 1 for weights in model.parameters()) < 2
        ):  # any scale is as easy
            return
        targets = self.datasets["train"].arrays.targets[self.datasets["train"].rows].double()
        mean, std = float(targets.mean()), float(targets.std(correction=0))
        if max(abs(mean), std) > FAR:
            far = f"`{self.target}` is {mean:.3g} ± {std:.3g}, far from 0 ± 1, where networks begin"
            _say(f"data.target: {far}. Write it in another unit, such as thousands.")

    def _without_missing(self, path: Path, table: Tensor) -> Tensor:
        """Drop the rows in which a cell is missing, or say how many cells are filled."""
        missing = table.isnan()
        if self.missing == "mean" and (count := int(missing.sum())):
            cells = f"{count} cells of {path} are" if count > 1 else f"1 cell of {path} is"
            _say(f"data.missing: {cells} replaced by the mean of their column.")
        whole = ~missing.any(1)
        if self.missing != "drop" or whole.all():
            return table
        dropped = f"dropped {len(table) - int(whole.sum())} of {len(table)} rows of {path}"
        _say(f"data.missing: {dropped}, in which a cell is missing.")
        if not whole.any():
            raise ValueError(f"missing: drop leaves none of the rows of {path}.")
        return table[whole]

    @contextmanager
    def _reading(self, source: str) -> Iterator[Path]:
        """Say of what is wrong with the table of a source which option names it."""
        option, path = "path" if source == "train" else f"{source}_path", self.paths[source]
        try:
            yield path
        except OSError as error:
            raise type(error)(f"{option}: {path}: cannot be read ({error.strerror}).") from None
        except TableError as error:
            lacks_target = f"has no column `{self.target}`" in str(error)
            running = self.trainer and self.trainer.state.fn
            evaluates = lacks_target and running in ("validate", "test")
            hint = "\nThe target is needed to evaluate; `predict` needs none." if evaluates else ""
            raise ValueError(f"{option}: {error}{hint}") from error.__cause__

    def _scales(self) -> tuple[list[float], list[float]]:
        return self.scaling.mean.tolist(), self.scaling.scale.tolist()


def checksum_of(arrays: Arrays) -> int:
    """Return the CRC-32 of all samples."""
    return zlib.crc32(arrays.inputs.numpy().data, zlib.crc32(arrays.targets.numpy().data))


_say = rank_zero_only(warn)
