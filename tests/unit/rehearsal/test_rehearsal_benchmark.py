"""The benchmark of the rehearsal runs with the code as it is: nothing else would notice before somebody asks for figures."""

import runpy
from pathlib import Path

from fraudscale.rehearsal.trace import Segment, Setup, of_load

BENCHMARK = runpy.run_path(
    str(Path(__file__).parents[3] / "benchmarks" / "rehearsal.py"), run_name="benchmark"
)


def test_it_measures_decisions_and_the_whole_answer():
    (hpa, _), *_ = BENCHMARK["cases"]().values()
    short = of_load("short", [Segment(600, 1500, 200)], Setup(cpu_request_m=500, memory_request_mi=512))
    figures = BENCHMARK["measure"](hpa, short)
    assert figures["ticks"] > 30
    assert 0 <= figures["decisions_s"] <= figures["all_s"]
