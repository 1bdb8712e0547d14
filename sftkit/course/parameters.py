"""Parameters of a notebook: read from its cell, checked before anything starts."""

from __future__ import annotations

import ast
import difflib
import io
import json
import math
import tokenize
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from sftkit.errors import ParameterError

SIMPLE = {"int": int, "float": float, "str": str, "bool": bool}
TRUE, FALSE = {"true", "yes", "on", "1"}, {"false", "no", "off", "0"}


@dataclass(frozen=True)
class Parameter:
    """One line of the parameters cell: ``epochs: int = 3  # passes over the data``."""

    name: str
    type: str  # "int", "float", "str", "bool", "list[int]", "int | None", … or ""
    default: Any
    help: str

    def __str__(self) -> str:
        text = f"{self.name}: {self.type} = {self.default!r}"
        return f"{text}  # {self.help}" if self.help else text


def parse(source: str, name: str = "notebook") -> list[Parameter]:
    """The parameters in a cell's source.

    Raises:
        ParameterError: The cell is not Python, or a default is not a plain value.
    """
    try:
        tree = ast.parse(source)
        comments = {
            token.start[0]: token.string.lstrip("# ").strip()
            for token in tokenize.generate_tokens(io.StringIO(source).readline)
            if token.type == tokenize.COMMENT
        }
    except (SyntaxError, tokenize.TokenError) as error:
        raise ParameterError(f"{name}: the parameters cell is not Python: {error}.") from error
    found = []
    for node in tree.body:
        if isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name):
            target, kind, value = node.target.id, ast.unparse(node.annotation), node.value
        elif isinstance(node, ast.Assign) and isinstance(node.targets[0], ast.Name):
            target, kind, value = node.targets[0].id, "", node.value
        else:
            continue
        try:
            default = ast.literal_eval(value) if value is not None else None
        except ValueError as error:
            raise ParameterError(
                f"{name}: the default of parameter {target} is not a plain value.",
                "Write a number, a text, True or False, None, or a list of these.",
            ) from error
        note = comments.get(node.end_lineno or 0) or comments.get(node.lineno, "")
        found.append(Parameter(target, kind, default, note))
    return found


def fill(
    known: list[Parameter], given: Mapping[str, Any], name: str = "notebook"
) -> dict[str, Any]:
    """Defaults with the given values in their place, each of the declared type.

    Args:
        known: From `parse`.
        given: Values, or texts as typed on a command line.
        name: The notebook, for messages.

    Raises:
        ParameterError: A name is unknown, or a value has the wrong type.
    """
    by_name = {parameter.name: parameter for parameter in known}
    for wanted in given:
        if wanted not in by_name:
            near = difflib.get_close_matches(wanted, by_name, n=1)
            hint = f"Did you mean {near[0]}? " if near else ""
            listing = "There are:\n" + "\n".join(f"    {parameter}" for parameter in known)
            raise ParameterError(f"{name} has no parameter '{wanted}'.", hint + listing)
    return {
        parameter.name: convert(parameter, given[parameter.name], name)
        if parameter.name in given
        else parameter.default
        for parameter in known
    }


def convert(parameter: Parameter, value: Any, name: str = "notebook") -> Any:
    """One value in the declared type; texts are read, other values are checked.

    Raises:
        ParameterError: The value does not fit.
    """
    kind = parameter.type or type(parameter.default).__name__
    try:
        return _convert(kind, value)
    except (ValueError, TypeError):
        raise ParameterError(
            f"{name}: parameter {parameter.name} must be of type {kind}, not {value!r}.",
            f"For example: -p {parameter.name}={_example(parameter)}",
        ) from None


def _convert(kind: str, value: Any) -> Any:
    kind = kind.strip()
    if kind.endswith("| None"):
        if value is None or (isinstance(value, str) and value.lower() in ("none", "null")):
            return None
        return _convert(kind.removesuffix("| None"), value)
    if kind.startswith("list"):
        inner = kind[5:-1] if kind.startswith("list[") else "str"
        if isinstance(value, str):
            text = value.strip()
            if text.startswith("["):
                value = json.loads(text)
            else:
                value = [part.strip() for part in text.split(",")] if text else []
        if not isinstance(value, list | tuple):
            raise TypeError(kind)
        return [_convert(inner, item) for item in value]
    if kind not in SIMPLE:
        raise TypeError(kind)
    if kind == "str":
        if not isinstance(value, str):
            raise TypeError(kind)
        return value
    if kind == "bool":
        if isinstance(value, str) and value.lower() in TRUE | FALSE:
            return value.lower() in TRUE
        if not isinstance(value, bool):
            raise TypeError(kind)
        return value
    if isinstance(value, bool):
        raise TypeError(kind)
    if kind == "int":
        if isinstance(value, float):
            raise TypeError(kind)
        return int(value)
    number = float(value)
    if not math.isfinite(number):
        raise ValueError(kind)
    return number


def _example(parameter: Parameter) -> str:
    default = parameter.default
    if isinstance(default, list):
        return ",".join(map(str, default)) or "a,b"
    return str(default).lower() if isinstance(default, bool) else str(default)
