import pytest
from hypothesis import given
from hypothesis import strategies as st

from fraudscale.hpa.quantity import approximate, milli


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("150m", 150),
        ("2", 2000),
        (2, 2000),
        (0.25, 250),
        ("1.5", 1500),
        (".5", 500),
        ("1e3", 1_000_000),
        ("1E-3", 1),
        ("2k", 2_000_000),
        ("512Mi", 512 * 1024 * 1024 * 1000),
        ("1E", 2**63 - 1),  # saturates at the largest int64
        ("100u", 1),  # rounded up
        ("1n", 1),
        ("-1500u", -1),
    ],
)
def test_a_quantity_is_read_in_milli_units_rounded_up(text, expected):
    assert milli(text) == expected


@pytest.mark.parametrize("text", ["", "m", "1 m", "1kk", "0x10", "nan", "inf", "1_000", "١", "1Ki2"])
def test_what_is_no_quantity_is_refused(text):
    with pytest.raises(ValueError, match="is not a quantity"):
        milli(text)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("0.05", 0.05),
        ("50m", 50 * 0.001),
        ("0.009", 9 * 0.001),  # 0.009000000000000001: the controller multiplies 9m by a double
        (1, 1.0),
        ("500u", 500 * 1e-6),
        ("0.5n", 1e-9),  # nothing is finer than a nano
    ],
)
def test_a_fraction_is_the_double_that_the_controller_makes_of_it(text, expected):
    assert approximate(text) == expected


@given(st.integers(0, 10**12))
def test_milli_units_survive_being_written_and_read(value):
    assert milli(f"{value}m") == value
