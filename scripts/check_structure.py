"""Counts what makes a house hard to enter: one name for two things, long files, long functions. Run by `make check`."""

import ast
import re
import sys
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path
from typing import Final

PACKAGE: Final = Path(__file__).parents[1] / "src" / "fraudscale"
LONGEST_FILE: Final = 500
LONGEST_FUNCTION: Final = 60
"""Lines, docstring and all."""

SAME_MODULE: Final = {
    "alertmanager": "how it runs on one machine, and what it is told to do",
    "mlflow": "how it runs on one machine, and what is read from it",
    "picture": "draws the results of its room",
    "prometheus": "how it runs on one machine, and what is read from it",
    "report": "says the results of its room in words and JSON",
    "run": "the composition function of its task",
}
"""Module names that stand in several rooms and mean the same in each."""
SAME_CLASS: Final[dict[str, str]] = {}
"""Class and type names that stand in two modules: at most five."""


def modules() -> Iterator[tuple[str, ast.Module, int]]:
    for path in sorted(PACKAGE.rglob("*.py")):
        text = path.read_text(encoding="utf-8")
        yield path.relative_to(PACKAGE).as_posix(), ast.parse(text), text.count("\n")


def classes(tree: ast.Module) -> Iterator[str]:
    """Yield the public names of classes and types that a module defines."""
    for node in tree.body:
        if isinstance(node, ast.ClassDef):
            yield node.name
        elif isinstance(node, ast.Assign | ast.AnnAssign):
            target = node.targets[0] if isinstance(node, ast.Assign) else node.target
            if isinstance(target, ast.Name) and re.fullmatch(
                r"[A-Z][A-Za-z0-9]*[a-z][A-Za-z0-9]*", target.id
            ):
                yield target.id


def problems() -> Iterator[str]:
    by_module: dict[str, list[str]] = defaultdict(list)
    by_class: dict[str, list[str]] = defaultdict(list)
    for place, tree, length in modules():
        stem = Path(place).stem
        if stem != "__init__":
            by_module[stem].append(place)
        for name in classes(tree):
            if not name.startswith("_"):
                by_class[name].append(place)
        if length > LONGEST_FILE:
            yield f"{place}: {length} lines, at most {LONGEST_FILE}"
        for node in ast.walk(tree):
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
                lines = (node.end_lineno or node.lineno) - node.lineno + 1
                if lines > LONGEST_FUNCTION:
                    yield f"{place}:{node.lineno}: {node.name} has {lines} lines, at most {LONGEST_FUNCTION}"
    yield from twice(by_module, SAME_MODULE, "module")
    yield from twice(by_class, SAME_CLASS, "class or type")
    if len(SAME_CLASS) > 5:
        yield f"{len(SAME_CLASS)} class or type names may stand in two modules, at most 5 should"


def twice(found: dict[str, list[str]], allowed: dict[str, str], kind: str) -> Iterator[str]:
    for name, places in sorted(found.items()):
        if len(places) > 1 and name not in allowed:
            yield f"{kind} {name} stands in {', '.join(places)}"
    for name in allowed:
        if len(found[name]) < 2:
            yield f"{kind} {name} is listed as one that stands twice, and does not"


if __name__ == "__main__":
    bad = list(problems())
    for line in bad:
        print(line)
    sys.exit(1 if bad else 0)
