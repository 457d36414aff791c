"""Finds the log events of the source by its syntax trees: where one is written, with which fields and levels."""

import ast
import re
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

LEVELS = {name: name for name in ("debug", "info", "warning", "error")} | {"exception": "error"}
EVENT = re.compile(r"[a-z]+(_[a-z]+)+")


@dataclass
class Written:
    """An event as the code writes it."""

    fields: set[str] = field(default_factory=set)
    levels: set[str] = field(default_factory=set)


def written(source: Path, starred: dict[str, set[str]]) -> dict[str, Written]:
    """Name → event, of all modules.

    Args:
        source: folder of the package.
        starred: fields of events that are written with `**`, which a tree doesn't tell.
    """
    found: dict[str, Written] = defaultdict(Written)
    for path in sorted(source.rglob("*.py")):
        tree = ast.parse(path.read_text())
        for name, fields, level, has_star in [*_logged(tree), *_forwarded(tree), *_supervised(tree)]:
            assert not has_star or name in starred, f"{path.name}: name the fields of {name} in the test"
            found[name].fields |= fields | (starred[name] if has_star else set())
            found[name].levels.add(level)
        for name, fields in _encoded(tree):
            found[name].fields |= fields
    return dict(found)


def _calls(tree: ast.AST) -> Iterator[ast.Call]:
    return (node for node in ast.walk(tree) if isinstance(node, ast.Call) and node.args)


def _is_log(call: ast.Call) -> bool:
    """`log.info(…)`, `self._log.warning(…)`, `logger.log(level, …)`."""
    if not isinstance(call.func, ast.Attribute) or call.func.attr not in {*LEVELS, "log"}:
        return False
    return ast.unparse(call.func.value).rpartition(".")[2].lstrip("_") in {"log", "logger"}


def _names(node: ast.expr) -> list[str]:
    """What a literal, or a choice of two, may be."""
    found = [c.value for c in ast.walk(node) if isinstance(c, ast.Constant) and isinstance(c.value, str)]
    return [name for name in found if EVENT.fullmatch(name)]


def _keywords(call: ast.Call) -> tuple[set[str], bool]:
    fields = {keyword.arg for keyword in call.keywords if keyword.arg} - {"exc_info"}
    if any(k.arg == "exc_info" for k in call.keywords) or getattr(call.func, "attr", "") == "exception":
        fields.add("exception")
    return fields, any(keyword.arg is None for keyword in call.keywords)


def _level(call: ast.Call) -> str:
    return LEVELS.get(call.func.attr, "warning")  # `log.log(…)` passes a library's on: warning or worse


def _logged(tree: ast.AST):
    for call in filter(_is_log, _calls(tree)):
        event = call.args[1 if call.func.attr == "log" else 0]
        fields, starred = _keywords(call)
        for name in _names(event):
            yield name, fields, _level(call), starred


def _forwarded(tree: ast.AST):
    """Calls of a function that passes its first argument on as the event: `self._back_off("batch_not_delivered", …)`."""
    passing = {}
    for function in ast.walk(tree):
        if isinstance(function, ast.FunctionDef):
            own = {argument.arg for argument in function.args.args}
            for call in filter(_is_log, _calls(function)):
                if isinstance(call.args[0], ast.Name) and call.args[0].id in own:
                    passing[function.name] = call
    for call in _calls(tree):
        if isinstance(call.func, ast.Attribute) and call.func.attr in passing:
            inner = passing[call.func.attr]
            for name in _names(call.args[0]):
                yield name, _keywords(inner)[0], _level(inner), False


def _supervised(tree: ast.AST):
    """The supervisor's: `self._tell("part_ready", slot, "info", seconds=…)` and `SupervisorEvent(kind, part, level, {…})`."""
    for call in _calls(tree):
        of = ast.unparse(call.func)
        if of not in {"self._tell", "SupervisorEvent"} or (of == "SupervisorEvent" and len(call.args) < 2):
            continue
        fields = {keyword.arg for keyword in call.keywords if keyword.arg}
        if of == "SupervisorEvent" and len(call.args) > 3:
            fields |= {key.value for key in getattr(call.args[3], "keys", [])}
        level = (
            call.args[2].value if len(call.args) > 2 and isinstance(call.args[2], ast.Constant) else "info"
        )
        for name in _names(call.args[0]):
            yield name, {*fields, "part"}, level, False


def _encoded(tree: ast.AST):
    """Records that are the line itself: classes whose `event` is a literal."""
    for node in ast.walk(tree):
        if isinstance(node, ast.ClassDef):
            fields = {f.target.id: f.annotation for f in node.body if isinstance(f, ast.AnnAssign)}
            for name in _names(fields["event"]) if "event" in fields else []:
                yield name, set(fields)
