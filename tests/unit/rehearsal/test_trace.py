"""Traces are read, or refused with file, path and reason."""

import json

import pytest
from rehearsals import manifest
from typer.testing import CliRunner

from fraudscale.cli import app
from fraudscale.errors import InputError
from fraudscale.rehearsal import shapes
from fraudscale.rehearsal.trace import Cost, Segment, Setup, TraceError, decode, read

REQUESTS = Setup(cpu_request_m=500, memory_request_mi=512)
COST = Cost(memory_mi=100.0)
GOOD = {
    "sync_period_s": 15,
    "cpu_request_m": 500,
    "memory_request_mi": 512,
    "initial_replicas": 4,
    "pod_ready_after_s": 1,
    "metrics_delay_s": 0,
    "duration_s": 1500,
    "load": [
        {"until_s": 90, "total_cpu_m": 1000, "memory_mi": 200, "metrics_share": 1.0},
        {"until_s": 1500, "total_cpu_m": 2200, "memory_mi": 200},
    ],
}


def with_load(**changes):
    return {"load": [GOOD["load"][0] | changes, GOOD["load"][1]]}


def csv(tmp_path, text, cost=COST, setup=REQUESTS):
    path = tmp_path / "load.csv"
    path.write_text(text)
    return read(path, setup, cost)


def test_json_says_all_of_it():
    found = decode("trace.json", json.dumps(GOOD).encode())
    assert found.load == (Segment(90, 1000, 200), Segment(1500, 2200, 200))
    assert (found.seconds, found.initial_replicas, found.pod_ready_after_s) == (1500, 4, 1)


def test_what_json_leaves_out_has_a_usual_value():
    short = {key: GOOD[key] for key in ("cpu_request_m", "memory_request_mi", "load")}
    found = decode("trace.json", json.dumps(short).encode())
    assert (found.seconds, found.sync_period_s, found.metrics_delay_s, found.initial_replicas) == (
        1500,
        15,
        0,
        None,
    )


def test_an_option_is_stronger_than_the_file(tmp_path):
    path = tmp_path / "trace.json"
    path.write_text(json.dumps(GOOD))
    found = read(path, Setup(pod_ready_after_s=60), Cost())
    assert (found.pod_ready_after_s, found.cpu_request_m) == (60, 500)


def test_a_row_of_csv_holds_until_the_next(tmp_path):
    found = csv(tmp_path, "t_s,total_cpu_m,memory_mi\n0,1000,200\n60,2000,210\n90,500,220\n")
    assert found.load == (Segment(60, 1000, 200), Segment(90, 2000, 210), Segment(120, 500, 220))


def test_times_of_csv_may_begin_anywhere(tmp_path):
    found = csv(tmp_path, "t_s,total_cpu_m,memory_mi\n1700000000,1,2\n1700000015,3,4\n")
    assert [s.until_s for s in found.load] == [15, 30]


def test_requests_per_second_become_cpu(tmp_path):
    found = csv(tmp_path, "t_s,rps\n0,200\n15,300\n", Cost(2.5, 128.0))
    assert found.load == (Segment(15, 500, 128), Segment(30, 750, 128))


JSON_ERRORS = {
    "no field": ({"cpu_request_m": None}, "cpu_request_m"),
    "unknown field": ({"colour": "red"}, "unknown field `colour`"),
    "text for a number": ({"sync_period_s": "15"}, "sync_period_s: Expected `float`, got `str`"),
    "no time": ({"sync_period_s": 0}, "sync_period_s: Expected `float` > 0"),
    "negative time": ({"pod_ready_after_s": -1}, "pod_ready_after_s: Expected `float` >= 0"),
    "half a replica": ({"initial_replicas": 4.5}, "initial_replicas: Expected `int | null`, got `float`"),
    "no load": ({"load": []}, "load: Expected `array` of length >= 1"),
    "negative load": (with_load(total_cpu_m=-1), "load[0].total_cpu_m: Expected `float` >= 0"),
    "more pods than there are": (
        with_load(metrics_share=1.5),
        "load[0].metrics_share: Expected `float` <= 1",
    ),
    "misspelt field": (with_load(memory=1), "load[0]: Object contains unknown field `memory`"),
    "backwards": (
        with_load(until_s=1600),
        "load[1].until_s: 1500 is not after the 1600 of the segment before",
    ),
    "longer than its load": ({"duration_s": 1501}, "duration_s: 1501 is beyond the end of the load at 1500"),
    "milliseconds": (
        {"sync_period_s": 0.001},
        "sync_period_s: 1500 s at 0.001 s a tick are more than 1000000 ticks",
    ),
}


