"""Merges files into the effective configuration, as plain data, and finds where each value was written.

Merging and finding follow one rule. Tables merge key by key. A later file's [defaults] override an earlier
one's, and a service overrides them all. Arrays of several files' defaults are joined; a service's own array
replaces them. A `stderr` table that names its kind replaces others too: half a file and half a logger would
be neither.
"""

from collections.abc import Iterator
from typing import Any, Final, NamedTuple

from tcpdconf.config import positions
from tcpdconf.config.load.source import SourceFile

_DEEPEST: Final = 16  # nested tables; the models have fewer levels, so nothing valid is deeper
_KINDS: Final = frozenset({"file", "logger"})  # of stderr


class Layer(NamedTuple):
    """Holds a value as one file has it, at `key` of that file."""

    source: SourceFile
    key: positions.Key
    value: Any


class Merged:
    """Merges all files. A service belongs to the first file that defines it."""

    def __init__(self, files: list[SourceFile]) -> None:
        self.files = files
        self.owners: dict[str, SourceFile] = {}
        for file in files:
            for name in table(file.data, "services"):
                self.owners.setdefault(name, file)
        self._defaults: Any = {}
        for file in files:
            self._defaults = _merged(self._defaults, table(file.data, "defaults"), joined=True)

    def services(self) -> Iterator[tuple[str, dict[str, Any]]]:
        """Yield each service with its defaults filled in; entries that are no tables are left out."""
        for name, file in self.owners.items():
            own = table(file.data, "services")[name]
            if isinstance(own, dict):
                yield name, _merged(self._defaults, own, joined=False)

    def inherited(self) -> int:
        """Return how many values all services inherit from the defaults, including tables and arrays."""
        sizes = {key: _size(value) for key, value in self._defaults.items()}
        total = sum(sizes.values()) * len(self.owners)
        for name, file in self.owners.items():
            own = table(table(file.data, "services"), name)
            total -= sum(sizes.get(key, 0) for key, value in own.items() if not isinstance(value, dict))
        return total

    def whole(self, name: str) -> dict[str, Any]:
        """Return a top-level table, merged from all files."""
        found: dict[str, Any] = {}
        for file in self.files:
            found = {**table(file.data, name), **found}
        return found

    def locate(self, key: positions.Key) -> tuple[Layer, bool] | None:
        """Return where a key of the effective configuration was written, and True if it was.

        For a key that was not written: the nearest table around it and False. None if no file has any part.
        """
        layers, rest = self._layers(key)
        for number, part in enumerate(rest):
            deeper = list(_step(layers, part))
            if not deeper:
                return (layers[0], False) if layers and layers[0].key else None
            layers = _visible(deeper, rest[: number + 1] == ("stderr",))
        return (layers[0], True) if layers else None

    def _layers(self, key: positions.Key) -> tuple[list[Layer], positions.Key]:
        """Return the layers that a key may come from, the strongest first, and the key below them."""
        owner = self.owners.get(str(key[1])) if key[0] == "services" and len(key) > 1 else None
        if owner is None:
            return [Layer(file, (), file.data) for file in self.files], key
        own = Layer(owner, key[:2], owner.data["services"][key[1]])
        defaults = [
            Layer(file, ("defaults",), file.data["defaults"])
            for file in reversed(self.files)
            if "defaults" in file.data
        ]
        return [own, *defaults], key[2:]


def table(data: object, name: str) -> dict[str, Any]:
    """Return a table inside a table; empty if it is missing or no table."""
    found = data.get(name) if isinstance(data, dict) else None
    return found if isinstance(found, dict) else {}


def _size(value: object) -> int:
    """Return the number of values in a value, including itself."""
    items = value.values() if isinstance(value, dict) else value if isinstance(value, list) else ()
    return 1 + sum(map(_size, items))


def _merged(low: Any, high: Any, *, joined: bool, key: positions.Key = ()) -> Any:  # noqa: ANN401 (TOML)
    if isinstance(low, list) and isinstance(high, list) and joined:
        return low + high
    if not isinstance(low, dict) or not isinstance(high, dict) or len(key) > _DEEPEST:
        return high
    if key == ("stderr",) and _KINDS & high.keys():
        return high
    merged = dict(low)
    for name, value in high.items():
        merged[name] = _merged(low[name], value, joined=joined, key=(*key, name)) if name in low else value
    return merged


def _step(layers: list[Layer], part: str | int) -> Iterator[Layer]:
    if isinstance(part, str):
        for layer in layers:
            if isinstance(layer.value, dict) and part in layer.value:
                yield Layer(layer.source, (*layer.key, part), layer.value[part])
        return
    for layer in reversed(layers):  # joined arrays: the weakest layer comes first
        if not isinstance(layer.value, list):
            return
        if part < len(layer.value):
            yield Layer(layer.source, (*layer.key, part), layer.value[part])
            return
        part -= len(layer.value)


def _visible(layers: list[Layer], stderr: bool) -> list[Layer]:
    """Return the layers that contribute to a value, the strongest first.

    They are the layers of the same type as the strongest one, down to one that hides the rest.
    """
    top = layers[0]
    alone = isinstance(top.value, list) and top.key[0] == "services"
    if alone or not isinstance(top.value, dict | list):
        return [top]
    visible = []
    for layer in layers:
        if type(layer.value) is not type(top.value):
            break
        visible.append(layer)
        if stderr and isinstance(layer.value, dict) and _KINDS & layer.value.keys():
            break
    return visible
