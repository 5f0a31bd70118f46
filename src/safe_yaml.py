"""Read YAML from anybody: it cannot run code, nor become far more than what is written."""

from collections.abc import Mapping
from typing import Any

import yaml

MOST_NODES = 100_000  # values, with each alias written out


class SizeError(Exception):
    """YAML that is small as written, but would not be as values."""


def load(text: str) -> Any:
    """Read YAML that holds plain values only.

    Raises:
        yaml.YAMLError: It is no YAML, or names something else than plain values.
        SizeError: It would be.
    """
    try:
        check_size(text)
        return yaml.safe_load(text)
    except RecursionError:
        raise refusal("it is nested too deeply") from None
    except (ValueError, LookupError, AttributeError, TypeError) as error:  # such as `!!int x`
        raise refusal(
            str(error).splitlines()[0] if str(error) else "a value has a wrong tag"
        ) from None


def check_size(text: str) -> None:
    """Raise ``SizeError`` where aliases stand for very many values, or for themselves."""
    if "*" in text:  # each alias begins with one
        node = yaml.compose(text, yaml.SafeLoader)
        if node is not None and expanded(node, {}) > MOST_NODES:
            raise SizeError(f"its aliases stand for more than {MOST_NODES:,} values")


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
