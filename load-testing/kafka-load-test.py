"""Load over Kafka at a rate fixed in advance; latency from the intended send time to the committed score.

The same as `fraudscale load --over kafka`, and it keeps the report (JSON) and the picture of the last run.
"""

import argparse
import sys
from pathlib import Path

from fraudscale import cli
from fraudscale.config import LocalSettings

NAME = "kafka-load-test"


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rate", help="transactions a second (100)")
    parser.add_argument("--shape", help="constant, ramp, spike, sine or recorded (constant)")
    parser.add_argument("--seconds", help="length of the run (60)")
    parser.add_argument(
        "--even", action="store_true", help="evenly spaced arrivals instead of a Poisson process"
    )
    parser.add_argument("--replay", help="send this CSV or Parquet file with its recorded gaps")
    parser.add_argument("--speed", help="how many times as fast the file is replayed (1)")
    parser.add_argument("--json", action="store_true", help="JSON on stdout, the table on stderr")
    parser.add_argument(
        "--picture", help=f".png or .svg; {NAME}.png in FRAUDSCALE_HOME/load if nothing is said"
    )
    parser.add_argument(
        "--save", help=f"the report as JSON; {NAME}.json in FRAUDSCALE_HOME/load if nothing is said"
    )
    return parser.parse_args()


def main() -> None:
    given = vars(arguments())
    with cli.errors_in_one_line():
        folder: Path = LocalSettings.read().fraudscale_home / "load"
        folder.mkdir(parents=True, exist_ok=True)
    given["picture"] = given["picture"] or str(folder / f"{NAME}.png")
    given["save"] = given["save"] or str(folder / f"{NAME}.json")
    flags = [f"--{name}" for name, value in given.items() if value is True]
    values = [
        part for name, value in given.items() if isinstance(value, str) for part in (f"--{name}", value)
    ]
    sys.argv = ["fraudscale", "load", "--over", "kafka", *flags, *values]
    cli.main()


if __name__ == "__main__":
    main()
