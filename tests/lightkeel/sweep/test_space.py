"""Which points a space has, how they are written, and which spaces are refused."""

from typing import Any

import pytest

from lightkeel.errors.bad_input import InputError
from lightkeel.sweep.space import (
    Choice,
    Range,
    decode,
    each_value,
    encode,
    points,
    read_space,
    suggest,
    tokens,
)

LR = {"low": 0.001, "high": 0.1, "log": True}
NAME = ["SGD", "AdamW"]


def test_each_form_is_read() -> None:
    space = read_space(
        {
            "name": NAME,
            "momentum": {"low": 0.0, "high": 0.9, "step": 0.3, "when": {"name": "SGD"}},
            "lr": LR,
            "width": {"low": 32, "high": 256, "log": True},
            "channels": {"choices": [[32, 64], [64]], "when": {"name": ["SGD", "AdamW"]}},
        }
    )
    assert list(space) == ["name", "momentum", "lr", "width", "channels"]
    assert space == {
        "name": Choice(("SGD", "AdamW")),
        "momentum": Range(0.0, 0.9, step=0.3, when={"name": ("SGD",)}),
        "lr": Range(0.001, 0.1, log=True),
        "width": Range(32, 256, log=True),
        "channels": Choice(([32, 64], [64]), when={"name": ("SGD", "AdamW")}),
    }


def test_grid_has_each_point_once_and_heeds_conditions() -> None:
    space = read_space(
        {
            "name": NAME,
            "momentum": {"choices": [0.0, 0.9], "when": {"name": "SGD"}},
            "nesterov": {"choices": [True, False], "when": {"momentum": 0.9}},
            "drop": {"low": 0.1, "high": 0.3, "step": 0.1},
        }
    )
    drops = (0.1, 0.2, 0.3)  # and not 0.30000000000000004
    sgd = [{"name": "SGD", "momentum": 0.0, "drop": drop} for drop in drops]
    sgd += [
        {"name": "SGD", "momentum": 0.9, "nesterov": nesterov, "drop": drop}
        for nesterov in (True, False)
        for drop in drops
    ]
    assert points(space) == [*sgd, *({"name": "AdamW", "drop": drop} for drop in drops)]
    assert points({}) == [{}]


def test_condition_on_a_list_is_one_value_where_the_list_is_a_choice() -> None:
    space = read_space(
        {
            "channels": [[32, 64], [64], 32],
            "one": {"choices": [1], "when": {"channels": [32, 64]}},
            "some": {"choices": [1], "when": {"channels": [[64], 32]}},
        }
    )
    assert [{*point} - {"channels"} for point in points(space)] == [{"one"}, {"some"}, {"some"}]


def test_each_choice_and_end_occurs_where_its_condition_holds() -> None:
    space = read_space(
        {
            "lr": {"low": 0.0, "high": 1.0, "step": 0.25},
            "name": NAME,
            "beta": {"low": 0.1, "high": 0.9, "when": {"name": "AdamW"}},
        }
    )
    assert each_value(space) == [
        {"lr": 0.0, "name": "SGD"},
        {"lr": 1.0, "name": "AdamW", "beta": 0.1},
        {"lr": 0.0, "name": "AdamW", "beta": 0.9},
    ]
    assert each_value({}) == [{}]


def test_points_are_written_as_the_parser_reads_them() -> None:
    point = {
        "model.channels": [32, 64],
        "model": "SimpleCNN",
        "lr": 1e-5,
        "off": None,
        "on": True,
        "clip": float("inf"),
        "stop": {"monitor": "val/loss"},
        "text": "yes",
    }
    assert tokens(point) == [
        "--model=SimpleCNN",  # before what it is made with
        "--lr=1.0e-05",
        "--off=null",
        "--on=true",
        "--clip=.inf",
        "--stop={monitor: val/loss}",
        "--text=yes",
        "--model.channels=[32, 64]",
    ]


def test_optuna_holds_plain_values() -> None:
    values = (None, [1, 2], {"a": 1}, "SGD", 3, 0.5, False)
    held = ["null", "[1, 2]", "{a: 1}", "SGD", 3, 0.5, False]
    assert [encode({"x": value})["x"] for value in values] == held
    assert [decode({"x": Choice(values)}, {"x": value})["x"] for value in held] == [*values]


def test_steps_of_optuna_are_made_exact() -> None:
    sums = [0.1 + number * 0.1 for number in range(7)]
    assert sums[2] != 0.3
    found = [decode({"x": Range(0.1, 0.7, step=0.1)}, {"x": value})["x"] for value in sums]
    assert found == [0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7]
    uneven = read_space({"x": {"low": 0.0, "high": 1.0, "step": 0.3}})
    assert points(uneven) == [{"x": 0.0}, {"x": 0.3}, {"x": 0.6}, {"x": 0.9}]


@pytest.mark.extras
def test_points_go_through_optuna_and_back() -> None:
    optuna = pytest.importorskip("optuna")
    space = read_space(
        {
            "kind": [None, "SGD", [1, 2], {"a": 1e-5}, 3, False],
            "step": {"low": 0.1, "high": 0.7, "step": 0.1},
            "whole": {"low": 1, "high": 9, "step": 2},
            "log": {"low": 2, "high": 64, "log": True},
            "free": {"low": 0, "high": 1.0, "when": {"kind": "SGD"}},
        }
    )
    study = optuna.create_study(sampler=optuna.samplers.RandomSampler(seed=0))
    for number, kind in enumerate([None, "SGD", [1, 2], {"a": 1e-5}, 3, False]):
        point = {"kind": kind, "step": (0.3, 0.6)[number % 2], "whole": 7, "log": 64}
        point |= {"free": 0.25} if kind == "SGD" else {}
        study.enqueue_trial(encode(point))
        trial = study.ask()
        assert suggest(space, trial) == point
        assert [*map(type, decode(space, trial.params).values())] == [*map(type, point.values())]
        study.tell(trial, 0.0)
    assert [decode(space, trial.params)["kind"] for trial in study.trials][:3] == [
        None,
        "SGD",
        [1, 2],
    ]
    free = suggest(space, study.ask())
    assert free["whole"] in (1, 3, 5, 7, 9)
    assert free["step"] in (0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7)