@pytest.mark.parametrize("kind", JSON_ERRORS)
def test_json_that_contradicts_itself_is_refused(kind):
    changes, message = JSON_ERRORS[kind]
    with pytest.raises(TraceError) as caught:
        decode("trace.json", json.dumps(GOOD | changes).encode())
    assert str(caught.value).startswith("trace.json: ")
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"", "not JSON: Input data was truncated"),
        (b'{"load": [}', "not JSON: "),
        (b"[]", "the whole file: Expected `object`, got `array`"),
        (b'{"\xff": 1}', "not UTF-8: invalid start byte"),
        (b'{"load":' * 50_000, "load: Expected `array`, got `object`"),
    ],
)
def test_bytes_that_are_no_json_object_are_refused(content, reason):
    with pytest.raises(TraceError) as caught:
        decode("trace.json", content)
    assert str(caught.value).startswith(f"trace.json: {reason}")


def test_nothing_is_a_load_too_and_time_may_begin_before_zero(tmp_path):
    found = csv(tmp_path, "t_s,total_cpu_m,memory_mi\n-15,0,0\n0,1,2\n")
    assert [(s.until_s, s.total_cpu_m, s.memory_mi) for s in found.load] == [(15, 0, 0), (30, 1, 2)]
    with pytest.raises(TraceError, match="line 3, memory_mi: -1 is not a finite number of at least 0"):
        csv(tmp_path, "t_s,total_cpu_m,memory_mi\n0,0,0\n15,1,-1\n")


CSV_ERRORS = {
    "empty": ("", "is empty"),
    "no header": ("0,1,2\n", "line 1: unknown column '0'"),
    "no time": ("total_cpu_m,memory_mi\n1,2\n", "line 1: the column t_s is missing"),
    "no load": ("t_s,memory_mi\n0,1\n", "line 1: exactly one of the columns total_cpu_m and rps"),
    "two loads": ("t_s,rps,total_cpu_m\n0,1,2\n", "line 1: exactly one of the columns total_cpu_m and rps"),
    "semicolons": (
        "t_s;total_cpu_m\n0;1\n",
        "line 1: columns are separated by semicolons; separate them by commas",
    ),
    "decimal commas": (
        't_s,total_cpu_m\n0,"1,5"\n',
        "line 2, total_cpu_m: '1,5' is not a number; numbers have a decimal point",
    ),
    "twice": ("t_s,t_s,total_cpu_m\n0,0,1\n", "line 1: a column is there twice"),
    "free requests": ("t_s,rps\n0,1\n15,2\n", "rps: requests per second need what one costs"),
    "short row": ("t_s,total_cpu_m,memory_mi\n0,1\n", "line 2: 2 values in 3 columns"),
    "text": ("t_s,total_cpu_m,memory_mi\n0,1,2\n15,many,2\n", "line 3, total_cpu_m: 'many' is not a number"),
    "not finite": ("t_s,total_cpu_m,memory_mi\n0,nan,2\n", "line 2, total_cpu_m: nan is not a finite number"),
    "backwards": ("t_s,total_cpu_m\n15,1\n0,1\n", "line 3, t_s: 0 is not after the 15 of the row before"),
    "one row": ("t_s,total_cpu_m\n0,1\n", "1 rows; at least two are needed"),
    "quotes": ('t_s,total_cpu_m\n0,"1\n', "line 2: not CSV"),
}


@pytest.mark.parametrize("kind", CSV_ERRORS)
def test_csv_that_is_no_load_is_refused(tmp_path, kind):
    text, message = CSV_ERRORS[kind]
    with pytest.raises(TraceError) as caught:
        csv(tmp_path, text)
    assert str(caught.value).startswith(f"{tmp_path / 'load.csv'}: {message}")


