from datetime import UTC, datetime, timedelta

import numpy as np
import polars as pl
import pytest

from fraudscale.scoring.records import CATEGORIES, Transaction
from fraudscale.scoring.tables import DataError
from fraudscale.training.data import (
    MAX_CATEGORIES,
    Dataset,
    categories_of,
    generate,
    read_file,
    split,
)

DAY = 86_400.0


def frame(rows=2000, **columns):
    values = {
        "transaction_id": [f"t{i}" for i in range(rows)],
        "amount": [10.5] * rows,
        "merchant_category": ["grocery"] * rows,
        "hour": [i % 24 for i in range(rows)],
        "day_of_week": [i % 7 for i in range(rows)],
        "user_age": [40] * rows,
        "account_balance": [-3.0] * rows,
        "is_fraud": [i % 10 == 0 for i in range(rows)],
    }
    return pl.DataFrame(values | columns)


def test_the_same_seed_gives_the_same_rows_on_any_day():
    on = [generate(1, 3000, datetime(2026, 11, day, tzinfo=UTC), lambda *_: None) for day in (1, 24)]
    facts = [[(t.amount, t.hour, t.day_of_week, t.account_balance) for t in data.transactions] for data in on]
    assert facts[0] == facts[1]
    assert on[0].period != on[1].period


def test_generated_data_ends_before_now():
    now = datetime(2026, 11, 24, tzinfo=UTC)
    data = generate(1, 3000, now, lambda *_: None)
    assert data.at.max() < data.as_of <= now.timestamp()


def test_progress_is_told_every_ten_thousand_rows():
    told = []
    generate(1, 25_000, datetime(2026, 11, 24, tzinfo=UTC), lambda *args: told.append(args))
    assert told == [("generate", 0.4), ("generate", 0.8)]


def test_parts_follow_each_other_in_time(generated):
    parts = split(generated)
    ends = [(generated.at[p][0], generated.at[p][-1]) for p in parts.all.values()]
    assert [time for pair in ends for time in pair] == sorted(time for pair in ends for time in pair)


def test_what_is_learned_from_was_known_when_the_test_begins(generated):
    parts = split(generated)
    begin = generated.at[parts.test][0]
    for part in (parts.train, parts.calibration, parts.validation):
        assert (generated.labelled_at[part] <= begin).all()


def test_recent_weeks_teach_nothing_though_some_of_their_fraud_is_known(generated):
    parts = split(generated)
    assert generated.as_of - generated.at[parts.test].max() >= 28 * DAY
    late = generated.at > generated.as_of - 28 * DAY
    assert (generated.is_fraud & late & (generated.labelled_at <= generated.as_of)).any()


def test_a_part_with_too_few_frauds_is_refused_by_name():
    transactions = [Transaction(str(i), 1.0, "grocery", 0, 0, 40, 1.0) for i in range(5000)]
    at = np.arange(5000.0)
    data = Dataset(transactions, (at % 2 == 0) & (at < 3000), at, at, 5000.0, "mine.csv", "")
    with pytest.raises(DataError, match=r"mine\.csv: the validation part .* 0 frauds"):
        split(data)


def test_a_model_knows_our_categories_and_then_the_most_frequent_others():
    names = ["pets"] * 3 + ["books"] * 2 + ["grocery"] + [f"rare-{i}" for i in range(100)]
    known = categories_of(Transaction("1", 1.0, name, 0, 0, 40, 1.0) for name in names)
    assert known[: len(CATEGORIES) + 2] == (*CATEGORIES, "pets", "books")
    assert len(known) == MAX_CATEGORIES


@pytest.mark.parametrize("kind", ["csv", "parquet"])
def test_a_file_is_read_in_its_own_order_where_it_has_no_timestamps(tmp_path, kind):
    path = tmp_path / f"mine.{kind}"
    getattr(frame(), f"write_{kind}")(path)
    data = read_file(path)
    assert data.transactions[25] == Transaction("t25", 10.5, "grocery", 1, 4, 40, -3.0)
    assert data.is_fraud.sum() == 200
    assert (len(data.transactions), data.at[0], data.at[-1], data.as_of) == (2000, 1, 2000, 2000)
    assert (data.origin, data.period) == (path.name, "rows 1 – 2000 in the order of the file")


@pytest.mark.parametrize("zone", ["Z", "", "+00:00"])
def test_timestamps_order_the_rows_of_a_file(tmp_path, zone):
    times = [
        f"{datetime(2026, 3, 1, tzinfo=UTC) + timedelta(minutes=-i):%Y-%m-%dT%H:%M:%S}{zone}"
        for i in range(2000)
    ]
    frame(at=times).write_csv(path := tmp_path / "mine.csv")
    data = read_file(path)
    assert data.transactions[0].transaction_id == "t1999"
    assert data.at[-1] == datetime(2026, 3, 1, tzinfo=UTC).timestamp()
    assert data.period == "2026-02-27 – 2026-03-01"


@pytest.mark.parametrize("kind", ["csv", "parquet"])
def test_ids_that_are_there_twice_are_told_and_trained_on(tmp_path, kind):
    path = tmp_path / f"mine.{kind}"
    ids = [f"t{i}" for i in range(1998)] + ["t3", "t5"]
    getattr(frame(transaction_id=ids), f"write_{kind}")(path)
    data = read_file(path)
    assert len(data.transactions) == 2000
    [told] = data.warnings
    assert told.startswith(f"{path}: 4 rows share their transaction_id with another, the first is 't3'; ")


@pytest.mark.parametrize("first", ["0001-01-01", "9999-12-31"])
def test_the_period_of_a_file_may_begin_and_end_with_time_itself(tmp_path, first):
    frame(at=[first] + ["2026-03-01"] * 1999).write_csv(path := tmp_path / "mine.csv")
    assert first[:10] in read_file(path).period


def test_a_file_that_can_not_be_read_is_refused(tmp_path):
    with pytest.raises(DataError, match=r"none\.csv: can't be read: No such file"):
        read_file(tmp_path / "none.csv")


def test_a_short_file_is_refused(tmp_path):
    frame(rows=50).write_csv(path := tmp_path / "mine.csv")
    with pytest.raises(DataError, match="50 rows; at least 2000"):
        read_file(path)
