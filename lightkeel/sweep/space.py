"""The space of a sweep: options of the experiment, and the values that each may take."""

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from decimal import Decimal
from itertools import islice
from typing import Any

import yaml

from ..errors.bad_input import InputError
from ..errors.checks import suggest as nearest

EXAMPLE = "model.optimizer.lr: {low: 0.001, high: 0.1, log: true}"
RANGE = ("low", "high", "step", "log", "when")
CHOICES = ("choices", "when")
MOST_POINTS = 10_000  # of a grid: more than anybody trains


@dataclass(frozen=True)
class Choice:
    """One of some values; ``when``: only where other options have one of these values."""

    values: tuple[Any, ...]
    when: Mapping[str, Any] = field(default_factory=dict)

    @property
    def ends(self) -> tuple[Any, ...]:
        """What must fit for all to fit."""
        return self.values

    def suggest(self, name: str, trial: Any) -> Any:
        """Ask an Optuna trial for a value, in Optuna's form."""
        return trial.suggest_categorical(name, [*map(_encoded, self.values)])

    def decode(self, value: Any) -> Any:
        """Return the value that Optuna's form stands for."""
        return next(own for own in self.values if _encoded(own) == value)


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
        """All numbers of a range with a step; of any other they cannot be listed: none."""
        return tuple(map(self._at, range(self.num_steps + 1))) if self.step else ()

    @property
    def num_steps(self) -> int:
        """Steps from one end to the other."""
        return int((_exact(self.high) - _exact(self.low)) / _exact(self.step))

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
    if not isinstance(content, dict):
        raise InputError(f"space: {content!r} is no mapping. Give options, as in `{EXAMPLE}`.")
    space = {str(name): _read(f"space.{name}", value) for name, value in content.items()}
    space = {name: _with_condition(space, name) for name in _in_order(space)}
    for name in space:
        for other, values in _conditions(space, name).items():
            if not values:
                wrong = f"space.{name}.when: never holds, as {other} would need two values at once."
                raise InputError(f"{wrong} Leave a condition out.")
    return space


def _read(key: str, value: Any) -> Parameter:
    if isinstance(value, list):
        return Choice(_choices(key, value))
    if not isinstance(value, dict) or not {"low", "high", "choices"} & value.keys():
        raise InputError(
            f"{key}: {value!r} is neither choices nor a range. Give a list of values, or low and "
            f"high, as in `{EXAMPLE}`."
        )
    known = CHOICES if "choices" in value else RANGE
    for name in [name for name in value if name not in known]:
        raise InputError(f"{key}.{name}: there is no such setting. {nearest(str(name), known)}")
    when = value.get("when") or {}
    if not isinstance(when, dict):
        raise InputError(f"{key}.when: {when!r} is no mapping. Give option: value.")
    if "choices" in value:
        return Choice(_choices(key, value["choices"]), when)
    return _range(key, {**value, "when": when})


def _choices(key: str, values: Any) -> tuple[Any, ...]:
    if not isinstance(values, list) or not values:
        raise InputError(f"{key}: {values!r} is no list of choices. Give values, as in [1, 2].")
    for number, value in enumerate(values):
        others = values[:number]
        if text(value) in map(text, others) or _encoded(value) in map(_encoded, others):
            raise InputError(f"{key}: the choice {text(value)} is given twice. Give each once.")
    return tuple(values)


def _range(key: str, given: dict[str, Any]) -> Range:
    for name in [name for name in ("low", "high") if name not in given]:
        raise InputError(f"{key}.{name}: missing. Give both ends, low and high.")
    for name in ("low", "high", "step"):
        number = given.get(name)
        if number is None and name == "step":
            continue
        if isinstance(number, bool) or not isinstance(number, (int, float)):
            raise InputError(f"{key}.{name}: {number!r} is no number. Give one.")
        if not math.isfinite(number):
            raise InputError(f"{key}.{name}: {number} is no finite number. Give one that is.")
    if not isinstance(log := given.get("log") or False, bool):
        raise InputError(f"{key}.log: {log!r} is neither true nor false.")
    made = Range(given["low"], given["high"], given.get("step"), log, given["when"])
    if wrong := _unusable(made):
        raise InputError(f"{key}: {wrong}")
    return made


