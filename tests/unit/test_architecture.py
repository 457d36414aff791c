"""The page of the architecture, `.importlinter` and the tree name the same layers and rooms."""

import re
from configparser import ConfigParser
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PACKAGE = ROOT / "src/fraudscale"
PAGE = (ROOT / "docs/architecture.md").read_text(encoding="utf-8")
ROOMS = PAGE.partition("## Layers and rooms")[2].partition("\n## ")[0]
SPLIT = "kafka"
"""The one package whose modules stand in two layers: each of them counts as a room."""


def modules(folder):
    """Names of the modules and packages in a folder."""
    found = {path.stem for path in folder.glob("*.py")} | {
        path.parent.name for path in folder.glob("*/__init__.py")
    }
    return found - {"__init__"}


TREE = (modules(PACKAGE) - {SPLIT}) | {f"{SPLIT}.{name}" for name in modules(PACKAGE / SPLIT)}


def enforced():
    """Layer → rooms, as `.importlinter` has them: the contract's name lists the layers in the same order."""
    config = ConfigParser()
    config.read(ROOT / ".importlinter", encoding="utf-8")
    contract = config["importlinter:contract:layers"]
    rows = [row.replace("fraudscale.", "").split(" : ") for row in contract["layers"].strip().splitlines()]
    return {
        layer: {room.strip() for room in row}
        for layer, row in zip(contract["name"].split(", "), rows, strict=True)
    }


def documented():
    """Layer → rooms, as the page has them; a bare `kafka` is all of it that no other layer names."""
    rows = re.findall(r"^\| (\w+) \| (`.*?) \|.*\|$", ROOMS, re.MULTILINE)
    layers = {layer: set(re.findall(r"`([\w.]+)`", rooms)) for layer, rooms in rows}
    named = set().union(*layers.values())
    rest = {room for room in TREE if room.startswith(f"{SPLIT}.")} - named
    return {layer: (rooms - {SPLIT}) | (rest if SPLIT in rooms else set()) for layer, rooms in layers.items()}


def test_the_page_and_the_contract_have_the_same_layers_in_the_same_order():
    assert list(documented()) == list(enforced())
    assert len(documented()) == 7


@pytest.mark.parametrize("layer", enforced())
def test_a_layer_has_the_same_rooms_on_the_page_and_in_the_contract(layer):
    assert documented()[layer] == enforced()[layer]


@pytest.mark.parametrize("where", [documented, enforced])
def test_each_room_of_the_tree_stands_in_exactly_one_layer(where):
    rooms = [room for layer in where().values() for room in layer]
    assert sorted(rooms) == sorted(TREE)


def test_files_that_the_page_names_exist():
    named = set(re.findall(r"`([\w./-]+(?:\.(?:py|md|yaml)|/))`", PAGE))
    assert len(named) > 30
    assert {name for name in named if not (PACKAGE / name).exists() and not (ROOT / name).exists()} == set()
