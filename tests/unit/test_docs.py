"""What the documentation names exists, and what exists is documented."""

import re
import subprocess
import sys
from pathlib import Path

import pytest
from log_events import written

from fraudscale.central_logs.fields import COMMON, OF_EVENTS
from fraudscale.config import SETTINGS
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
    for group in SETTINGS:
        for name, field in group.model_fields.items():
            assert field.description, name


PAGES = [ROOT / name for name in ("README.md", "CHANGELOG.md", "SECURITY.md")] + sorted(
    (ROOT / "docs").rglob("*.md")
)


def links(page):
    """Yield the file and the anchor ("" for none) of each link to a page or file of ours."""
    text = re.sub(r"^ *```.*?^ *```$", "", page.read_text(), flags=re.MULTILINE | re.DOTALL)
    for target, anchor in re.findall(r"\]\((?!https?://)([^)#\s]*)#?([^)]*)\)", text):
        yield (page.parent / target).resolve() if target else page, anchor


def anchors(page):
    """The anchors of a page's headings, as GitHub makes them."""
    for heading in re.findall(r"^#+ (.*)$", page.read_text(), re.MULTILINE):
        yield re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-")


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_links_between_pages_lead_somewhere(page):
    for target, anchor in links(page):
        assert target.exists(), target
        assert not anchor or anchor in anchors(target), f"{target}#{anchor}"


def test_every_page_is_reached_from_the_readme():
    reached, ahead = set(), {ROOT / "README.md"}
    while ahead:
        page = ahead.pop()
        reached.add(page)
        ahead |= {target for target, _ in links(page) if target.suffix == ".md"} - reached
    assert set(PAGES) - reached == set()


def test_every_decision_is_listed_with_its_title():
    folder = ROOT / "docs/decisions"
    listed = re.findall(
        r"^\| \[\d+\]\((.*?)\) \| (.*?)(?: \(superseded .*\))? \|$",
        (folder / "README.md").read_text(),
        re.MULTILINE,
    )
    titles = [(path.name, path.read_text().splitlines()[0]) for path in sorted(folder.glob("0*.md"))]
    assert listed == [(name, re.sub(r"^# \d+\. ", "", title)) for name, title in titles]


def test_the_readme_says_how_much_there_is_to_read():
    text = (ROOT / "README.md").read_text()
    patterns = re.search(r"cat (.*) \| wc -l", text)[1].split()
    said = int(re.search(r"about ([\d,]+) lines", text)[1].replace(",", ""))
    files = [path for pattern in patterns for path in (ROOT / "src/fraudscale").glob(pattern)]
    lines = sum(path.read_text().count("\n") for path in files)
    assert abs(lines - said) < 0.1 * said, lines


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
