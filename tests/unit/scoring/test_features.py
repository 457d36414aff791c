import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fraudscale.scoring.features import FEATURES, MAX_RATIO, Featurizer, usual_amounts
from fraudscale.scoring.records import CATEGORIES, Transaction

FEATURIZER = Featurizer(CATEGORIES, tuple(10.0 * (i + 1) for i in range(len(CATEGORIES))))


def transaction(**changes):
    fields = {
        "transaction_id": "tx",
        "amount": 50.0,
        "merchant_category": "grocery",
        "hour": 12,
        "day_of_week": 0,
        "user_age": 40,
        "account_balance": 200.0,
    }
    return Transaction(**(fields | changes))


def features(**changes):
    return dict(zip(FEATURES, FEATURIZER.rows([transaction(**changes)])[0].tolist(), strict=True))


def test_the_raw_six_pass_through():
    row = features()
    assert [row[name] for name in list(FEATURES)[:6]] == [50, CATEGORIES.index("grocery"), 12, 0, 40, 200]


def test_an_unknown_category_has_the_code_and_the_usual_amount_of_other():
    assert features(merchant_category="yachts") == features(merchant_category="other")
    assert not FEATURIZER.knows("yachts")


@pytest.mark.parametrize(
    ("amount", "balance", "ratio"),
    [
        (50, 200, 0.25),
        (0, 200, 0),
        (1000, 1, MAX_RATIO),
        (50, 0, MAX_RATIO),
        (50, -10, MAX_RATIO),
        (0, 0, 0),
        (0, -10, 0),
        (5, 1e-300, MAX_RATIO),
    ],
)
def test_amount_over_balance_is_finite_for_every_balance(amount, balance, ratio):
    assert features(amount=amount, account_balance=balance)["amount_over_balance"] == ratio


@pytest.mark.parametrize(("hour", "night"), [(0, 1), (5, 1), (6, 0), (23, 0)])
def test_night_is_from_0_to_6(hour, night):
    assert features(hour=hour)["is_night"] == night


@pytest.mark.parametrize(("day", "weekend"), [(0, 0), (4, 0), (5, 1), (6, 1)])
def test_weekend_is_saturday_and_sunday(day, weekend):
    assert features(day_of_week=day)["is_weekend"] == weekend


def test_the_clock_has_no_edge_at_midnight():
    late, early, noon = (features(hour=hour) for hour in (23, 0, 12))

    def distance(a, b):
        return math.dist((a["hour_sin"], a["hour_cos"]), (b["hour_sin"], b["hour_cos"]))

    assert distance(late, early) < 0.3 < distance(late, noon)


@pytest.mark.parametrize(
    ("age", "band"),
    [(0, 0), (17, 0), (18, 1), (24, 1), (25, 2), (34, 2), (35, 3), (50, 4), (64, 4), (65, 5), (130, 5)],
)
def test_age_bands_begin_where_documented(age, band):
    assert features(user_age=age)["age_band"] == band


def test_amount_is_compared_with_what_is_usual_in_its_category():
    assert features(amount=10.0)["amount_vs_usual"] == pytest.approx(0, abs=1e-6)
    assert features(amount=100.0)["amount_vs_usual"] == pytest.approx(math.log(101 / 11), rel=1e-6)


@given(
    amount=st.floats(min_value=0, allow_infinity=False, allow_nan=False),
    balance=st.floats(allow_infinity=False, allow_nan=False),
    hour=st.integers(0, 23),
    day=st.integers(0, 6),
    age=st.integers(0, 130),
    category=st.text(max_size=20),
)
def test_every_valid_transaction_gives_a_finite_row(amount, balance, hour, day, age, category):
    row = FEATURIZER.rows(
        [Transaction("tx", amount, category, hour, day, age, balance)],
    )
    assert row.shape == (1, len(FEATURES))
    assert row.dtype == np.float32
    assert np.isfinite(row).all()


def test_one_row_is_the_same_alone_and_in_a_batch():
    transactions = [transaction(amount=a, hour=h) for a in (0.0, 3.3, 1e6) for h in range(24)]
    alone = np.concatenate([FEATURIZER.rows([t]) for t in transactions])
    assert (FEATURIZER.rows(transactions) == alone).all()


def test_no_transactions_make_no_rows():
    assert FEATURIZER.rows([]).shape == (0, len(FEATURES))


def test_usual_amounts_are_medians_and_fall_back_to_the_overall_one():
    transactions = [transaction(amount=a) for a in (1.0, 2.0, 300.0)]
    usual = dict(zip(CATEGORIES, usual_amounts(transactions, CATEGORIES), strict=True))
    assert usual["grocery"] == 2.0
    assert usual["crypto"] == 2.0


def test_categories_without_other_are_refused():
    with pytest.raises(ValueError, match="other"):
        Featurizer(("grocery",), (1.0,))


def test_the_week_has_no_edge_and_seven_days():
    days = [(row["day_sin"], row["day_cos"]) for row in (features(day_of_week=day) for day in range(7))]
    steps = [math.dist(days[day], days[(day + 1) % 7]) for day in range(7)]
    assert steps == pytest.approx([2 * math.sin(math.pi / 7)] * 7, rel=1e-6)
    assert len(set(days)) == 7


@pytest.mark.parametrize("balance", [1e300, -1e300])
def test_a_balance_beyond_a_float32_is_the_largest_of_its_sign(balance):
    largest = float(np.finfo(np.float32).max)
    assert features(account_balance=balance)["account_balance"] == math.copysign(largest, balance)


def test_a_balance_within_a_float32_is_itself():
    assert features(account_balance=-3e38)["account_balance"] == pytest.approx(-3e38)


def test_each_category_needs_its_usual_amount():
    with pytest.raises(ValueError, match="2 categories, but 1 usual"):
        Featurizer(("grocery", "other"), (1.0,))
