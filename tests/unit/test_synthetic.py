"""The generator: what a generator promises, and that each drift changes what its name says and little else."""

from collections import Counter
from datetime import UTC, datetime, timedelta
from itertools import pairwise

import msgspec
import numpy as np
import pytest

from fraudscale.scoring.codec import decode_transaction, encode_transaction
from fraudscale.scoring.records import CATEGORIES
from fraudscale.synthetic import FOUR_WEEKS, LABELS_FINAL_AFTER, PATTERNS, Drift, SyntheticTransactions

MONDAY = datetime(2026, 11, 2, tzinfo=UTC)
WEEK = timedelta(weeks=1)


def payments(*, seed=1, start=MONDAY, length=4 * WEEK, count=45_000, drifts=()):
    rate = count / length.total_seconds()
    return list(SyntheticTransactions(seed, drifts=drifts).during(start, start + length, rate))


@pytest.fixture(scope="module")
def usual():
    return payments()


def share(made, condition):
    return np.mean([condition(row.transaction) for row in made])


def test_every_payment_passes_the_codec_that_checks_clients_bytes(usual):
    for row in usual[:3000]:
        assert decode_transaction(encode_transaction(row.transaction)) == row.transaction


def test_ids_are_unique_even_among_runs_of_one_seed_that_start_at_different_times(usual):
    later = payments(start=MONDAY + 4 * WEEK)
    ids = {row.transaction.transaction_id for row in usual + later}
    assert len(ids) == len(usual) + len(later)


def test_a_seed_repeats_itself_and_another_one_does_not():
    first, again = payments(count=2000), payments(count=2000)
    assert first == again
    assert first[:50] != payments(count=2000, seed=2)[:50]


def test_four_weeks_later_the_same_payments_are_made():
    def facts(row):
        return msgspec.structs.astuple(row.transaction)[1:], row.is_fraud

    first, later = payments(count=2000), payments(count=2000, start=MONDAY + FOUR_WEEKS)
    assert [facts(row) for row in first] == [facts(row) for row in later]


def test_payments_come_in_order_of_time_inside_the_period_at_about_the_rate(usual):
    assert all(a.at <= b.at for a, b in pairwise(usual))
    assert usual[0].at >= MONDAY
    assert usual[-1].at < MONDAY + 4 * WEEK
    assert len(usual) == pytest.approx(45_000, rel=0.03)


def test_hour_and_day_are_those_of_the_instant(usual):
    for row in usual[:1000]:
        assert row.transaction.hour == row.at.hour
        assert row.transaction.day_of_week == row.at.weekday()


def test_the_afternoon_is_busier_than_the_night(usual):
    hours = Counter(row.transaction.hour for row in usual)
    assert hours[14] > 4 * hours[4]


def test_between_half_and_two_percent_are_fraud(usual):
    assert 0.005 < np.mean([row.is_fraud for row in usual]) < 0.02


def test_fraud_is_much_more_frequent_where_night_youth_category_and_share_of_balance_meet(usual):
    def suspicious(t):
        risky = t.merchant_category in {"crypto", "cash_advance", "gambling", "electronics"}
        return t.hour < 6 and t.user_age < 28 and risky and t.amount > 0.3 * t.account_balance

    meeting = [row.is_fraud for row in usual if suspicious(row.transaction)]
    assert len(meeting) > 50
    assert np.mean(meeting) > 0.6


def test_some_honest_payments_look_like_fraud_and_some_fraud_is_quiet(usual):
    def bold(row):
        return row.transaction.amount > 0.25 * row.transaction.account_balance > 1000

    assert sum(bold(row) for row in usual if not row.is_fraud) > 60
    assert sum(not bold(row) for row in usual if row.is_fraud) > 50


def test_fraud_becomes_known_in_days_to_weeks_and_honesty_after_four_weeks(usual):
    delays = [row.labelled_at - row.at for row in usual if row.is_fraud]
    assert min(delays) >= timedelta(days=1) - timedelta(milliseconds=1)
    assert max(delays) <= LABELS_FINAL_AFTER
    assert timedelta(days=7) < np.median(delays) < timedelta(days=12)
    assert {row.labelled_at - row.at for row in usual if not row.is_fraud} == {LABELS_FINAL_AFTER}


def test_account_holders_persist():
    one, other = SyntheticTransactions(5), SyntheticTransactions(5, drifts=[Drift.CATEGORY_SHIFT])
    assert (one._age == other._age).all()
    assert (one._savings == other._savings).all()


def test_live_traffic_is_made_at_the_instant_asked_for():
    instant = datetime(2026, 11, 7, 23, 59, 59, tzinfo=UTC)
    generator = SyntheticTransactions(3)
    made = generator.at(instant, 30) + generator.at(instant)
    assert {(row.at, row.transaction.hour, row.transaction.day_of_week) for row in made} == {(instant, 23, 5)}
    assert len({row.transaction.transaction_id for row in made}) == 31


def test_no_payments_are_no_error():
    assert SyntheticTransactions(3).at(MONDAY, 0) == []


DRIFTS = {
    Drift.AMOUNT_INFLATION: (lambda made: np.median([r.transaction.amount for r in made]), 1.25, 1.55),
    Drift.CATEGORY_SHIFT: (
        lambda made: share(made, lambda t: t.merchant_category in {"crypto", "gambling", "entertainment"}),
        2.0,
        4.0,
    ),
    Drift.NIGHT_SHIFT: (lambda made: share(made, lambda t: t.hour < 6), 1.5, 4.0),
    Drift.YOUNGER_HOLDERS: (lambda made: share(made, lambda t: t.user_age < 25), 2.0, 4.0),
    Drift.NEW_FRAUD: (lambda made: np.mean([r.is_fraud for r in made]), 1.4, 2.5),
}


@pytest.mark.parametrize("drift", Drift)
def test_each_drift_changes_what_its_name_says(usual, drift):
    measure, least, most = DRIFTS[drift]
    assert least < measure(payments(drifts=[drift])) / measure(usual) < most


def test_new_fraud_leaves_the_amounts_and_ages_of_all_payments_where_they_were(usual):
    changed = payments(drifts=[Drift.NEW_FRAUD])
    for field in ("amount", "user_age", "account_balance"):
        before, after = (
            np.median([getattr(r.transaction, field) for r in made]) for made in (usual, changed)
        )
        assert after == pytest.approx(before, rel=0.05)


def test_patterns_name_categories_that_exist():
    assert {name for p in PATTERNS.values() for name in p.categories or ()} <= set(CATEGORIES)
