"""The space of a sweep: options of the experiment, and the values that each may take."""

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from decimal import Decimal
from itertools import islice
from typing import Any

import yaml

from ..errors.bad_input import InputError
from ..errors.checks import suggest as nearest

EXAMPLE = "model.optimizer.lr: {low: 0.001, high: 0.1, log: true}"
FORMS = f"Give choices: [...], or low, high, step and log, as in `{EXAMPLE}`."
MOST_POINTS = 10_000  # of a grid: more than anybody trains


@dataclass(frozen=True)
class Choice:
    """One of some values; ``when``: only where other options have one of these values."""

    choices: tuple[Any, ...]
    when: Mapping[str, Any] = field(default_factory=dict)

    @property
    def values(self) -> tuple[Any, ...]:
        """All values, and what must fit for all to fit."""
        return self.choices

    ends = values

    def wrong(self) -> str | None:
        """Say what is wrong with the choices."""
        for number, value in enumerate(self.choices):
            others = self.choices[:number]
            if value in others or text(value) in map(text, others):
                return f"the choice {text(value)} is given twice. Give each once."
        return None

    def suggest(self, name: str, trial: Any) -> Any:
        """Ask an Optuna trial for a value, in Optuna's form."""
        return trial.suggest_categorical(name, [*map(_encoded, self.choices)])

    def decode(self, value: Any) -> Any:
        """Return the value that Optuna's form stands for."""
        return next(own for own in self.choices if text(own) == text(value))

    def written(self) -> Any:
        """Return what stands for the choices in the file of a sweep."""
        choices = [*self.choices]
        return {"choices": choices, **_written(self.when)} if self.when else choices


@dataclass(frozen=True)
class Range:
    """Numbers from ``low`` to ``high``, both included: whole ones where both are whole."""

    low: float
    high: float
    step: float | None = None
    log: bool = False
    when: Mapping[str, Any] = field(default_factory=dict)

    @property
    def is_whole(self) -> bool:
        """Whether these are whole numbers."""
        return all(isinstance(number, int) for number in (self.low, self.high, self.step or 1))

    @property
    def ends(self) -> tuple[Any, ...]:
        """What must fit for all to fit."""
        return (self._at(0), self._at(self.num_steps)) if self.step else (self.low, self.high)

    @property
    def values(self) -> tuple[Any, ...]:
        """All numbers of a range with a step, or so many that no grid takes them; else none."""
        most = min(self.num_steps, MOST_POINTS)
        return tuple(map(self._at, range(most + 1))) if self.step else ()

    @property
    def num_steps(self) -> int:
        """Steps from one end to the other."""
        return int((_exact(self.high) - _exact(self.low)) / _exact(self.step)) if self.step else 0

    def wrong(self) -> str | None:
        """Say why a range has no numbers, or which of its settings is none."""
        low, high, step, log = self.low, self.high, self.step, self.log
        for name, number in (("low", low), ("high", high), ("step", step or 1)):
            if type(number) not in (int, float) or not math.isfinite(number):
                return f"{name} {number!r} is no finite number. Give one."
        refused = {
            f"empty, as low {low} is not less than high {high}. Give low < high.": low >= high,
            f"step {step} is not more than 0 and at most high - low.": (
                step is not None and not 0 < step <= high - low
            ),
            f"log {log!r} is neither true nor false.": not isinstance(log, bool),
            "log: true takes low > 0, and no step.": log and (low <= 0 or step is not None),
        }
        return next((why for why, is_so in refused.items() if is_so), None)

    def suggest(self, name: str, trial: Any) -> Any:
        """Ask an Optuna trial for a value."""
        if self.is_whole:
            return trial.suggest_int(name, self.low, self.high, step=self.step or 1, log=self.log)
        return trial.suggest_float(name, self.low, self.high, step=self.step, log=self.log)

    def decode(self, value: Any) -> Any:
        """Return the number that Optuna's form stands for: 0.3 where steps add up to 0.30..04."""
        if self.step is None:
            return int(value) if self.is_whole else value
        return self._at(round((value - self.low) / self.step))

    def written(self) -> Any:
        """Return what stands for the range in the file of a sweep."""
        more = {"step": self.step} if self.step else {"log": True} if self.log else {}
        return {"low": self.low, "high": self.high, **more, **_written(self.when)}

    def _at(self, number: int) -> Any:
        value = _exact(self.low) + number * _exact(self.step)
        return int(value) if self.is_whole else float(value)


Parameter = Choice | Range
Space = dict[str, Parameter]


def read_space(content: Any) -> Space:
    """Read the ``space`` of a sweep file: options by their dotted names.

    Raises:
        InputError: A range without a number in it, choices that repeat, a condition that never
            holds; the message names the option, the value and what to do.
    """
    space: Space = {}
    for name, value in mapping("space", content).items():
        space[str(name)] = _read(f"space.{name}", value, space)
    return space


def mapping(key: str, value: Any) -> dict[Any, Any]:
    """Return a part of a sweep file that has to be a mapping."""
    if not isinstance(value, dict):
        raise InputError(f"{key}: {value!r} is no mapping. Give option: value.")
    return value


