from itertools import islice

import msgspec
import polars as pl
import pytest

from fraudscale.load.arrivals import instants, offered
from fraudscale.load.transactions import Recording, encoded, generated
from fraudscale.scoring.codec import decode_transaction
from fraudscale.scoring.records import Transaction
from fraudscale.scoring.tables import DataError

HEADER = "transaction_id,amount,merchant_category,hour,day_of_week,user_age,account_balance,at\n"
ROWS = [
    "b,20.5,crypto,3,6,23,-5,2026-03-01T12:00:04Z\n",
    "a,10,grocery,12,0,40,1000,2026-03-01T12:00:00Z\n",
    "c,30,travel,13,1,50,2000,2026-03-01T14:00:05+02:00\n",
]


@pytest.fixture
def recording(tmp_path):
    def write(rows=ROWS, header=HEADER, name="payments.csv"):
        path = tmp_path / name
        path.write_text(header + "".join(rows))
        return Recording(path)

    return write


def test_generated_transactions_are_good_and_have_ids_of_their_own():
    sent = list(islice(encoded(generated(1)), 250)) + list(islice(encoded(generated(2)), 250))
    assert len({key for key, _ in sent}) == 500
    assert all(decode_transaction(body).transaction_id.encode() == key for key, body in sent)


def test_a_recording_is_replayed_in_order_of_time_with_its_gaps(recording):
    found = recording()
    assert list(instants(found.schedule(1, None))) == [0, 4, 5]
    assert [t.transaction_id for t in found.transactions()] == ["a", "b", "c"]
    assert next(found.transactions()) == Transaction("a", 10, "grocery", 12, 0, 40, 1000)


def test_the_last_of_a_recording_is_offered_too(recording):
    schedule = recording().schedule(1, None)
    assert offered(schedule, schedule.seconds, 1) == [1, 0, 0, 0, 2]
    assert offered(schedule, 4.5, 1) == [1, 0, 0, 0, 1]


def test_speed_shortens_the_gaps_and_seconds_cut_the_run(recording):
    schedule = recording().schedule(10, 0.45)
    assert list(instants(schedule)) == [0, 0.4]
    assert schedule.seconds == 0.45


def test_parquet_is_read_with_its_own_types(tmp_path):
    path = tmp_path / "payments.parquet"
    frame = pl.read_csv((HEADER + "".join(ROWS)).encode(), try_parse_dates=True)
    frame.with_columns(pl.col("at").cast(pl.Datetime("us", "UTC"))).write_parquet(path)
    assert list(instants(Recording(path).schedule(1, None))) == [0, 4, 5]


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        (
            [*ROWS, "d,1,grocery,24,0,40,1,2026-03-01T12:00:00Z\n"],
            "row 4, column hour: '24', wanted an integer from 0 to 23",
        ),
        ([*ROWS, "d,1,grocery,2,0,40,1,yesterday\n"], "row 4, column at: 'yesterday'"),
        ([*ROWS, ROWS[0]], "transaction_id 'b' occurs more than once"),
        ([], "no rows"),
    ],
)
def test_a_bad_row_is_named(recording, rows, message):
    with pytest.raises(DataError, match=message):
        recording(rows)


def test_a_missing_column_and_an_unknown_kind_of_file_are_named(recording):
    with pytest.raises(DataError, match="missing column at; wanted: transaction_id"):
        recording(["a,10,grocery,12,0,40,1000\n"], HEADER.replace(",at", ""))
    with pytest.raises(DataError, match=r"must end in .csv or .parquet"):
        recording(name="payments.txt")


def test_what_is_sent_is_the_row(recording):
    key, body = next(encoded(recording().transactions()))
    assert (key, msgspec.json.decode(body)["amount"]) == (b"a", 10)
