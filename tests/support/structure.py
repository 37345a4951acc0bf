"""The structure of the code as its imports and definitions show it; each file is parsed once.

`python -m tests.support.structure` prints the graph of the packages and a few sizes, to look at before and
after a large change (`make structure`).
"""

from __future__ import annotations

import ast
import sys
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

from tests.support.places import ROOT

PACKAGE = ROOT / "gateway"


@dataclass(frozen=True)
class Import:
    """`target` is a module of ours without `gateway.`, or the root of a foreign package."""

    target: str
    ours: bool
    line: int
    deferred: bool
    """Whether it stands inside a function, and so runs when that is called."""


@dataclass(frozen=True)
class Module:
    """One file below `gateway/`; `name` is without `gateway.`, and of a package without `.__init__`."""

    name: str
    path: Path
    tree: ast.Module
    lines: int
    imports: tuple[Import, ...]

    @property
    def package(self) -> str:
        return self.name.partition(".")[0]

    def classes(self) -> Iterator[ast.ClassDef]:
        return (node for node in ast.walk(self.tree) if isinstance(node, ast.ClassDef))


@cache
def modules() -> dict[str, Module]:
    """Every module of the gateway by its name."""
    paths = {_name(path): path for path in sorted(PACKAGE.rglob("*.py"))}
    paths.pop("")
    return {name: _read(name, path, frozenset(paths)) for name, path in paths.items()}


def package_graph() -> dict[str, set[str]]:
    """For each package the packages that it imports."""
    graph: dict[str, set[str]] = {module.package: set() for module in modules().values()}
    for module in modules().values():
        ours = {one.target.partition(".")[0] for one in module.imports if one.ours}
        graph[module.package] |= ours - {module.package, ""}
    return graph


def cycle(graph: dict[str, set[str]]) -> list[str]:
    """A cycle of the graph, or nothing."""
    try:
        TopologicalSorter(graph).prepare()
    except CycleError as exc:
        return list(exc.args[1])
    return []


def module_graph() -> dict[str, set[str]]:
    """For each module the modules that it imports when it is loaded itself."""
    return {
        name: {one.target for one in module.imports if one.ours and not one.deferred} - {name, ""}
        for name, module in modules().items()
    }


def places_by_class() -> dict[str, list[str]]:
    """The modules at whose top a public class of a name is defined."""
    found = defaultdict(list)
    for module in modules().values():
        for one in module.tree.body:
            if isinstance(one, ast.ClassDef) and not one.name.startswith("_"):
                found[one.name].append(module.name)
    return found


def _name(path: Path) -> str:
    parts = path.relative_to(PACKAGE).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def _read(name: str, path: Path, known: frozenset[str]) -> Module:
    text = path.read_text()
    tree = ast.parse(text)
    return Module(name, path, tree, text.count("\n"), tuple(_imports(tree, known, deferred=False)))


def _imports(node: ast.AST, known: frozenset[str], *, deferred: bool) -> Iterator[Import]:
    for child in ast.iter_child_nodes(node):
        if (
            isinstance(child, ast.If)
            and isinstance(child.test, ast.Name)
            and child.test.id == "TYPE_CHECKING"
        ):
            continue
        if isinstance(child, ast.Import):
            for alias in child.names:
                yield _import(alias.name, "", known, child.lineno, deferred=deferred)
        elif isinstance(child, ast.ImportFrom):
            source = child.module or "" if not child.level else "relative"
            for alias in child.names:
                yield _import(source, alias.name, known, child.lineno, deferred=deferred)
        else:
            inside = deferred or isinstance(child, (ast.FunctionDef, ast.AsyncFunctionDef))
            yield from _imports(child, known, deferred=inside)


def _import(source: str, name: str, known: frozenset[str], line: int, *, deferred: bool) -> Import:
    root, _, inner = source.partition(".")
    if root != "gateway":
        return Import(root, False, line, deferred)
    inside = ".".join(part for part in (inner, name) if part)
    return Import(inside if inside in known else inner, True, line, deferred)


def _methods(node: ast.ClassDef) -> int:
    return sum(isinstance(child, (ast.FunctionDef, ast.AsyncFunctionDef)) for child in node.body)


def main() -> None:
    """Print the packages from the bottom up with what each imports, and the largest of everything."""
    say = sys.stdout.write
    graph = package_graph()
    found = cycle(graph)
    order = [*graph] if found else [*TopologicalSorter(graph).static_order()]
    for package in order:
        say(f"{package:12} {' '.join(sorted(graph[package], key=order.index))}\n")
    root = [module.name for module in modules().values() if module.path.parent == PACKAGE]
    classes = [(_methods(node), node.name, m.name) for m in modules().values() for node in m.classes()]
    lengths = sorted(((m.lines, m.name) for m in modules().values()), reverse=True)
    twice = {name: where for name, where in places_by_class().items() if len(where) > 1}
    say(f"\ncycle: {' → '.join(found) or 'none'}\n")
    say(f"packages: {len(graph)}, imports between them: {sum(map(len, graph.values()))}\n")
    say(f"modules: {len(lengths)}, at the root: {len(root)} ({', '.join(root)})\n")
    say(f"longest modules: {', '.join(f'{name} {lines}' for lines, name in lengths[:5])}\n")
    say(f"largest classes: {', '.join(f'{name} {n}' for n, name, _ in sorted(classes, reverse=True)[:5])}\n")
    say(f"public classes of one name: {len(twice)}\n")
    for name, where in twice.items():
        say(f"  {name}: {', '.join(where)}\n")


if __name__ == "__main__":
    main()
