"""How near `POST /predict` comes to the bare server: requests a second, and CPU a request, in interleaved rounds.

Three servers on one core, one after the other in each round, `wrk` with 64 connections on another core:

- `constant`: uvicorn and a constant answer, the ceiling;
- `predict`: a replica, all of it: limits, metrics, a line of log for each prediction;
- `predict, no log`: the same with LOG_PREDICTIONS_SAMPLE=0.

Rank by CPU a request: it does not depend on how busy the machine is.
"""

import argparse
import http.client
import json
import os
import platform
import re
import shutil
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from datetime import UTC, datetime
from pathlib import Path
from typing import NamedTuple

import psutil

from fraudscale.config import LocalSettings
from fraudscale.local.install.debian import Packages, Program, library_path
from fraudscale.local.install.folder import DownloadFolder
from fraudscale.registry.copies import store, write_pointer
from fraudscale.scoring.model import Version
from fraudscale.training import run

WRK = Program(("wrk",), "wrk", "usr/bin/wrk", "wrk")
FLOOR = 0.5
"""Least share of the constant answer's speed, by CPU, that `predict` must reach."""
RESULTS = Path(__file__).parent / "results" / "http_predict.json"

CONSTANT = """
import sys, uvicorn
ANSWER = b'{"status": "a constant of the length of a prediction' + b" " * 170 + b'"}'
HEADERS = [(b"content-type", b"application/json"), (b"content-length", str(len(ANSWER)).encode())]
async def app(scope, receive, send):
    await receive()
    await send({"type": "http.response.start", "status": 200, "headers": HEADERS})
    await send({"type": "http.response.body", "body": ANSWER})
uvicorn.run(app, port=int(sys.argv[1]), http="httptools", loop="uvloop", lifespan="off", ws="none",
            log_config=None, access_log=False, server_header=False, proxy_headers=False)
"""
SCRIPT = """
wrk.method = "POST"
wrk.headers["content-type"] = "application/json"
local categories = {"grocery", "restaurant", "electronics", "travel", "crypto", "other"}
local n = 0
request = function()
  n = n + 1
  return wrk.format(nil, "/predict", nil, string.format(
    '{"transaction_id": "tx-%d", "amount": %.2f, "merchant_category": "%s", "hour": %d, "day_of_week": %d, "user_age": %d, "account_balance": %.2f}',
    n, (n * 7919) % 90000 / 100, categories[n % 6 + 1], n % 24, n % 7, 18 + n % 60, (n * 104729) % 900000 / 100))
end
"""


class Wrk(NamedTuple):
    """The load generator, and the environment that it needs."""

    path: Path
    env: dict[str, str]


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        return listener.getsockname()[1]


def candidates(models: Path) -> dict[str, tuple[list[str], dict[str, str]]]:
    serve = [sys.executable, "-m", "fraudscale.cli", "serve"]
    env = {
        "MODEL_CACHE_DIR": str(models),
        "MLFLOW_TRACKING_URI": "http://127.0.0.1:9",  # nothing answers: the last good copy serves
        "MODEL_POLL_SECONDS": "3600",
        "REPLICA_ID": "replica-1",
    }
    return {
        "constant": ([sys.executable, "-c", CONSTANT], {}),
        "predict": (serve, env),
        "predict, no log": (serve, env | {"LOG_PREDICTIONS_SAMPLE": "0"}),
    }


def measure(
    command: list[str], env: dict[str, str], wrk: Wrk, script: Path, seconds: int
) -> dict[str, float]:
    port = free_port()
    command = [*command, *([str(port)] if command[1] == "-c" else [])]
    with tempfile.TemporaryFile() as log:
        server = subprocess.Popen(
            ["taskset", "-c", "0", *command], env=os.environ | env | {"HTTP_PORT": str(port)}, stdout=log
        )
        try:
            wait_for_answer(port, server)
            process = psutil.Process(server.pid)
            load(wrk, script, port, 1)
            before = process.cpu_times()
            figures = load(wrk, script, port, seconds)
            after = process.cpu_times()
        finally:
            server.terminate()
            server.wait(15)
    cpu = after.user + after.system - before.user - before.system
    return figures | {"cpu_us": cpu / figures.pop("requests") * 1e6}


