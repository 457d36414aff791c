"""How fast a week is rehearsed: 40,320 ticks of 15 s, the decisions alone and with queueing, reasons and the answer.

Each load is another kind of work for the controller:

- `week`: days and nights with few steps of scale, most ticks like the one before;
- `noisy`: no tick like the one before;
- `nervous`: as noisy, with an HPA that never rests, so that there are young pods at most ticks.
"""

import argparse
import json
import os
import platform
import random
import statistics
import sys
import time
from datetime import UTC, datetime
from pathlib import Path

from fraudscale.hpa import Hpa, read_manifest
from fraudscale.rehearsal import report, shapes
from fraudscale.rehearsal.queueing import Service, estimate_latency
from fraudscale.rehearsal.rehearse import rehearse
from fraudscale.rehearsal.trace import LoadTrace, Segment, Setup, of_load

ROOT = Path(__file__).parent.parent
RESULTS = ROOT / "benchmarks" / "results" / "rehearsal.json"
DECISIONS_S, ALL_S = 1.0, 5.0
"""What one HPA may take at most on one core."""
NERVOUS = """
apiVersion: autoscaling/v2
kind: HorizontalPodAutoscaler
metadata: {name: nervous}
spec:
  scaleTargetRef: {apiVersion: apps/v1, kind: Deployment, name: ml-model}
  minReplicas: 1
  maxReplicas: 30
  metrics: [{type: Resource, resource: {name: cpu, target: {type: Utilization, averageUtilization: 70}}}]
  behavior:
    scaleUp: {stabilizationWindowSeconds: 0}
    scaleDown: {stabilizationWindowSeconds: 0}
"""


def cases() -> dict[str, tuple[Hpa, LoadTrace]]:
    ours = read_manifest((ROOT / "argocd/manifests/hpa.yaml").read_bytes(), "hpa.yaml")
    week = shapes.load("week:600-2600", 15, 256)
    chance = random.Random(1)
    noisy = [
        Segment(s.until_s, round(s.total_cpu_m * chance.uniform(0.7, 1.3)), chance.uniform(230, 280))
        for s in week
    ]
    setup = Setup(cpu_request_m=500, memory_request_mi=512, pod_ready_after_s=5)
    steady, restless = of_load("week", week, setup), of_load("noisy", noisy, setup)
    return {
        "week": (ours, steady),
        "noisy": (ours, restless),
        "nervous": (read_manifest(NERVOUS, "nervous"), restless),
    }


def measure(hpa: Hpa, trace: LoadTrace) -> dict[str, float]:
    start = time.process_time()
    found = rehearse("hpa.yaml", hpa, trace)
    decided = time.process_time()
    estimate = estimate_latency(found, Service())
    answer = report.as_json([report.answer(found, report.summarise(found, estimate))], None)
    done = time.process_time()
    return {
        "ticks": len(found.decisions),
        "changes": len(found.changes),
        "answer_bytes": len(answer),
        "decisions_s": decided - start,
        "all_s": done - start,
    }


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rounds", type=int, default=3)
    options = parser.parse_args()
    rounds = [{name: measure(*case) for name, case in cases().items()} for _ in range(options.rounds)]
    table = {
        name: {figure: statistics.median(r[name][figure] for r in rounds) for figure in rounds[0][name]}
        for name in rounds[0]
    }
    print(f"{'load':10}{'ticks':>8}{'changes':>9}{'decisions s':>13}{'of 1 s':>8}{'all s':>8}{'of 5 s':>8}")
    for name, row in table.items():
        row["decisions_ratio"], row["all_ratio"] = row["decisions_s"] / DECISIONS_S, row["all_s"] / ALL_S
        print(
            f"{name:10}{row['ticks']:8,.0f}{row['changes']:9,.0f}{row['decisions_s']:13.2f}{row['decisions_ratio']:8.2f}"
            f"{row['all_s']:8.2f}{row['all_ratio']:8.2f}"
        )
    RESULTS.parent.mkdir(exist_ok=True)
    machine = {"machine": platform.machine(), "cores": os.cpu_count(), "python": platform.python_version()}
    head = {"measured_at": datetime.now(UTC).isoformat(timespec="seconds"), **machine}
    RESULTS.write_text(json.dumps({**head, "candidates": table}, indent=2) + "\n")
    slow = [name for name, row in table.items() if max(row["decisions_ratio"], row["all_ratio"]) > 1]
    print(f"too slow: {', '.join(slow)}" if slow else "every week is within its limits")
    return 1 if slow else 0


if __name__ == "__main__":
    sys.exit(main())
