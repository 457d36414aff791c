"""Finds objects of a kind in what people have: one object, several documents, a List, what kubectl prints."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import yaml

from fraudscale.hpa.node import ManifestError, ManifestNode


class _StrictLoader(yaml.SafeLoader):
    """YAML without duplicate keys, of which PyYAML would silently take the last."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        seen = set[str]()
        for name, mark in [(key.value, key.start_mark) for key, _ in node.value]:
            if str(name) in seen:
                raise yaml.constructor.ConstructorError(None, None, f"the key {name!r} is there twice", mark)
            seen.add(str(name))
        return super().construct_mapping(node, deep)


def find(content: bytes | str, file: str, kind: str) -> list[ManifestNode]:
    """Read YAML or JSON → the objects of a kind, in their order; what else there is doesn't matter.

    Raises:
        ManifestError: not YAML, with the place; a document that is no object; or none is of that kind.
    """
    with _telling(content, file):
        found = list(yaml.load_all(content, Loader=_StrictLoader))
    # `---` at the end, or comments between two of them, make a document of nothing.
    documents = [(number, value) for number, value in enumerate(found, 1) if value is not None]
    several = len(documents) > 1
    nodes = [ManifestNode(f"{file}, document {n}" if several else file, "", value) for n, value in documents]
    objects = [pair for node in nodes for pair in _objects(node)]
    if wanted := [node for name, node in objects if name == kind]:
        return wanted
    others = ", ".join(dict.fromkeys(name for name, _ in objects)) or "nothing"
    raise ManifestError(file, "", f"a {kind} is wanted, and there is {others}")


def _objects(node: ManifestNode) -> Iterator[tuple[str, ManifestNode]]:
    """Yield the objects of a document with their kinds: itself, or those of a List."""
    fields = node.mapping()
    if "kind" not in fields:
        raise node.error("kind is required")
    kind = fields["kind"].text()
    if not (kind.endswith("List") and "items" in fields):
        yield kind, node
        return
    version = fields["apiVersion"].value if "apiVersion" in fields else None
    for item in fields["items"].items():
        its = item.mapping()
        # The API's own lists are of one kind, and say it and its version once.
        own = {"apiVersion": version, "kind": kind.removesuffix("List")} | {
            n: f.value for n, f in its.items()
        }
        whole = ManifestNode(item.file, item.path, own)
        yield whole.mapping()["kind"].text(), whole


@contextmanager
def _telling(content: bytes | str, file: str) -> Iterator[None]:
    """Turn the errors of PyYAML into ours."""
    try:
        yield
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark
        place = f"line {mark.line + 1}, column {mark.column + 1}" if mark else ""
        reason = f"not valid YAML: {error.problem or error.context}"
        if ("{{" in content) if isinstance(content, str) else (b"{{" in content):
            reason += "; a template becomes a manifest by `helm template`"
        raise ManifestError(file, place, reason) from error
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        # bytes that are no text; a date that is none; brackets without end
        raise ManifestError(file, "", f"not valid YAML: {' '.join(str(error).split())}") from error
