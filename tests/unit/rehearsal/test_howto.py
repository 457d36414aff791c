"""The how-to shows what its commands print."""

import re
import shlex
from pathlib import Path

import pytest
from typer.testing import CliRunner

from fraudscale.cli import app

ROOT = Path(__file__).parents[3]
PAGE = (ROOT / "docs/how-to/will-my-hpa-hold.md").read_text()
SHOWN = re.findall(r"```console\n\$ \.venv/bin/fraudscale (rehearse .*)\n((?:.*\n)*?)```", PAGE)


@pytest.mark.parametrize(("command", "shown"), SHOWN, ids=["week", "spike", "suggest"])
def test_the_page_shows_what_the_command_prints(command, shown, tmp_path, monkeypatch):
    monkeypatch.chdir(ROOT)
    arguments = shlex.split(command)
    if arguments[-2] == "--picture":
        assert Path(arguments[-1]).exists()
        arguments[-1] = str(tmp_path / Path(arguments[-1]).name)
    printed = CliRunner().invoke(app, arguments).stdout
    # "…" ends what is left out of the page.
    head = shown.removesuffix("…\n")
    assert printed.startswith(head) if head != shown else printed == shown
