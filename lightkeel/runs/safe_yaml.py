"""Read YAML of plain values, in which no key is given twice."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml

from .files import read_text


class ContentError(Exception):
    """YAML that is valid, and in which a part would be lost or without an end."""


class WithoutAliases(yaml.SafeLoader):
    """Refuse aliases, of which a few can stand for very many values; no run writes any."""

    def compose_node(self, parent: yaml.Node | None, index: int) -> yaml.Node | None:
        if self.check_event(yaml.AliasEvent):
            raise yaml.YAMLError("it has an alias")
        return super().compose_node(parent, index)


def load(text: str, loader_class: type[yaml.SafeLoader] = yaml.SafeLoader) -> Any:
    """Read YAML that holds plain values only."""
    loader = loader_class(text)
    try:
        node = loader.get_single_node()
        check_keys(node)
        return None if node is None else loader.construct_document(node)
    except RecursionError:
        raise yaml.MarkedYAMLError(problem="it is nested too deeply") from None
    except (ValueError, LookupError, AttributeError, TypeError) as error:  # such as `!!int x`
        problem = next(iter(str(error).splitlines()), "a value has a wrong tag")
        raise yaml.MarkedYAMLError(problem=problem) from None


def read_mapping(path: Path) -> dict[str, Any]:
    """Read a small file that holds a mapping; of any other, nothing is left."""
    try:
        content = load(read_text(path), WithoutAliases)
    except (yaml.YAMLError, ContentError, RecursionError):
        return {}
    return content if isinstance(content, dict) else {}


def check(text: str) -> None:
    """Raise ``ContentError`` as ``load`` does, and leave it to another to read the values."""
    if any(mark in text for mark in "*{\n"):  # without, there is neither alias nor second key
        check_keys(yaml.compose(text, yaml.SafeLoader))


def check_keys(node: yaml.Node | None) -> None:
    """Raise ``ContentError`` for a key that is given twice, be it once with dots."""
    lines: dict[str, int] = {}  # where each key was given

    def check_below(node: yaml.Node | None, path: str) -> None:
        if isinstance(node, yaml.SequenceNode):
            for number, part in enumerate(node.value):
                check_below(part, f"{path}[{number}]")
        for key, value in node.value if isinstance(node, yaml.MappingNode) else ():
            if isinstance(key, yaml.ScalarNode) and not key.tag.endswith(":merge"):
                name, line = f"{path}.{key.value}".lstrip("."), key.start_mark.line + 1
                if name in lines:
                    twice = f"`{name}` is given twice, first in line {lines[name]}"
                    raise ContentError(f"line {line}: {twice}")
                lines[name] = line
                check_below(value, name)

    try:
        check_below(node, "")
    except RecursionError:
        raise ContentError("an alias stands for what it is in") from None


def flatten(tree: Any, prefix: str = "") -> dict[str, Any]:
    """Turn nested mappings into one, with keys joined by points."""
    if not isinstance(tree, Mapping) or not tree:
        return {prefix: tree}
    parts = (flatten(v, f"{prefix}.{k}" if prefix else str(k)) for k, v in tree.items())
    return {key: value for part in parts for key, value in part.items()}