NEITHER = "is neither choices nor a range. Give choices: [...], or low, high, step and log, as in"


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ([1], "space: [1] is no mapping. Give option: value."),
        ({"lr": 0.1}, f"space.lr: 0.1 {NEITHER}…"),
        ({"lr": {"lwo": 1}}, f"space.lr: {{'lwo': 1}} {NEITHER}…"),
        ({"lr": []}, f"space.lr: [] {NEITHER}…"),
        ({"lr": {"choices": 3}}, f"space.lr: {{'choices': 3}} {NEITHER}…"),
        ({"lr": {"low": 1, "high": 2, "stpe": 1}}, "space.lr: {'low': 1, 'high': 2, 'stpe': 1} …"),
        ({"lr": {"low": 1}}, f"space.lr: {{'low': 1}} {NEITHER}…"),
        ({"lr": [0.1, 0.2, 0.1]}, "space.lr: the choice 0.1 is given twice. Give each once."),
        ({"lr": [[1], [1]]}, "space.lr: the choice [1] is given twice. Give each once."),
        ({"lr": [1, 1.0]}, "space.lr: the choice 1.0 is given twice. Give each once."),
        ({"lr": [None, "null"]}, "space.lr: the choice null is given twice. Give each once."),
        ({"lr": {"low": "a", "high": 2}}, "space.lr: low 'a' is no finite number. Give one."),
        ({"lr": {"low": True, "high": 2}}, "space.lr: low True is no finite number. Give one."),
        (
            {"lr": {"low": 1, "high": float("inf")}},
            "space.lr: high inf is no finite number. Give one.",
        ),
        (
            {"lr": {"low": 1, "high": 2, "log": "yes"}},
            "space.lr: log 'yes' is neither true nor false.",
        ),
        (
            {"lr": {"low": 2, "high": 1}},
            "space.lr: empty, as low 2 is not less than high 1. Give low < high.",
        ),
        (
            {"lr": {"low": 1, "high": 1}},
            "space.lr: empty, as low 1 is not less than high 1. Give low < high.",
        ),
        (
            {"lr": {"low": 0.0, "high": 1.0, "log": True}},
            "space.lr: log: true takes low > 0, and no step.",
        ),
        (
            {"lr": {"low": 1, "high": 9, "log": True, "step": 2}},
            "space.lr: log: true takes low > 0, and no step.",
        ),
        (
            {"lr": {"low": 1, "high": 9, "step": 0}},
            "space.lr: step 0 is not more than 0 and at most high - low.",
        ),
        (
            {"lr": {"low": 0.0, "high": 1.0, "step": 2}},
            "space.lr: step 2 is not more than 0 and at most high - low.",
        ),
        (
            {"lr": LR, "momentum": {"choices": [1], "when": "lr"}},
            "space.momentum.when: 'lr' is no mapping. Give option: value.",
        ),
        (
            {"name": NAME, "momentum": {"choices": [1], "when": {"nam": "SGD"}}},
            "space.momentum.when.nam: is not in the space above. Did you mean `name`?",
        ),
        (
            {"name": NAME, "momentum": {"choices": [1], "when": {"name": "SDG"}}},
            "space.momentum.when.name: SDG is none of its values. Did you mean `SGD`? "
            "Available: AdamW, SGD.",
        ),
        (
            {"lr": LR, "momentum": {"choices": [1], "when": {"lr": 0.01}}},
            "space.momentum.when.lr: 0.01 is none of its values. Available: none.",
        ),
        (
            {
                "a": [1, 2],
                "b": {"choices": [1], "when": {"a": 1}},
                "c": {"choices": [1], "when": {"a": 2, "b": 1}},
            },
            "space.c.when: never holds, as a would need two values at once.",
        ),
    ],
)
def test_spaces_that_are_refused(content: Any, message: str) -> None:
    with pytest.raises(InputError) as caught:
        read_space(content)
    assert str(caught.value).startswith(message.removesuffix("…"))
    assert message.endswith("…") or str(caught.value) == message


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (
            {"name": NAME, "lr": LR},
            "space.lr: a grid needs a step or choices. Give one, or another sampler.",
        ),
        (
            {"a": {"low": 0.0, "high": 1.0, "step": 1e-6}},
            "space: a grid of more than 10,000 points. Use larger steps, or sampler random or tpe.",
        ),
        (
            {"a": {"low": 1, "high": 101, "step": 1}, "b": {"low": 1, "high": 100, "step": 1}},
            "space: a grid of more than 10,000 points. Use larger steps, or sampler random or tpe.",
        ),
    ],
)
def test_grids_that_are_refused(content: Any, message: str) -> None:
    with pytest.raises(InputError) as caught:
        points(read_space(content))
    assert str(caught.value) == message


def test_largest_grid_is_taken() -> None:
    sides = {"a": {"low": 1, "high": 100, "step": 1}, "b": {"low": 1, "high": 100, "step": 1}}
    assert len(points(read_space(sides))) == 10_000
