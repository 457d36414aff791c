"""Files that are replaced as a whole: what a reader sees, what a failure leaves, who may read."""

import os
import stat
import threading
from pathlib import Path

import pytest

from fraudscale import files


@pytest.fixture
def umask():
    before = os.umask(0o022)
    yield
    os.umask(before)


def test_a_file_and_its_folder_are_made(tmp_path):
    files.replace(tmp_path / "new" / "state.json", b"content")
    assert (tmp_path / "new" / "state.json").read_bytes() == b"content"


@pytest.mark.usefixtures("umask")
@pytest.mark.parametrize(("asked", "found"), [({}, 0o644), ({"mode": 0o600}, 0o600)])
def test_permissions_are_those_asked_for_whatever_the_old_file_had(tmp_path, asked, found):
    path = tmp_path / "secret"
    path.write_bytes(b"old")
    path.chmod(0o666)
    files.replace(path, b"new", **asked)
    assert stat.S_IMODE(path.stat().st_mode) == found


def test_a_reader_that_has_it_open_keeps_the_old_content(tmp_path):
    path = tmp_path / "state"
    files.replace(path, b"old")
    with path.open("rb") as reader:
        files.replace(path, b"new and longer")
        assert reader.read() == b"old"
    assert path.read_bytes() == b"new and longer"


@pytest.mark.parametrize("step", ["fsync", "replace"])
def test_what_fails_leaves_the_old_content_and_no_draft(tmp_path, monkeypatch, step):
    path = tmp_path / "state"
    files.replace(path, b"old")

    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os if step == "fsync" else Path, step, full)
    with pytest.raises(OSError, match="No space left"):
        files.replace(path, b"new")
    assert [(one.name, one.read_bytes()) for one in tmp_path.iterdir()] == [("state", b"old")]


def test_content_and_name_are_synced_in_this_order(tmp_path, monkeypatch):
    synced, fsync = [], os.fsync

    def note(descriptor):
        is_folder = stat.S_ISDIR(os.fstat(descriptor).st_mode)
        synced.append((is_folder, (tmp_path / "state").exists()))
        fsync(descriptor)

    monkeypatch.setattr(os, "fsync", note)
    files.replace(tmp_path / "state", b"content")
    assert synced == [(False, False), (True, True)], "the draft, before it has the name; then the folder"


def test_writers_that_race_leave_the_content_of_one_of_them(tmp_path):
    path = tmp_path / "state"
    contents = [bytes([n]) * 100_000 for n in range(8)]
    seen, done = set(), threading.Event()

    def read():
        while not done.is_set():
            if path.exists():
                seen.add(path.read_bytes())

    def write(content):
        for _ in range(5):
            files.replace(path, content)

    reader = threading.Thread(target=read)
    reader.start()
    writers = [threading.Thread(target=write, args=(content,)) for content in contents]
    for writer in writers:
        writer.start()
    for writer in writers:
        writer.join()
    done.set()
    reader.join()
    assert seen | {path.read_bytes()} <= set(contents)
    assert [one.name for one in tmp_path.iterdir()] == ["state"]


def test_what_can_be_written_is_found_out_without_a_trace(tmp_path):
    old = tmp_path / "old"
    old.write_bytes(b"content")
    assert files.unwritable(old) == files.unwritable(tmp_path / "new") == ""
    assert old.read_bytes() == b"content"
    assert list(tmp_path.iterdir()) == [old]
    assert files.unwritable(tmp_path) == "Is a directory"
    assert files.unwritable(old / "new") == "Not a directory"
    assert files.unwritable(tmp_path / "none" / "new") == "No such file or directory"