def _read(key: str, value: Any, above: Space) -> Parameter:
    """Read choices or a range; its conditions are about options ``above``."""
    given = {"choices": value} if isinstance(value, list) else value
    try:
        when = _conditions(f"{key}.when", mapping(f"{key}.when", given.get("when") or {}), above)
        if "choices" not in given:
            made: Parameter = Range(**{**given, "when": when})
        elif isinstance(given["choices"], list) and given["choices"]:
            made = Choice(**{**given, "choices": tuple(given["choices"]), "when": when})
        else:
            raise TypeError
    except (TypeError, AttributeError):
        raise InputError(f"{key}: {value!r} is neither choices nor a range. {FORMS}") from None
    if wrong := made.wrong():
        raise InputError(f"{key}: {wrong}")
    return made


def _conditions(key: str, given: dict[str, Any], above: Space) -> dict[str, tuple[Any, ...]]:
    """Collect the values that all options must have on which a parameter depends."""
    allowed: dict[str, tuple[Any, ...]] = {}
    for name, wanted in ((str(name), wanted) for name, wanted in given.items()):
        if name not in above:
            raise InputError(f"{key}.{name}: is not in the space above. {nearest(name, above)}")
        parent = above[name]
        # A list may be one of the choices itself.
        values = [wanted] if wanted in parent.values or not isinstance(wanted, list) else wanted
        for value in values:
            if value not in parent.values:
                hint = nearest(text(value), map(text, parent.values), True)
                raise InputError(f"{key}.{name}: {text(value)} is none of its values. {hint}")
        for other, some in {**parent.when, name: tuple(values)}.items():
            allowed[other] = tuple(value for value in some if value in allowed.get(other, some))
            if not allowed[other]:
                raise InputError(f"{key}: never holds, as {other} would need two values at once.")
    return allowed


def _written(when: Mapping[str, Any]) -> dict[str, Any]:
    given = {name: values[0] if len(values) == 1 else [*values] for name, values in when.items()}
    return {"when": given} if given else {}


def is_active(parameter: Parameter, point: Mapping[str, Any]) -> bool:
    """Tell whether the conditions of a parameter hold, given what comes before it in the space."""
    return all(name in point and point[name] in values for name, values in parameter.when.items())


def each_value(space: Space) -> list[dict[str, Any]]:
    """List a few points of the space in which each choice and each end of a range occurs."""
    left = [(name, end) for name, parameter in space.items() for end in parameter.ends]
    found: list[dict[str, Any]] = [] if left else [{}]
    while left:
        target, value = left[0]
        allowed, point = {**space[target].when, target: (value,)}, dict[str, Any]()
        for name, parameter in space.items():
            if is_active(parameter, point):
                ends = allowed.get(name, parameter.ends)
                point[name] = next((end for end in ends if (name, end) in left), ends[0])
        left = [(name, end) for name, end in left if name not in point or point[name] != end]
        found.append(point)
    return found


def points(space: Space) -> list[dict[str, Any]]:
    """List the points of the grid, each once; the last option changes fastest.

    Raises:
        InputError: A range without a step, or very many points.
    """
    found: list[dict[str, Any]] = [{}]
    for name, parameter in space.items():
        if not parameter.values:
            needs = "a grid needs a step or choices. Give one, or another sampler."
            raise InputError(f"space.{name}: {needs}")
        wider = ({**point, **value} for point in found for value in _each(name, parameter, point))
        found = [*islice(wider, MOST_POINTS + 1)]
    if len(found) > MOST_POINTS:
        many = f"space: a grid of more than {MOST_POINTS:,} points."
        raise InputError(f"{many} Use larger steps, or sampler random or tpe.")
    return found


def _each(name: str, parameter: Parameter, point: Mapping[str, Any]) -> list[dict[str, Any]]:
    return [{name: v} for v in parameter.values] if is_active(parameter, point) else [{}]


def suggest(space: Space, trial: Any) -> dict[str, Any]:
    """Ask an Optuna trial for a point of the space."""
    point: dict[str, Any] = {}
    for name, parameter in space.items():
        if is_active(parameter, point):
            point[name] = parameter.decode(parameter.suggest(name, trial))
    return point


def encode(point: Mapping[str, Any]) -> dict[str, Any]:
    """Return a point as Optuna is to hold it: lists, mappings and null as text."""
    return {name: _encoded(value) for name, value in point.items()}


def decode(space: Space, params: Mapping[str, Any]) -> dict[str, Any]:
    """Return the point that the parameters of an Optuna trial stand for."""
    return {name: space[name].decode(params[name]) for name in space if name in params}


def tokens(point: Mapping[str, Any]) -> list[str]:
    """Write a point as options of the command line, classes before what they are made with."""
    names = sorted(point, key=lambda name: name.count("."))
    return [f"--{name}={text(point[name])}" for name in names]


def text(value: Any) -> str:
    """Write a value as on the command line: YAML on one line."""
    if isinstance(value, str):
        return value
    written = yaml.safe_dump(
        value, default_flow_style=True, width=math.inf, allow_unicode=True, sort_keys=False
    )
    return written.removesuffix("\n").removesuffix("\n...")


def _encoded(value: Any) -> Any:
    return value if isinstance(value, (str, bool, int, float)) else text(value)


def _exact(number: float | None) -> Decimal:
    return Decimal(str(number or 0))