BOM = b"\xef\xbb\xbf"


@pytest.mark.parametrize("name", ["load.csv", "load.json"])
@pytest.mark.parametrize(("content", "place"), [(b'{"\xff": 1}', 2), (BOM + b"t_s,\xff", 7)])
def test_what_is_no_text_is_refused_with_its_place_in_the_file(tmp_path, name, content, place):
    path = tmp_path / name
    path.write_bytes(content)
    with pytest.raises(TraceError, match=f"not UTF-8: invalid start byte at byte {place}(;|$)"):
        read(path, REQUESTS, Cost())


def test_one_leading_byte_order_mark_is_ignored(tmp_path):
    for name, content in (("load.json", json.dumps(GOOD)), ("load.csv", "t_s,total_cpu_m\n0,1\n15,1\n")):
        traces = []
        for bom in (b"", BOM):
            (tmp_path / name).write_bytes(bom + content.encode())
            traces.append(read(tmp_path / name, REQUESTS, Cost()))
        assert traces[0] == traces[1]


def test_a_file_that_is_not_there_is_named(tmp_path):
    with pytest.raises(TraceError, match=r"none\.json: can't be read: No such file"):
        read(tmp_path / "none.json", Setup(), Cost())


@pytest.mark.parametrize("name", ["cpu_request_m", "memory_request_mi"])
def test_csv_needs_the_requests_of_a_pod(tmp_path, name):
    known = {"cpu_request_m": 500, "memory_request_mi": 512} | {name: None}
    with pytest.raises(TraceError, match=f"{name}: .*give --{name.replace('_', '-')}"):
        csv(tmp_path, "t_s,total_cpu_m\n0,1\n15,1\n", setup=Setup(**known))


@pytest.mark.parametrize("name", shapes.SHAPES)
def test_a_shape_stays_between_its_ends(name):
    loads = [s.total_cpu_m for s in shapes.load(f"{name}:600-2600", 15, 200)]
    assert min(loads) >= 600
    assert max(loads) <= 2600
    assert (max(loads) > 2500) == (name != "constant")


def test_a_week_is_highest_on_friday_evening():
    week = shapes.load("week:0-1000", 15, 200)
    assert len(week) == 40_320
    top = max(week, key=lambda s: s.total_cpu_m)
    assert top.until_s == pytest.approx(4 * shapes.DAY + 19 * 3600, abs=1800)


def test_the_duration_of_a_shape_can_be_given():
    assert shapes.load("spike:1-2:30m", 15, 200)[-1].until_s == 1800


@pytest.mark.parametrize(
    "text", ["", "hill:1-2", "spike", "spike:1.2.3-4", "spike:2-1", "spike:1-2:soon", "spike:1-2:0s"]
)
def test_what_is_no_shape_is_refused(text):
    with pytest.raises(TraceError):
        shapes.load(text, 15, 200)


BAD_FILES = {
    f"JSON, {kind}": ("trace.json", json.dumps(GOOD | changes)) for kind, (changes, _) in JSON_ERRORS.items()
} | {f"CSV, {kind}": ("load.csv", text) for kind, (text, _) in CSV_ERRORS.items()}


@pytest.mark.parametrize("kind", BAD_FILES)
def test_the_command_refuses_a_bad_trace_with_one_line_and_exit_code_2(tmp_path, kind):
    name, text = BAD_FILES[kind]
    path = tmp_path / name
    path.write_text(text)
    (tmp_path / "hpa.yaml").write_text(manifest())
    requests = ["--cpu-request-m", "500", "--memory-request-mi", "512"] if name.endswith("csv") else []
    command = ["rehearse", "--hpa", str(tmp_path / "hpa.yaml"), "--trace", str(path), *requests]
    done = CliRunner().invoke(app, command)
    assert isinstance(done.exception, InputError)
    assert done.exception.exit_code == 2
    assert str(done.exception).startswith(f"{path}: ")
    assert "\n" not in str(done.exception)
    assert done.output == ""
