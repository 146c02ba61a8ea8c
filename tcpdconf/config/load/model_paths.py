"""Answers questions about the models by key path: a table's keys, where a key belongs, an example."""

import functools
import types
import typing
from collections.abc import Iterator
from typing import Annotated, Any, Literal

import pydantic
from pydantic.fields import FieldInfo

from tcpdconf.config import positions

_ANY = "NAME"  # a placeholder for names that the administrator chooses
Model = type[pydantic.BaseModel]
Home = tuple[positions.Key, Model]


def keys(model: Model, table: positions.Key) -> list[str]:
    """Return the keys that a table may have, in any of its shapes."""
    return list(dict.fromkeys(key for found in models(model, table) for key in _fields(found)))


def models(model: Model, table: positions.Key) -> list[Model]:
    """Return the models of the table at a key path."""
    annotations: list[Any] = [model]
    for part in table:
        annotations = [below for found in annotations for below in _step(found, part)]
    return [found for found in annotations if _is_model(found)]


def homes(model: Model, key: positions.Key) -> list[str]:
    """Return the headers of at most three tables that know the last part of a key, the nearest first.

    Tables below the one where the key was written are nearest, then those below the tables around it.
    """
    for length in range(len(key) - 1, -1, -1):
        level: list[Home] = [(key[:length], found) for found in models(model, key[:length])]
        while level:
            found = [header(table) for table, at in level if key[-1] in _fields(at) and table != key[:-1]]
            if found:
                return list(dict.fromkeys(found))[:3]
            level = [((*table, *below), found) for table, at in level for below, found in _tables(at)]
    return []


def header(table: positions.Key) -> str:
    """Return a table's header: [services.smtp.limits], [[services.smtp.access]]."""
    name = ".".join(part for part in table if isinstance(part, str))
    if not table:
        return "the top of the file"
    return f"[[{name}]]" if isinstance(table[-1], int) else f"[{name}]"


def example(model: Model, key: positions.Key) -> str | None:
    """Return advice with an example line that sets a key, or None."""
    from tcpdconf.config import render  # noqa: PLC0415 (needed for problems only)

    for found in models(model, key[:-1]):
        field = _fields(found).get(str(key[-1]))
        if field is None:
            continue
        if field.examples:
            return f"for example: {key[-1]} = {render.literal(field.examples[0])}"
        words = typing.get_args(field.annotation) if typing.get_origin(field.annotation) is Literal else ()
        if words:
            return f"write {key[-1]} = " + " or ".join(f'"{word}"' for word in words)
    return None


@functools.cache
def _fields(model: Model) -> dict[str, FieldInfo]:
    return {field.alias or name: field for name, field in model.model_fields.items()}


def _is_model(annotation: object) -> typing.TypeGuard[Model]:
    return isinstance(annotation, type) and issubclass(annotation, pydantic.BaseModel)


def _flat(annotation: Any) -> Iterator[Any]:  # noqa: ANN401 (annotations are any object)
    """Yield the members of unions, without their annotations."""
    if typing.get_origin(annotation) is Annotated:
        yield from _flat(typing.get_args(annotation)[0])
    elif typing.get_origin(annotation) in {typing.Union, types.UnionType}:
        for member in typing.get_args(annotation):
            yield from _flat(member)
    else:
        yield annotation


def _step(annotation: Any, part: str | int) -> Iterator[Any]:  # noqa: ANN401 (annotations are any object)
    for found in _flat(annotation):
        arguments = typing.get_args(found)
        if isinstance(part, int):
            if typing.get_origin(found) is tuple:
                yield from _flat(arguments[0])
        elif typing.get_origin(found) is dict:
            yield from _flat(arguments[1])
        elif _is_model(found) and part in _fields(found):
            yield from _flat(_fields(found)[part].annotation)


@functools.cache
def _tables(model: Model) -> list[Home]:
    """Return the tables directly below a model, each with its key in it."""
    tables: list[Home] = []
    for name, field in _fields(model).items():
        for found in _flat(field.annotation):
            below: positions.Key = (name,)
            deeper = found
            if typing.get_origin(found) is dict:
                below, deeper = (*below, _ANY), typing.get_args(found)[1]
            elif typing.get_origin(found) is tuple:
                below, deeper = (*below, 0), typing.get_args(found)[0]
            tables += [(below, each) for each in _flat(deeper) if _is_model(each)]
    return tables