def wait_for_answer(port: int, server: subprocess.Popen[bytes]) -> None:
    deadline = time.monotonic() + 30
    while time.monotonic() < deadline and server.poll() is None:
        connection = http.client.HTTPConnection("127.0.0.1", port, timeout=2)
        try:
            connection.request("GET", "/readyz")
            if connection.getresponse().status == 200:
                return
        except OSError:
            pass
        finally:
            connection.close()
        time.sleep(0.1)
    raise SystemExit("the server did not get ready within 30 s")


def load(wrk: Wrk, script: Path, port: int, seconds: int) -> dict[str, float]:
    command = [
        "taskset",
        "-c",
        "1",
        str(wrk.path),
        "-t1",
        "-c64",
        f"-d{seconds}s",
        "--latency",
        "-s",
        str(script),
    ]
    printed = subprocess.run(
        [*command, f"http://127.0.0.1:{port}"],
        env=wrk.env,
        capture_output=True,
        text=True,
        check=True,
        timeout=seconds + 30,
    ).stdout
    if failed := re.search(r"Non-2xx.*|Socket errors.*", printed):
        raise SystemExit(f"not all requests were answered: {failed[0]}")

    def milliseconds(quantile: str) -> float:
        value, unit = re.search(rf"{quantile}%\s+([\d.]+)(us|ms|s)", printed).groups()
        return float(value) * {"us": 1e-3, "ms": 1, "s": 1e3}[unit]

    return {
        "requests": float(re.search(r"(\d+) requests in", printed)[1]),
        "requests_per_second": float(re.search(r"Requests/sec:\s+([\d.]+)", printed)[1]),
        "p50_ms": milliseconds("50"),
        "p99_ms": milliseconds("99"),
    }


def summary(rounds: list[dict[str, dict[str, float]]]) -> dict[str, dict[str, float]]:
    table = {}
    for name in rounds[0]:
        row = {figure: statistics.median(r[name][figure] for r in rounds) for figure in rounds[0][name]}
        row["ratio_by_cpu"] = statistics.median(r["constant"]["cpu_us"] / r[name]["cpu_us"] for r in rounds)
        row["ratio_by_rate"] = statistics.median(
            r[name]["requests_per_second"] / r["constant"]["requests_per_second"] for r in rounds
        )
        table[name] = row
    return table


def prepare_model(folder: Path) -> None:
    """Lay a trained model where a replica finds its last good copy."""
    made = run.make(folder / "made", run.TrainingRequest(), now=datetime.now(UTC), progress=lambda *_: None)
    version = Version("1", "champion", made.digest)
    folder.joinpath("models").mkdir()
    shutil.move(made.artifact, folder / "models" / "new")
    store(folder / "models", folder / "models" / "new", version)
    write_pointer(folder / "models", version)


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--seconds", type=int, default=5, help="of each candidate in each round")
    options = parser.parse_args()
    packages = Packages(DownloadFolder(LocalSettings.read().fraudscale_cache, print))
    wrk = Wrk(packages.programs((WRK,))[WRK], os.environ | library_path(packages.libraries("wrk")))
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        prepare_model(folder)
        script = folder / "predict.lua"
        script.write_text(SCRIPT)
        rounds = [
            {
                candidate: measure(command, env, wrk, script, options.seconds)
                for candidate, (command, env) in candidates(folder / "models").items()
            }
            for _ in range(options.rounds)
        ]
    table = summary(rounds)
    print(
        f"{'candidate':20}{'requests/s':>12}{'CPU µs':>9}{'p50 ms':>9}{'p99 ms':>9}{'by CPU':>9}{'by rate':>9}"
    )
    for candidate, row in table.items():
        print(
            f"{candidate:20}{row['requests_per_second']:12,.0f}{row['cpu_us']:9.1f}{row['p50_ms']:9.2f}"
            f"{row['p99_ms']:9.2f}{row['ratio_by_cpu']:9.2f}{row['ratio_by_rate']:9.2f}"
        )
    RESULTS.parent.mkdir(exist_ok=True)
    machine = {"machine": platform.machine(), "cores": os.cpu_count(), "python": platform.python_version()}
    RESULTS.write_text(
        json.dumps(
            {"measured_at": datetime.now(UTC).isoformat(timespec="seconds"), **machine, "candidates": table},
            indent=2,
        )
        + "\n"
    )
    reached = table["predict"]["ratio_by_cpu"]
    print(f"predict reaches {reached:.2f} of the constant answer by CPU; the floor is {FLOOR}")
    return 0 if reached >= FLOOR else 1


if __name__ == "__main__":
    sys.exit(main())
