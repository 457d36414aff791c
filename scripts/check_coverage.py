"""Fails where the unit tests leave too much unseen; reads the `.coverage` of the last run. Run by `make check`."""

import json
import sys
import tempfile
from pathlib import Path
from typing import Final, NamedTuple

import coverage

LINES: Final = 90
"""Percent of the package's lines that unit tests must run."""
WHOLE: Final = "src/fraudscale/hpa/*"
"""Where they must run every line and take every branch: it decides how many replicas there are."""


class Seen(NamedTuple):
    """What of some files was run; percent."""

    lines: float
    branches: float
    files: dict[str, float]
    """File → percent of its lines."""


def seen(include: str | None = None) -> Seen:
    """Read the data of the last run, of all files or of those that a pattern names."""
    measured = coverage.Coverage()
    measured.load()
    with tempfile.NamedTemporaryFile(suffix=".json") as file:
        measured.json_report(outfile=file.name, include=include)
        found = json.loads(Path(file.name).read_text(encoding="utf-8"))
    files = {name: share(about["summary"], "lines") for name, about in found["files"].items()}
    return Seen(share(found["totals"], "lines"), share(found["totals"], "branches"), files)


def share(counts: dict[str, float], what: str) -> float:
    """Percent of what there is that was run; all of nothing."""
    there = counts["num_statements" if what == "lines" else "num_branches"]
    return 100 * counts[f"covered_{what}"] / there if there else 100.0


def main() -> int:
    """Print both figures and the files that have least; fail where one is too low."""
    every, strict = seen(), seen(WHOLE)
    for name, percent in sorted(every.files.items(), key=lambda item: item[1])[:10]:
        print(f"{percent:5.1f} %  {name}")
    print(f"unit tests run {every.lines:.1f} % of all lines; at least {LINES} are wanted")
    print(
        f"of {WHOLE} {strict.lines:.1f} % of the lines and {strict.branches:.1f} % of the branches; all are wanted"
    )
    return 0 if every.lines >= LINES and strict.lines == strict.branches == 100.0 else 1


if __name__ == "__main__":
    sys.exit(main())
