"""What traces cost `POST /predict`: CPU a request, against the same server without them, in interleaved rounds.

A replica on one core, with each prediction logged, `wrk` and a collector that takes everything on another:

- `off`: no endpoint is set and no caller brings a trace, as it is by default;
- `callers, not sampled`: still no endpoint, but each request has a `traceparent`: it is read, logged and answered;
- `0 %`, `1 %`, `100 %`: an endpoint is set, and so much of the traces begun here is sampled.

At 100 % most spans are dropped: more are made than a collector could be sent, and the queue is bounded.
"""

import argparse
import asyncio
import json
import os
import platform
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path

HERE = Path(__file__).parent
sys.path[:0] = [str(HERE)]
from http_predict import SCRIPT, WRK, Wrk, candidates, free_port, measure, prepare_model  # noqa: E402

from fraudscale.config import LocalSettings  # noqa: E402
from fraudscale.local.install.debian import Packages, library_path  # noqa: E402
from fraudscale.local.install.folder import DownloadFolder  # noqa: E402

MOST_WITHOUT_CALLERS = 1.05
"""What an endpoint may cost requests that are not sampled: CPU, times that of `off`."""
RESULTS = HERE / "results" / "tracing.json"
HEADER = 'wrk.headers["traceparent"] = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-00"\n'


async def collect(port: int) -> None:
    """Take spans and forget them."""

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while head := await reader.readuntil(b"\r\n\r\n"):
            (length,) = [
                line.split(b":")[1]
                for line in head.lower().split(b"\r\n")
                if line.startswith(b"content-length:")
            ]
            await reader.readexactly(int(length))
            writer.write(
                b"HTTP/1.1 200 OK\r\ncontent-type: application/x-protobuf\r\ncontent-length: 0\r\n\r\n"
            )

    server = await asyncio.start_server(answer, "127.0.0.1", port)
    await server.serve_forever()


@contextmanager
def collector() -> Iterator[str]:
    port = free_port()
    command = ["taskset", "-c", "1", sys.executable, __file__, "--collect", str(port)]
    with subprocess.Popen(command, stderr=subprocess.DEVNULL) as process:
        try:
            yield f"http://127.0.0.1:{port}"
        finally:
            process.terminate()


def settings(endpoint: str) -> dict[str, dict[str, str]]:
    """Of each candidate."""
    ratios = {"0 %": "0", "1 %": "0.01", "100 %": "1"}
    sending = {
        name: {"OTEL_EXPORTER_OTLP_ENDPOINT": endpoint, "OTEL_TRACES_SAMPLER_ARG": ratio}
        for name, ratio in ratios.items()
    }
    return {"off": {}, "callers, not sampled": {}, **sending}


def summary(rounds: list[dict[str, dict[str, float]]]) -> dict[str, dict[str, float]]:
    table = {}
    for name in rounds[0]:
        row = {figure: statistics.median(r[name][figure] for r in rounds) for figure in rounds[0][name]}
        row["times_off_by_cpu"] = statistics.median(r[name]["cpu_us"] / r["off"]["cpu_us"] for r in rounds)
        table[name] = row
    return table


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--seconds", type=int, default=5, help="of each candidate in each round")
    parser.add_argument("--collect", type=int, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.collect:
        asyncio.run(collect(options.collect))
        return 0
    packages = Packages(DownloadFolder(LocalSettings.read().fraudscale_cache, print))
    wrk = Wrk(packages.programs((WRK,))[WRK], os.environ | library_path(packages.libraries("wrk")))
    with tempfile.TemporaryDirectory() as name, collector() as endpoint:
        folder = Path(name)
        prepare_model(folder)
        plain, traced = folder / "predict.lua", folder / "traced.lua"
        plain.write_text(SCRIPT)
        traced.write_text(SCRIPT.replace('wrk.method = "POST"\n', f'wrk.method = "POST"\n{HEADER}'))
        command, env = candidates(folder / "models")["predict"]
        rounds = [
            {
                name: measure(
                    command, env | own, wrk, traced if name.startswith("callers") else plain, options.seconds
                )
                for name, own in settings(endpoint).items()
            }
            for _ in range(options.rounds)
        ]
    return report(summary(rounds))


def report(table: dict[str, dict[str, float]]) -> int:
    """Print and write the table; 0 if what is not sampled stays cheap."""
    print(f"{'traces':22}{'requests/s':>12}{'CPU µs':>9}{'p50 ms':>9}{'p99 ms':>9}{'times off':>11}")
    for name, row in table.items():
        print(
            f"{name:22}{row['requests_per_second']:12,.0f}{row['cpu_us']:9.1f}{row['p50_ms']:9.2f}"
            f"{row['p99_ms']:9.2f}{row['times_off_by_cpu']:11.2f}"
        )
    machine = {"machine": platform.machine(), "cores": os.cpu_count(), "python": platform.python_version()}
    measured_at = datetime.now(UTC).isoformat(timespec="seconds")
    RESULTS.write_text(
        json.dumps({"measured_at": measured_at, **machine, "candidates": table}, indent=2) + "\n"
    )
    cost = table["0 %"]["times_off_by_cpu"]
    print(f"with nothing sampled {cost:.2f} times the CPU of off; the limit is {MOST_WITHOUT_CALLERS}")
    return int(cost > MOST_WITHOUT_CALLERS)


if __name__ == "__main__":
    sys.exit(main())
