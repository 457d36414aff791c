"""The environment gets the machine's own Python, whichever it is; none is downloaded."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[4]


def pythons():
    """This machine's, each newest of its kind: real programs, for a name on PATH may be a shim with nothing behind it."""
    names = [sys.executable, *(f"python3.{minor}" for minor in range(11, 15))]
    for path in filter(None, map(shutil.which, names)):
        said = subprocess.run(
            [path, "-c", "import os, sys; print(os.path.realpath(sys.executable))"],
            capture_output=True,
            text=True,
            check=False,
        )
        if said.returncode == 0:
            yield said.stdout.strip()


@pytest.fixture
def uv(tmp_path):
    """Run uv in this checkout on a machine that has just these programs."""
    program = subprocess.run(
        ["sh", "scripts/bootstrap.sh"], cwd=ROOT, capture_output=True, text=True, check=True
    ).stdout.strip()

    def run(*arguments, python=None):
        folder = tmp_path / "bin"
        folder.mkdir()
        if python is not None:
            (folder / "python3").symlink_to(python)
        env = {"PATH": str(folder), "HOME": str(tmp_path), "UV_OFFLINE": "1"}
        return subprocess.run(
            [program, *arguments], cwd=ROOT, env=env, capture_output=True, text=True, check=False
        )

    return run


@pytest.mark.parametrize("python", sorted(set(pythons())))
def test_the_python_that_is_there_is_used(uv, python, tmp_path):
    made = uv("venv", str(tmp_path / "venv"), python=python)
    assert made.returncode == 0, made.stderr
    assert os.path.realpath(tmp_path / "venv/bin/python") == python


def test_without_one_none_is_downloaded(uv, tmp_path):
    refused = uv("venv", str(tmp_path / "venv"))
    assert refused.returncode != 0
    assert "Python downloads are set to 'manual'" in refused.stderr
    assert not (tmp_path / "venv").exists()
