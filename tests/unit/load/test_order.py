from pathlib import Path

import pytest

from fraudscale.load.over_http import Target
from fraudscale.load.run import BadOrder, Order
from fraudscale.load.shapes import Shape

HERE = Target("http://127.0.0.1:8000")


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
        ({"target": Target("https://x")}, "must be http://HOST"),
        ({"target": Target("http://x:port")}, "must be http://HOST"),
        ({"target": Target(HERE.url, source="here")}, "--source here: must be an address"),
        ({"target": Target(HERE.url, connections=0)}, "--connections 0"),
        ({"target": Target(HERE.url, timeout=0)}, "--timeout 0"),
        ({"picture": Path("run.pdf")}, "must end in .png or .svg"),
        ({"picture": Path("/no/such/folder/run.png")}, "its folder does not exist"),
    ],
)
def test_a_bad_order_says_what_to_change(wrong, message):
    with pytest.raises(BadOrder, match=message):
        Order(**{"over": "http", "target": HERE} | wrong).check()


def test_zero_is_not_taken_for_unsaid():
    with pytest.raises(BadOrder, match="--seconds 0"):
        Order("http", HERE, seconds=0.0).check()


def test_a_good_order_passes(tmp_path):
    Order("kafka", HERE, rate=2000, shape=Shape.SPIKE, seconds=60, picture=tmp_path / "a.png").check()
    Order("http", Target("http://localhost", "127.0.0.2"), replay=Path("x.csv"), speed=10).check()
