"""What the documentation names exists, and what exists is documented."""

import re
import subprocess
import sys
from pathlib import Path

import pytest
from log_events import written

from fraudscale.central_logs.fields import COMMON, OF_EVENTS
from fraudscale.config import TOPICS
from fraudscale.local.scaling.autoscaler import Synced

ROOT = Path(__file__).parents[2]
ROWS = re.findall(
    r"^\| (M\d+) \|(.*)\|(.*)\|(.*)\|(.*)\|$", (ROOT / "docs/requirements.md").read_text(), re.MULTILINE
)


def test_every_requirement_has_a_row():
    assert [row[0] for row in ROWS] == [f"M{i}" for i in range(1, 27)]


@pytest.mark.parametrize("row", ROWS, ids=lambda row: row[0])
def test_a_requirement_names_code_and_tests_that_exist(row):
    _, _, code, tests, missing = row
    for name in re.findall(r"`([^`]+)`", code):
        assert (ROOT / "src/fraudscale" / name).exists(), name
    for name in re.findall(r"`([^`]+)`", tests):
        file, _, test = name.partition("::")
        assert (ROOT / "tests" / file).exists(), name
        assert f"def {test}" in (ROOT / "tests" / file).read_text(), name
    assert (code.strip() and tests.strip()) or missing.strip(), (
        "nothing shows it, and nothing is said to be missing"
    )


def test_generated_files_are_current():
    done = subprocess.run(
        [sys.executable, ROOT / "scripts/generate.py", "--check"], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, f"{done.stdout}run `make gen`"


def test_every_setting_says_what_it_means():
    for topic in TOPICS:
        for name, field in topic.model_fields.items():
            assert field.description, name


def test_links_between_pages_lead_somewhere():
    for page in [ROOT / "README.md", *(ROOT / "docs").rglob("*.md")]:
        for target in re.findall(r"\]\((?!https?://|#)([^)#]+)", page.read_text()):
            assert (page.parent / target).exists(), f"{page.relative_to(ROOT)} links to {target}"


STARRED = {
    "hpa_synced": set(Synced.__struct_fields__),
    "group_protocol_chosen": {"protocol", "group_version", "session_timeout_ms"},
    # the ids of a trace, which any line may have
    "request_failed": set(),
    "dead_lettered": set(),
    "prediction_made": set(),
}
BOUND = {"library_message": {"library"}}
"""Fields that a logger is bound to before it writes."""
CODE = written(ROOT / "src/fraudscale", STARRED)
EVENT_ROWS = [
    [re.findall(r"`([\w-]+)`|\b(info|warning|error|debug)\b", cell) for cell in row]
    for row in re.findall(
        r"^\| (`\w+`) \| (.*?) \| (.*?) \|(.*?)\|.*\|$",
        (ROOT / "docs/reference/logs.md").read_text(),
        re.MULTILINE,
    )
]
DOCUMENTED = {
    event[0][0]: (
        {level for _, level in levels},
        {name for name, _ in processes},
        {name for name, _ in fields},
    )
    for event, levels, processes, fields in EVENT_ROWS
}


def test_every_event_of_the_log_is_documented_and_the_other_way_round():
    assert len(DOCUMENTED) == len(EVENT_ROWS), "an event has two rows"
    assert set(DOCUMENTED) == set(CODE)


@pytest.mark.parametrize("event", sorted(CODE))
def test_an_event_is_documented_with_its_levels_and_fields(event):
    levels, _, fields = DOCUMENTED[event]
    assert fields == (CODE[event].fields | BOUND.get(event, set())) - (set(COMMON) - {"exception"})
    assert levels == CODE[event].levels or not CODE[event].levels


def test_the_processes_of_events_are_those_that_set_up_a_log():
    code = "\n".join(path.read_text() for path in (ROOT / "src").rglob("*.py"))
    known = {"supervisor", *re.findall(r'set_up\([^)]*process="([\w-]+)"', code)}
    assert {process for _, processes, _ in DOCUMENTED.values() for process in processes} == known


def test_the_index_knows_the_type_of_every_field_and_no_other():
    fields = set().union(*(event.fields for event in CODE.values()), *BOUND.values())
    assert fields - set(COMMON) == set(OF_EVENTS)
