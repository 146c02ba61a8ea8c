"""Prints figures of the structure: modules in each folder, lines of functions, circles of imports.

    python docs/structure.py

The tests use it for what must hold: at most fourteen modules in a folder, no circle, the doors.
"""

import ast
import collections
import graphlib
import pathlib
import statistics
from collections.abc import Iterator, Mapping
from typing import Final

TOP: Final = pathlib.Path(__file__).parents[1]
PACKAGES: Final = {"tcpdconf": TOP / "tcpdconf", "tcpdconf_migrate": TOP / "migrate/tcpdconf_migrate"}


def modules() -> dict[str, pathlib.Path]:
    """Every module by its dotted name; a package stands for its `__init__`."""
    found = {}
    for name, folder in PACKAGES.items():
        for path in sorted(folder.rglob("*.py")):
            parts = [name, *path.relative_to(folder).with_suffix("").parts]
            found[".".join(parts).removesuffix(".__init__")] = path
    return found


def imported(path: pathlib.Path) -> Iterator[str]:
    """Every name that a module imports, wherever it does so, as `package.module` or `module.name`.

    Raises:
        ValueError: an import is relative.
    """
    for node in ast.walk(ast.parse(path.read_bytes())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            if node.level:
                raise ValueError(f"{path}:{node.lineno}: a relative import")
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def graph(known: Mapping[str, pathlib.Path]) -> dict[str, set[str]]:
    """The modules of the project that each module imports, those of functions and annotations among them."""
    found = {}
    for module, path in known.items():
        names = set(imported(path))
        owners = {name if name in known else name.rpartition(".")[0] for name in names}
        found[module] = (owners & known.keys()) - set(
            PACKAGES
        )  # the packages hold a version and nothing else
    return found


def circle(edges: Mapping[str, set[str]]) -> list[str]:
    """A circle of imports; empty when there is none."""
    try:
        graphlib.TopologicalSorter(edges).prepare()
    except graphlib.CycleError as error:
        found: list[str] = error.args[1]
        return found
    return []


def folders(known: Mapping[str, pathlib.Path]) -> dict[str, int]:
    """How many modules each folder has, without its `__init__`."""
    counted = collections.Counter(
        str(path.parent.relative_to(TOP)) for path in known.values() if path.name != "__init__.py"
    )
    return dict(sorted(counted.items()))


def functions(known: Mapping[str, pathlib.Path]) -> list[int]:
    """The lines of every function, its signature and docstring among them."""
    trees = (ast.parse(path.read_bytes()) for path in known.values())
    found = [node for tree in trees for node in ast.walk(tree) if isinstance(node, ast.FunctionDef)]
    return [(node.end_lineno or node.lineno) - node.lineno + 1 for node in found]


def main() -> None:
    """Print the figures."""
    known = modules()
    for folder, count in folders(known).items():
        print(f"{count:4} {folder}")
    lines = functions(known)
    p90 = statistics.quantiles(lines, n=10)[-1]
    median = statistics.median(lines)
    print(f"{len(known)} modules, {len(lines)} functions: median {median:g} lines, 90 % under {p90:g}")
    print("circle:", " -> ".join(circle(graph(known))) or "none")


if __name__ == "__main__":
    main()
