"""A plan's content with the line of each value, and the problems found in it."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from sftkit.errors import ParameterError

SCALARS = (str, int, float, bool, type(None))


@dataclass(frozen=True)
class At:
    """A value and where it stands.

    Attributes:
        value: A scalar, a list of `At`, or a dictionary from names to `At`.
        line: In the file, from 1; None when the plan came from Python.
        path: ``parameters.lr``.
    """

    value: Any
    line: int | None
    path: str

    @property
    def plain(self) -> Any:
        """The value without places."""
        if isinstance(self.value, dict):
            return {name: inner.plain for name, inner in self.value.items()}
        if isinstance(self.value, list):
            return [inner.plain for inner in self.value]
        return self.value

    @property
    def is_mapping(self) -> bool:
        return isinstance(self.value, dict)


@dataclass
class Problems:
    """Everything that is wrong with a plan, so that it can be said at once."""

    name: str
    found: list[tuple[int, str]] = field(default_factory=list)

    def add(self, at: At | None, text: str) -> None:
        """Note a problem at a place; None for the plan as a whole."""
        where = "" if at is None or not at.path else f"{at.path}: "
        line = at.line if at is not None else None
        self.found.append((line or 0, f"line {line}, {where}{text}" if line else where + text))

    def refuse(self) -> None:
        """Raise when there are any.

        Raises:
            ParameterError: With one line per problem, in the order of the file.
        """
        if not self.found:
            return
        count = len(self.found)
        lines = [text for _, text in sorted(self.found, key=lambda item: item[0])]
        noun = "problem" if count == 1 else "problems"
        raise ParameterError(
            f"{self.name} has {count} {noun}; nothing was run.", "\n  ".join(lines)
        )


def from_python(value: Any, path: str = "") -> At:
    """A plan written as a Python dictionary."""
    if isinstance(value, dict):
        inner = {str(k): from_python(v, _join(path, str(k))) for k, v in value.items()}
        return At(inner, None, path)
    if isinstance(value, list | tuple | range):
        return At([from_python(v, path) for v in value], None, path)
    if not isinstance(value, SCALARS):
        raise ParameterError(
            f"{path or 'plan'}: {value!r} is of type {type(value).__name__}.",
            "A plan holds numbers, texts, True, False, None, lists and dictionaries of these.",
        )
    return At(value, None, path)


def from_yaml(text: str, name: str) -> At:
    """A plan written in YAML. Nothing in it can be executed; no name may occur twice.

    Args:
        text: The file's content.
        name: The file's name, for messages.

    Raises:
        ParameterError: It is not YAML, or holds what a plan cannot hold.
    """
    import yaml

    loader = yaml.SafeLoader(text)
    problems = Problems(name)
    try:
        node = loader.get_single_node()
        found = _from_node(loader, node, "", problems, set()) if node else At({}, 1, "")
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        at = At(None, mark.line + 1 if mark else None, "")
        problems.add(at, f"this is not YAML: {error.problem or error.context}")
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        problems.add(None, f"this is not YAML: {error}")
    finally:
        loader.dispose()
    problems.refuse()
    return found


def _from_node(loader: Any, node: Any, path: str, problems: Problems, seen: set[int]) -> At:
    import yaml

    line = node.start_mark.line + 1
    here = At(None, line, path)
    if id(node) in seen:
        problems.add(here, "anchors and aliases (& and *) are not known here: write it twice")
        return here
    seen.add(id(node))
    if isinstance(node, yaml.MappingNode):
        inner: dict[str, At] = {}
        for key_node, value_node in node.value:
            key = loader.construct_object(key_node)
            at = At(None, key_node.start_mark.line + 1, path)
            if not isinstance(key, str):
                problems.add(at, f"the name {key!r} must be a text: write it in quotes")
            elif key in inner:
                problems.add(at, f"'{key}' is there twice (see line {inner[key].line})")
            else:
                value = _from_node(loader, value_node, _join(path, key), problems, seen)
                # A block's own line is that of its first entry; its name stands before it.
                inner[key] = At(value.value, key_node.start_mark.line + 1, value.path)
        return At(inner, line, path)
    if isinstance(node, yaml.SequenceNode):
        items = [_from_node(loader, item, path, problems, seen) for item in node.value]
        return At(items, line, path)
    value = loader.construct_object(node)
    if not isinstance(value, SCALARS):
        problems.add(here, f"{node.value} is read as a {type(value).__name__}: use quotes")
    return At(value, line, path)


def _join(path: str, name: str) -> str:
    return f"{path}.{name}" if path else name
