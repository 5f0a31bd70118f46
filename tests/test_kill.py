"""Runs that are killed and resumed end as if they had not been."""

import torch

from tests.commands import survives_kills
from tests.conftest import TINY
from tests.soak import differences, flat

# Everything whose state a checkpoint must hold.
EVERYTHING = [
    *TINY,
    *("--callbacks.checkpoint.every_n_steps", "1", "--trainer.log_every_n_steps", "2"),
    *("--callbacks.gradient_accumulation.batches", "2", "--data.batch_size", "16"),
    *("--callbacks.lookahead.every_n_steps", "2", "--model.dropout", "0.3"),
]


def test_kills() -> None:
    survives_kills(3, *EVERYTHING)


def test_differences_are_found() -> None:
    one = {"a": {"b": [torch.ones(2), 1.5, float("nan")]}, "c": "x"}
    assert list(dict(flat(one))) == [".a.b.0", ".a.b.1", ".a.b.2", ".c"]
    assert differences(dict(flat(one)), dict(flat(one))) == []
    changed = [
        {"a": {"b": [torch.ones(2).nextafter(torch.zeros(2)), 1.5, float("nan")]}, "c": "x"},
        {"a": {"b": [torch.ones(2), 1.5000001, float("nan")]}, "c": "x"},
        {"a": {"b": [torch.ones(2), 1.5]}, "c": "x"},
        {**one, "d": 0},
    ]
    found = [differences(dict(flat(one)), dict(flat(other))) for other in changed]
    assert found == [[".a.b.0"], [".a.b.1"], [".a.b.2"], [".d"]]
