"""`run/scale.json`: taken when it is for this run, refused once with the reason when it is not."""

import json

import pytest

from fraudscale.local.scaling import scale_file
from fraudscale.local.scaling.scale_file import Scale, ScaleRefused, ScaleWatcher

RUN = "2026-11-24T00:00:00Z"


@pytest.fixture
def home(tmp_path):
    (tmp_path / "run").mkdir()
    return tmp_path


def put(home, content):
    draft = home / "run" / "draft"
    draft.write_text(content if isinstance(content, str) else json.dumps(content))
    draft.replace(scale_file.path(home))


def test_the_number_is_read_as_it_was_written_and_nothing_else_is_left(home):
    scale_file.write(home, Scale(5, RUN, "cpu above target", "now"))
    assert scale_file.read(home, RUN) == Scale(5, RUN, "cpu above target", "now")
    assert [file.name for file in (home / "run").iterdir()] == ["scale.json"]


def test_each_number_is_news_once(home):
    watcher = ScaleWatcher(home, RUN)
    assert watcher.news() is None
    scale_file.write(home, Scale(5, RUN))
    assert (watcher.news().replicas, watcher.news()) == (5, None)
    scale_file.write(home, Scale(6, RUN))
    assert watcher.news().replicas == 6


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("{half", "malformed"),
        ("", "truncated"),
        ({"replicas": 7, "run": RUN}, "<= 6"),
        ({"replicas": 3, "run": RUN}, ">= 4"),
        ({"replicas": 4.5, "run": RUN}, "int"),
        ({"replicas": "5", "run": RUN}, "int"),
        ({"run": RUN}, "replicas"),
        ({"replicas": 5}, "run"),
        ({"replicas": 5, "run": RUN, "min": 1}, "unknown field"),
        ({"replicas": 5, "run": "2026-11-23T00:00:00Z"}, "is for the run of '2026-11-23T00:00:00Z'"),
    ],
)
def test_what_is_not_for_this_run_is_refused_once_with_the_reason(home, content, message):
    watcher = ScaleWatcher(home, RUN)
    put(home, content)
    with pytest.raises(ScaleRefused, match=r"scale\.json") as refused:
        watcher.news()
    assert message in str(refused.value)
    assert watcher.news() is None
    put(home, {"replicas": 5, "run": RUN})
    assert watcher.news().replicas == 5


def test_a_file_that_went_away_is_no_news(home):
    watcher = ScaleWatcher(home, RUN)
    scale_file.write(home, Scale(5, RUN))
    watcher.news()
    scale_file.path(home).unlink()
    assert watcher.news() is None


def test_a_new_run_forgets(home):
    scale_file.write(home, Scale(5, RUN))
    scale_file.memory_path(home).touch()
    scale_file.forget(home)
    assert list((home / "run").iterdir()) == []
