import pytest

from fraudscale.central_logs import tail
from fraudscale.central_logs.tail import LogTail
from fraudscale.local.supervisor import machine


class Folder:
    """A folder of logs as the parts and the supervisor treat it, and shippers that come and go."""

    def __init__(self, path):
        self.logs = path / "logs"
        self.logs.mkdir()
        self.positions = path / "positions.json"
        self.lost = []

    def write(self, part, *lines, end="\n"):
        with (self.logs / f"{part}.log").open("a") as file:
            file.write("".join(f"{line}{end}" for line in lines))

    def follower(self, cluster="c1"):
        return LogTail(self.logs, self.positions, cluster, lambda part, at: self.lost.append((part, at)))


@pytest.fixture
def folder(tmp_path):
    return Folder(tmp_path)


def texts(batch):
    return [line.content.decode() for line in batch.lines]


def drain(follower):
    """Read and accept until nothing is new."""
    lines = []
    while (batch := follower.read()).offsets:
        follower.accept(batch)
        lines += batch.lines
    return lines


def test_lines_of_all_parts_are_read_once(folder):
    folder.write("a", "1", "2")
    folder.write("b", "3")
    follower = folder.follower()
    assert sorted(line.content for line in drain(follower)) == [b"1", b"2", b"3"]
    assert drain(follower) == []


def test_a_line_is_read_once_it_is_whole(folder):
    folder.write("a", "whole", "ha", end="")
    folder.write("b", "")
    follower = folder.follower()
    assert drain(follower) == []
    folder.write("a", "lf")
    assert [line.content for line in drain(follower)] == [b"wholehalf"]


def test_a_batch_that_was_not_accepted_is_read_again_under_the_same_ids(folder):
    folder.write("a", "1", "2")
    first = folder.follower().read()
    again = folder.follower().read()
    assert [line.id for line in first.lines] == [line.id for line in again.lines]
    assert len({line.id for line in again.lines}) == 2


def test_a_restart_goes_on_where_the_last_run_was(folder):
    folder.write("a", "1")
    before = drain(folder.follower())
    folder.write("a", "2")
    after = drain(folder.follower())
    assert [line.content for line in after] == [b"2"]
    assert after[0].id != before[0].id


def test_another_store_gets_everything_that_is_still_here(folder):
    folder.write("a", "1")
    drain(folder.follower("c1"))
    assert [line.content for line in drain(folder.follower("c2"))] == [b"1"]


@pytest.mark.parametrize("restart", [False, True], ids=["running", "restarted"])
def test_what_was_not_read_before_a_cut_is_read_from_the_copy(folder, restart):
    follower = folder.follower()
    folder.write("a", "first", "second")
    seen = drain(follower)
    folder.write("a", "unread")
    machine.rotate(folder.logs, limit=5)
    folder.write("a", "new")
    seen += drain(folder.follower() if restart else follower)
    assert sorted(line.content for line in seen) == [b"first", b"new", b"second", b"unread"]
    assert len({line.id for line in seen}) == 4
    assert folder.lost == []


def test_a_cut_log_that_has_grown_beyond_the_place_is_still_another_content(folder):
    follower = folder.follower()
    folder.write("a", "one")
    drain(follower)
    machine.rotate(folder.logs, limit=1)
    folder.write("a", "two is longer than one")
    assert [line.content for line in drain(follower)] == [b"two is longer than one"]


def test_a_log_that_was_cut_before_anything_of_it_was_sent_is_read_from_the_copy(folder):
    folder.write("a", "unread")
    follower = folder.follower()
    follower.look()  # the store is away; only this happens
    machine.rotate(folder.logs, limit=1)
    folder.write("a", "new")
    assert sorted(line.content for line in drain(follower)) == [b"new", b"unread"]


def test_a_batch_that_was_read_before_a_cut_is_accepted_after_it(folder):
    folder.write("a", "1")
    follower = folder.follower()
    batch = follower.read()
    machine.rotate(folder.logs, limit=1)
    folder.write("a", "2")
    follower.look()
    follower.accept(batch)
    assert [line.content for line in drain(follower)] == [b"2"]


def test_the_end_of_the_last_run_is_read_though_its_log_was_put_aside(folder):
    folder.write("a", "1")
    folder.write("gone", "1")
    drain(folder.follower())
    folder.write("a", "last words, cut o", end="")
    folder.write("gone", "end")
    machine.shelve(folder.logs)
    folder.write("a", "next run")
    read = sorted(line.content for line in drain(folder.follower()))
    assert read == [b"end", b"last words, cut o", b"next run"]


def test_logs_of_runs_before_the_first_are_not_read(folder):
    folder.write("a", "old")
    machine.shelve(folder.logs)
    folder.write("a", "new")
    assert [line.content for line in drain(folder.follower())] == [b"new"]


def test_a_log_that_was_cut_twice_unread_is_told(folder):
    folder.write("a", "1")
    follower = folder.follower()
    drain(follower)
    folder.write("a", "lost")
    for line in ("second", "third"):
        machine.rotate(folder.logs, limit=1)
        folder.write("a", line)
    assert b"third" in [line.content for line in drain(follower)]
    assert folder.lost == [("a", 2)]


def test_a_loud_part_does_not_keep_the_others_waiting(folder, monkeypatch):
    monkeypatch.setattr(tail, "CHUNK_BYTES", 100)
    monkeypatch.setattr(tail, "BATCH_BYTES", 250)
    for part in "abc":
        folder.write(part, *(f"{part}{i:03}" for i in range(1000)))
    batch = folder.follower().read()
    assert {line.file for line in batch.lines} == {"a.log", "b.log", "c.log"}


def test_the_next_batch_begins_with_the_part_after_the_last(folder, monkeypatch):
    monkeypatch.setattr(tail, "CHUNK_BYTES", 100)
    monkeypatch.setattr(tail, "BATCH_BYTES", 50)
    for part in "abc":
        folder.write(part, *(f"{part}{i:03}" for i in range(1000)))
    follower = folder.follower()
    assert [follower.read().lines[0].file for _ in range(4)] == ["a.log", "b.log", "c.log", "a.log"]


def test_a_shorter_log_that_begins_as_before_is_another_content(folder):
    """A program that says the same at each start, such as a job that has nothing to do."""
    same = ["the same words at each start"] * 50
    folder.write("a", *same, "and more")
    follower = folder.follower()
    drain(follower)
    machine.rotate(folder.logs, limit=1)
    folder.write("a", *same)
    assert len(drain(follower)) == 50


def test_a_line_longer_than_a_chunk_comes_in_pieces_and_stops_nothing(folder, monkeypatch):
    monkeypatch.setattr(tail, "CHUNK_BYTES", 10)
    folder.write("a", "x" * 25, "after")
    assert [line.content for line in drain(folder.follower())] == [b"x" * 10, b"x" * 10, b"xxxxx", b"after"]


def test_what_waits_is_counted_in_bytes(folder):
    folder.write("a", "12", "34")
    follower = folder.follower()
    follower.read()
    assert follower.behind() == 6
    drain(follower)
    assert follower.behind() == 0


def test_nothing_is_sent_while_the_positions_cannot_be_written(folder):
    folder.write("a", "1")
    folder.positions.mkdir()
    with pytest.raises(OSError, match="directory"):
        folder.follower().read()
