"""Read YAML from anybody: it cannot run code, become far more than is written, or lose a part."""

from collections.abc import Mapping
from typing import Any

import yaml

MOST_NODES = 100_000  # values, with each alias written out


class ContentError(Exception):
    """YAML that is valid, but small as written alone and not as values; or with a key twice."""


def load(text: str) -> Any:
    """Read YAML that holds plain values only.

    Raises:
        yaml.YAMLError: It is no YAML, or names something else than plain values.
        ContentError: It would be far larger than it is written, or has a key twice.
    """
    loader = yaml.SafeLoader(text)
    try:
        node = loader.get_single_node()
        check_node(node)
        return None if node is None else loader.construct_document(node)
    except RecursionError:
        raise refusal("it is nested too deeply") from None
    except (ValueError, LookupError, AttributeError, TypeError) as error:  # such as `!!int x`
        raise refusal(
            str(error).splitlines()[0] if str(error) else "a value has a wrong tag"
        ) from None
    finally:
        loader.dispose()


def check(text: str) -> None:
    """Raise ``ContentError`` as ``load`` does, and leave it to another to read the values."""
    if any(mark in text for mark in "*{\n"):  # without, there is neither alias nor second key
        check_node(yaml.compose(text, yaml.SafeLoader))


def check_node(node: yaml.Node | None) -> None:
    """Raise ``ContentError`` where aliases stand for very many values, or a key is there twice."""
    if node is not None:
        if expanded(node, {}) > MOST_NODES:
            raise ContentError(f"its aliases stand for more than {MOST_NODES:,} values")
        check_keys(node, "", {})


def check_keys(node: yaml.Node, path: str, lines: dict[str, int]) -> None:
    """Raise ``ContentError`` for a key that is given twice, be it once with dots.

    Args:
        node: What is looked through.
        path: Where it is: its keys with dots, as options have them.
        lines: Where the keys so far are given, by their paths.
    """
    if isinstance(node, yaml.SequenceNode):
        for number, part in enumerate(node.value):
            check_keys(part, f"{path}[{number}]", lines)
    elif isinstance(node, yaml.MappingNode):
        for key, value in node.value:
            if not isinstance(key, yaml.ScalarNode) or key.tag.endswith(":merge"):
                continue
            name, line = f"{path}.{key.value}".lstrip("."), key.start_mark.line + 1
            if name in lines:
                raise ContentError(
                    f"line {line}: `{name}` is given twice, first in line {lines[name]}"
                )
            lines[name] = line
            check_keys(value, name, lines)


def expanded(node: yaml.Node, sizes: dict[int, int]) -> int:
    """Count the nodes in a tree as if each alias were written out.

    Args:
        node: The root.
        sizes: Counts known so far, by the identities of nodes.
    """
    if id(node) not in sizes:
        sizes[id(node)] = MOST_NODES + 1  # while it is being counted: it would hold itself
        parts = node.value if isinstance(node, yaml.CollectionNode) else []
        if isinstance(node, yaml.MappingNode):
            parts = [part for pair in parts for part in pair]
        sizes[id(node)] = 1 + sum(expanded(part, sizes) for part in parts)
    return sizes[id(node)]


def refusal(problem: str) -> yaml.MarkedYAMLError:
    """Say what is wrong with YAML, as its own parser would."""
    return yaml.MarkedYAMLError(problem=problem)


def flatten(tree: Any, prefix: str = "") -> dict[str, Any]:
    """Turn nested mappings into one, with keys joined by points."""
    if not isinstance(tree, Mapping) or not tree:
        return {prefix: tree}
    parts = (flatten(v, f"{prefix}.{k}" if prefix else str(k)) for k, v in tree.items())
    return {key: value for part in parts for key, value in part.items()}
