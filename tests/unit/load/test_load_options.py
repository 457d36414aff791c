from pathlib import Path

import pytest

from fraudscale.load.arrivals import Shape
from fraudscale.load.over_http import HttpTarget
from fraudscale.load.run import InvalidLoadTest, LoadTest

HERE = HttpTarget("http://127.0.0.1:8000")


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"rate": 0.0}, "--rate 0.0: must be above 0"),
        ({"rate": float("nan")}, "--rate nan: must be above 0"),
        ({"seconds": -1.0}, "--seconds -1.0: must be above 0"),
        ({"shape": Shape.RECORDED}, "needs a file: --replay FILE"),
        ({"replay": Path("x.csv"), "shape": Shape.SINE}, "can't have --shape sine"),
        ({"replay": Path("x.csv"), "rate": 5.0}, "can't have a --rate"),
        ({"speed": 10.0}, "--speed is for --replay"),
        ({"replay": Path("x.csv"), "speed": 0.0}, "--speed 0.0: must be above 0"),
        ({"target": HttpTarget("https://x")}, "must be http://HOST"),
        ({"target": HttpTarget("http://x:port")}, "must be http://HOST"),
        ({"target": HttpTarget(HERE.url, source="here")}, "--source here: must be an address"),
        ({"target": HttpTarget(HERE.url, connections=0)}, "--connections 0"),
        ({"target": HttpTarget(HERE.url, timeout=0)}, "--timeout 0"),
        ({"picture": Path("run.pdf")}, "must end in .png or .svg"),
        (
            {"picture": Path("/no/such/folder/run.png")},
            "--picture /no/such/folder/run.png: can't be written: No such file",
        ),
        ({"saved": Path("/")}, "--save /: can't be written: Is a directory"),
    ],
)
def test_a_bad_load_test_says_what_to_change(wrong, message):
    with pytest.raises(InvalidLoadTest, match=message):
        LoadTest(**{"over": "http", "target": HERE} | wrong).check()


def test_zero_is_not_taken_for_unsaid():
    with pytest.raises(InvalidLoadTest, match="--seconds 0"):
        LoadTest("http", HERE, seconds=0.0).check()


def test_a_good_load_test_passes(tmp_path):
    LoadTest("kafka", HERE, rate=2000, shape=Shape.SPIKE, seconds=60, picture=tmp_path / "a.png").check()
    LoadTest("http", HttpTarget("http://localhost", "127.0.0.2"), replay=Path("x.csv"), speed=10).check()
