"""Command-line options that are the fields of a dataclass, their defaults and texts."""

from __future__ import annotations

import ast
import inspect
import textwrap
from collections.abc import Collection, Mapping
from dataclasses import fields
from typing import Annotated, Any, get_type_hints

import typer
from rich.markup import escape


def options_of(kind: type[Any], hidden: Collection[str] = ()) -> list[inspect.Parameter]:
    """One option for each field of the dataclass `kind` that is not `hidden`."""
    texts, types = field_texts(kind), get_type_hints(kind)

    def annotated(name: str) -> Any:
        return Annotated[types[name], typer.Option(help=escape(texts[name]), show_envvar=False)]

    return [option(field.name, annotated(field.name), field.default) for field in fields(kind)
            if field.name not in hidden]


def option(name: str, annotation: Any, default: Any) -> inspect.Parameter:
    """A parameter of a command's signature that typer makes an option, or an argument, of."""
    return inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, annotation=annotation,
                             default=default)


def settings_of(kind: Any, values: Mapping[str, Any], hidden: Collection[str] = ()) -> Any:
    """The dataclass `kind` with the `values` of the options that `options_of` has made."""
    return kind(**{field.name: values[field.name] for field in fields(kind)
                   if field.name not in hidden})


def field_texts(kind: type[Any]) -> dict[str, str]:
    """The sentence that stands under each field in the source, of its class or of a base."""
    return {name: text for base in reversed(kind.__mro__[:-1])
            for name, text in _own_texts(base).items()}


def _own_texts(kind: type[Any]) -> dict[str, str]:
    body = ast.parse(textwrap.dedent(inspect.getsource(kind))).body[0]
    assert isinstance(body, ast.ClassDef)
    return {field.target.id: text.value.value
            for field, text in zip(body.body, body.body[1:], strict=False)
            if isinstance(field, ast.AnnAssign) and isinstance(field.target, ast.Name)
            and isinstance(text, ast.Expr) and isinstance(text.value, ast.Constant)
            and isinstance(text.value.value, str)}
