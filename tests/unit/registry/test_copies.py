"""The folder of copies: what gets a place in it, and what is removed."""

import os

import pytest

from fraudscale.registry.copies import prune, store, temporary_folder
from fraudscale.scoring.model import ModelRejected, Version


@pytest.fixture
def cache(tmp_path):
    return tmp_path / "models"


def test_a_download_of_another_artifact_is_refused(cache, make_artifact, tmp_path):
    cache.mkdir()
    make_artifact(tmp_path / "other", bias=1.0)
    with pytest.raises(ModelRejected, match="wanted 0000"):
        store(cache, tmp_path / "other", Version("1", "champion", "0" * 64))
    assert list(cache.iterdir()) == []


def test_an_empty_download_is_refused(cache, tmp_path):
    (tmp_path / "empty").mkdir()
    with pytest.raises(ModelRejected, match="wanted 0000"):
        store(cache, tmp_path / "empty", Version("1", "champion", "0" * 64))


def test_what_a_killed_fetch_left_is_removed_after_an_hour(cache):
    cache.mkdir()
    old, young = temporary_folder(cache), temporary_folder(cache)
    os.utime(old, (0, 0))
    prune(cache, 2)
    assert (old.exists(), young.exists()) == (False, True)
