"""What the documentation names exists, and what exists is documented."""

import re
import subprocess
import sys
from pathlib import Path

import pytest

from fraudscale.config import TOPICS

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


EVENT = re.compile(
    r'(?:\.(?:debug|info|warning|error|exception|log)|_back_off|Event)\(\s*(?:[\w.]+, )?"([a-z]+_[a-z_]+)"'  # an event is named where it is written
    r'|"((?:part|job)_[a-z]+)"'  # the supervisor's
)


def test_every_event_of_the_log_is_documented_and_the_other_way_round():
    code = "\n".join(p.read_text() for p in (ROOT / "src").rglob("*.py"))
    written = {first or second for first, second in EVENT.findall(code)}
    rows = re.findall(r"^\| (`.*?) \|", (ROOT / "docs/reference/logs.md").read_text(), re.MULTILINE)
    assert written == {name for row in rows for name in re.findall(r"`([a-z_]+)`", row)}
