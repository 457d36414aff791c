"""What a child hands over, and what its end says."""

import subprocess

import msgspec
import pytest
from scored_records import record

from fraudscale.kafka import apart as module
from fraudscale.kafka.apart import BROKEN, GIVEN, LIFE_SECONDS, NOTHING, SILENT, Apart, read_apart


def packed(*records):
    return b"".join(len(x).to_bytes(4, "big") + x for x in map(msgspec.msgpack.encode, records))


RECORDS = [record(5, headers=[("own", b"\xff"), ("none", None)]), record(6, key=None, headers=[])]
TOMBSTONE = msgspec.structs.replace(record(7, headers=[]), value=None)


@pytest.mark.parametrize(
    ("output", "code", "found"),
    [
        (packed(*RECORDS, TOMBSTONE), 0, Apart([*RECORDS, TOMBSTONE], GIVEN)),
        (packed(*RECORDS)[:-1], -6, Apart(RECORDS[:1], GIVEN)),
        (b"", NOTHING, Apart([], NOTHING)),
        (b"", SILENT, Apart([], SILENT)),
        (b"", -6, Apart([], BROKEN, "they take more than 64 MiB to unpack")),
        (b"\0\0", BROKEN, Apart([], BROKEN, "Local: Invalid compressed data")),
    ],
)
def test_its_records_count_and_without_any_the_way_it_ended(monkeypatch, output, code, found):
    said = b"some line\n\nLocal: Invalid compressed data"
    done = subprocess.CompletedProcess([], code, output, said)
    monkeypatch.setattr(module.subprocess, "run", lambda *_, **__: done)
    assert read_apart({}, "in", 0, 5) == found


def test_one_that_hangs_proves_nothing(monkeypatch):
    def hang(*_, timeout, **__):
        raise subprocess.TimeoutExpired("child", timeout)

    monkeypatch.setattr(module.subprocess, "run", hang)
    assert read_apart({}, "in", 0, 5) == Apart([], SILENT)
    assert LIFE_SECONDS < 60


def test_a_child_that_can_not_be_made_proves_nothing(monkeypatch):
    def refuse(*_, **__):
        raise OSError(12, "Cannot allocate memory")

    monkeypatch.setattr(module.subprocess, "run", refuse)
    found = read_apart({}, "in", 0, 5)
    assert (found.outcome, "Cannot allocate memory" in found.why) == (SILENT, True)


def test_a_child_that_fails_before_it_reads_proves_nothing():
    found = read_apart({"no.such.setting": 1}, "in", 0, 5)
    assert (found.outcome, "no.such.setting" in found.why) == (SILENT, True)


def test_a_broker_that_is_away_proves_nothing_nor_does_what_lies_in_the_folder(tmp_path, monkeypatch):
    """The child itself, as it is run."""
    (tmp_path / "msgspec.py").write_text("raise SystemExit(4)")
    monkeypatch.chdir(tmp_path)
    assert read_apart({"bootstrap.servers": "127.0.0.1:1"}, "in", 0, 5) == Apart([], SILENT)
