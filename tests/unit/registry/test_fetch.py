"""From the registry to a verified copy: the command, and the child that runs it for a serving process."""

import itertools
import os
import shutil
import threading
from pathlib import Path

import pytest

import damage
from fraudscale.config import ModelSettings
from fraudscale.registry import fetch as fetching
from fraudscale.registry.copies import FetchFailed, Pointer, read_copy, read_pointer
from fraudscale.registry.fetch import NoVersion, fetch_in_child, fetch_model
from fraudscale.scoring.model import MANIFEST, SERVED_FILES, Version, digest_of

VERSION = Version("7", "champion", "0" * 64)


@pytest.fixture
def settings(tmp_path):
    return ModelSettings(model_cache_dir=tmp_path / "models")


@pytest.fixture
def published(monkeypatch, make_artifact, tmp_path):
    """A registry whose champion is version 7; yields its folder, digest and the downloads."""

    class Published:
        folder = tmp_path / "published"
        digest = make_artifact(folder)
        promised = digest
        downloads = 0

    class Locator:
        def __init__(self, _):
            pass

        def locate(self, version=None):
            return Version(version or "7", "champion", Published.promised)

    def download(_, version, into):
        Published.downloads += 1
        return shutil.copytree(Published.folder, into / version)

    monkeypatch.setattr(fetching.registry, "Locator", Locator)
    monkeypatch.setattr(fetching.registry, "fetch", download)
    return Published


def test_the_champion_becomes_a_copy_and_what_a_start_without_the_registry_loads(settings, published):
    place = fetch_model(settings)
    assert place == settings.model_cache_dir / published.digest
    assert read_copy(settings.model_cache_dir, published.digest)
    assert read_pointer(settings.model_cache_dir) == Pointer("7", "champion", published.digest)


def test_a_given_version_becomes_a_copy_and_nothing_more(settings, published):
    fetch_model(settings, "3")
    assert read_copy(settings.model_cache_dir, published.digest)
    assert read_pointer(settings.model_cache_dir) is None


@pytest.mark.parametrize("version", ["", "latest", "-1", "1.0", "٣", "9" * 5000, "1\n"])
def test_a_version_that_is_no_number_is_the_users_mistake(settings, published, version):
    with pytest.raises(NoVersion, match="must be a number such as 3") as caught:
        fetch_model(settings, version)
    assert (caught.value.exit_code, len(str(caught.value)) < 200) == (2, True)


def test_a_copy_that_is_there_is_not_downloaded_again(settings, published):
    fetch_model(settings)
    fetch_model(settings)
    assert published.downloads == 1


def test_a_damaged_copy_is_replaced(settings, published):
    (fetch_model(settings) / "model.onnx").write_bytes(b"half")
    fetch_model(settings)
    assert published.downloads == 2
    assert read_copy(settings.model_cache_dir, published.digest)


def test_an_artifact_that_must_not_serve_is_refused_and_leaves_nothing(settings, published):
    published.promised = "0" * 64
    with pytest.raises(FetchFailed, match=r"version 7 must not serve: .*; register another"):
        fetch_model(settings)
    assert list(settings.model_cache_dir.iterdir()) == []


def test_whatever_is_wrong_with_an_artifact_the_command_says_it_in_its_own_words(settings, published):
    files = {path.name: path.read_bytes() for path in published.folder.iterdir()}
    said = []
    for _, damaged in itertools.islice(damage.artifacts(files), 0, None, 7):
        for name, content in damaged.items():
            (published.folder / name).write_bytes(content)
        published.promised = digest_of(damaged[MANIFEST])
        try:
            fetch_model(settings)
        except FetchFailed as error:
            said.append(str(error))
        assert not list(settings.model_cache_dir.glob(".fetch-*"))
    assert len(said) > 50
    assert [words for words in said if "version 7 must not serve: " not in words] == []


@pytest.mark.parametrize("name", [MANIFEST, *SERVED_FILES])
def test_a_folder_in_the_place_of_a_file_is_a_file_that_is_missing(settings, published, name):
    (published.folder / name).unlink()
    (published.folder / name).mkdir()
    with pytest.raises(FetchFailed, match="must not serve"):
        fetch_model(settings)


def test_a_folder_that_can_not_take_the_copy_is_said(settings, published):
    settings.model_cache_dir.write_text("a file where the folder should be")
    with pytest.raises(FetchFailed, match=r"can't take the copy: .*; free space, or make it writable"):
        fetch_model(settings)


def child(monkeypatch, tmp_path, program):
    """Let a shell script take the place of Python."""
    script = Path(tmp_path, "python")
    script.write_text(f"#!/bin/sh\n{program}\n")
    script.chmod(0o755)
    monkeypatch.setattr("sys.executable", str(script))


def test_the_child_is_told_which_version_to_fetch_from_where_to_where(monkeypatch, tmp_path):
    child(monkeypatch, tmp_path, f'echo "$@" $MLFLOW_TRACKING_URI $MODEL_CACHE_DIR > {tmp_path}/arguments')
    settings = ModelSettings.read(mlflow_tracking_uri="http://mine:1", model_cache_dir=Path("copies"))
    fetch_in_child(settings, VERSION, threading.Event())
    said = Path(tmp_path, "arguments").read_text()
    assert said == "-m fraudscale.cli fetch-model --version 7 http://mine:1 copies\n"


def test_a_child_that_fails_says_why_in_its_last_line(monkeypatch, tmp_path):
    child(monkeypatch, tmp_path, "echo first; echo the disk is full >&2; exit 3")
    with pytest.raises(FetchFailed, match="ended with code 3: the disk is full"):
        fetch_in_child(ModelSettings.read(), VERSION, threading.Event())


def test_a_child_that_hangs_is_killed_at_its_limit(monkeypatch, tmp_path):
    child(monkeypatch, tmp_path, f"echo $$ > {tmp_path}/pid; exec tail -f /dev/null")
    monkeypatch.setattr(fetching, "FETCH_SECONDS", 0.3)
    with pytest.raises(FetchFailed, match="took longer"):
        fetch_in_child(ModelSettings.read(), VERSION, threading.Event())
    with pytest.raises(ProcessLookupError):
        os.kill(int(Path(tmp_path, "pid").read_text()), 0)


def test_a_stop_ends_the_child(monkeypatch, tmp_path):
    child(monkeypatch, tmp_path, "exec tail -f /dev/null")
    stopping = threading.Event()
    stopping.set()
    with pytest.raises(FetchFailed, match="the process stops"):
        fetch_in_child(ModelSettings.read(), VERSION, stopping)