def _unusable(made: Range) -> str | None:
    """Say why a range has no numbers, or not those that it seems to have."""
    low, high, step = made.low, made.high, made.step
    if low >= high:
        why = "is greater than" if low > high else "is also"
        return f"empty, as low {low} {why} high {high}. Give low < high."
    if made.log and low <= 0:
        return f"low {low} has no logarithm. Give low > 0, or log: false."
    if made.log and step is not None:
        return f"step {step} cannot be combined with log: true. Give one of them."
    if step is not None and step <= 0:
        return f"step {step} is not positive. Give step > 0."
    if step is not None and step > high - low:
        return f"step {step} is larger than the range from {low} to {high}. Give a smaller one."
    if step is not None and (_exact(high) - _exact(low)) % _exact(step):
        last = made.ends[-1]
        return f"steps of {step} from {low} end at {last}, before high {high}. Set high to {last}."
    return None


def _in_order(space: Space) -> list[str]:
    """List the options so that each comes after those that its condition names."""
    ordered: list[str] = []

    def add(name: str, above: tuple[str, ...]) -> None:
        if name in above:
            circle = " -> ".join([*above[above.index(name) :], name])
            raise InputError(f"space.{name}.when: is a circle ({circle}). Leave a condition out.")
        for other in space[name].when:
            if other not in space:
                wrong = f"space.{name}.when.{other}: is not in the space."
                raise InputError(f"{wrong} {nearest(other, {*space} - {name})}")
            add(other, (*above, name))
        if name not in ordered:
            ordered.append(name)

    for name in space:
        add(name, ())
    return ordered


def _with_condition(space: Space, name: str) -> Parameter:
    """Give a parameter its conditions as tuples of values, each of which its option can take."""
    made, when = space[name], {}
    for other, given in made.when.items():
        key, parent = f"space.{name}.when.{other}", space[other]
        if isinstance(parent, Range) and parent.step is None:
            raise InputError(f"{key}: {other} is a range without a step. Give it choices.")
        # A list may be one of the choices itself.
        values = [given] if given in parent.values or not isinstance(given, list) else given
        for value in values:
            if value not in parent.values:
                hint = nearest(text(value), map(text, parent.values), True)
                raise InputError(f"{key}: {text(value)} is none of its values. {hint}")
        when[other] = tuple(values)
    return replace(made, when=when)


def is_active(parameter: Parameter, point: Mapping[str, Any]) -> bool:
    """Tell whether the conditions of a parameter hold, given what comes before it in the space."""
    return all(name in point and point[name] in values for name, values in parameter.when.items())


def _conditions(space: Space, name: str) -> dict[str, tuple[Any, ...]]:
    """Collect the values that all options must have on which a parameter depends."""
    allowed: dict[str, tuple[Any, ...]] = {}
    for other, values in space[name].when.items():
        for above, some in {other: values, **_conditions(space, other)}.items():
            allowed[above] = tuple(value for value in some if value in allowed.get(above, some))
    return allowed


def each_value(space: Space) -> list[dict[str, Any]]:
    """List a few points of the space in which each choice and each end of a range occurs."""
    left = [(name, end) for name, parameter in space.items() for end in parameter.ends]
    found: list[dict[str, Any]] = [] if left else [{}]
    while left:
        target, value = left[0]
        allowed, point = {**_conditions(space, target), target: (value,)}, dict[str, Any]()
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
    for name, parameter in space.items():
        if isinstance(parameter, Range) and parameter.step is None:
            raise InputError(
                f"space.{name}: a grid needs a step or choices. Give one, or another sampler."
            )
    is_small = all(isinstance(p, Choice) or p.num_steps < MOST_POINTS for p in space.values())
    found = [*islice(_points([*space.items()], {}), MOST_POINTS + 1)] if is_small else []
    if len(found) in (0, MOST_POINTS + 1):
        many = f"space: a grid of more than {MOST_POINTS:,} points."
        raise InputError(f"{many} Use larger steps, or sampler random or tpe.")
    return found


def _points(rest: list[tuple[str, Parameter]], point: dict[str, Any]) -> Iterator[dict[str, Any]]:
    if not rest:
        yield point
        return
    name, parameter = rest[0]
    if not is_active(parameter, point):
        yield from _points(rest[1:], point)
        return
    for value in parameter.values:
        yield from _points(rest[1:], {**point, name: value})


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


def as_plain(space: Space) -> dict[str, Any]:
    """Return a space as a sweep file writes it."""
    found: dict[str, Any] = {}
    for name, parameter in space.items():
        when = {other: [*values] for other, values in parameter.when.items()}
        if isinstance(parameter, Choice):
            own: dict[str, Any] = {"choices": [*parameter.values]}
        else:
            own = {key: getattr(parameter, key) for key in ("low", "high", "step", "log")}
        found[name] = {**own, "when": when} if when else own
    return found


def _encoded(value: Any) -> Any:
    return value if isinstance(value, (str, bool, int, float)) else text(value)


def _exact(number: float | None) -> Decimal:
    return Decimal(str(number or 0))
