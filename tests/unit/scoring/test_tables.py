"""The same rule for a value in CSV and in Parquet, and one line for what is not allowed."""

from datetime import UTC, date, datetime
from decimal import Decimal

import polars as pl
import pytest

from fraudscale.scoring.records import Transaction
from fraudscale.scoring.tables import DataError, read_transactions, repeated

MARCH = datetime(2026, 3, 1, tzinfo=UTC).timestamp()
KINDS = pytest.mark.parametrize("kind", ["csv", "parquet"])


def frame(rows=3, **columns):
    values = {
        "transaction_id": [f"t{i}" for i in range(rows)],
        "amount": [10.5] * rows,
        "merchant_category": ["grocery"] * rows,
        "hour": [12] * rows,
        "day_of_week": [1] * rows,
        "user_age": [40] * rows,
        "account_balance": [-3.0] * rows,
        "is_fraud": [False] * rows,
    }
    return pl.DataFrame(values | columns, strict=False)


def written(tmp_path, kind, table, name="mine"):
    path = tmp_path / f"{name}.{kind}"
    getattr(table, f"write_{kind}")(path)
    return path


@KINDS
def test_columns_come_in_the_order_and_the_types_of_a_transaction(tmp_path, kind):
    table = frame().select(reversed(frame().columns)).with_columns(note=pl.lit("x"))
    found = read_transactions(written(tmp_path, kind, table))
    assert Transaction(*found.row(1)) == Transaction("t1", 10.5, "grocery", 12, 1, 40, -3.0)
    assert [type(value) for value in found.row(1)] == [str, float, str, int, int, int, float]
    assert found.columns == list(Transaction.__struct_fields__)


# As text in both kinds of file, and as the types that Parquet may have for it.
ALLOWED = [
    ("hour", 14, ["14", "14.0", " 14", "1.4e1", 14, 14.0, Decimal("14.0")]),
    ("hour", 0, ["0", "-0", "0.0", 0]),
    ("hour", 23, ["23"]),
    ("day_of_week", 6, ["6"]),
    ("user_age", 130, ["130.0"]),
    ("amount", 0.0, ["0", "-0.0", 0]),
    ("amount", 1200.0, ["1200", "1.2e3", "1200.", " 1200.0 ", 1200, Decimal("1200.00")]),
    ("account_balance", -0.5, ["-.5", "-0.5", -0.5]),
    ("transaction_id", "7", ["7", 7]),
    ("transaction_id", " 7 ", [" 7 "]),
    ("transaction_id", "x" * 128, ["x" * 128]),
    ("merchant_category", "größe, klein", ["größe, klein"]),
    ("is_fraud", 1, ["1", "1.0", "true", "TRUE", " True", True, 1, 1.0]),
    ("is_fraud", 0, ["0", "false", "False", False, 0]),
    ("at", MARCH, ["2026-03-01", "20260301", "2026-03-01T00:00:00", "2026-03-01 00:00:00Z"]),
    ("at", MARCH, [" 2026-03-01T01:00:00+01:00", "2026-02-28T23:00:00-01:00", date(2026, 3, 1), 20260301]),
    ("at", MARCH + 0.25, ["2026-03-01T00:00:00.250Z"]),
    ("at", -62_135_596_800.0, ["0001-01-01T00:00:00Z", "0001-01-01"]),
]


@KINDS
@pytest.mark.parametrize(
    ("column", "wanted", "value"), [(name, wanted, value) for name, wanted, values in ALLOWED for value in values]
)  # fmt: skip
def test_a_value_is_the_same_in_each_kind_of_file(tmp_path, kind, column, wanted, value):
    path = written(tmp_path, kind, frame(**{column: [value] * 3}))
    assert read_transactions(path, labels=True)[column].to_list() == [wanted] * 3


REFUSED = [
    ("amount", ["-1", "inf", "NaN", "", None, "ten", "1_000", True, [1.0], date(2026, 3, 1)], "a finite number, at least 0"),
    ("account_balance", ["-inf", "nan", "0x10"], "a finite number"),
    ("hour", ["24", "-1", "2.5", "nan", None, "inf", 24, 2.5, "12:00", "true", True], "an integer from 0 to 23"),
    ("day_of_week", ["7", "Monday"], "an integer from 0 (Monday) to 6"),
    ("user_age", ["131", "-1"], "an integer from 0 to 130"),
    ("is_fraud", ["2", "maybe", "0.5", None, -1], "0, 1, true or false"),
    ("transaction_id", ["", None, "x" * 129, [1]], "1 to 128 characters"),
    ("merchant_category", ["", "x" * 129], "a name of 1 to 128 characters"),
    ("at", ["yesterday", "", None, "0001-01-01T00:00:00+01:00", "2026-13-01", "9999-12-31T23:59:59-01:00", 1e9, True], "an instant such as"),
]  # fmt: skip


@KINDS
@pytest.mark.parametrize(
    ("column", "wanted", "value"), [(name, wanted, value) for name, values, wanted in REFUSED for value in values]
)  # fmt: skip
def test_a_value_that_is_not_allowed_is_named_with_its_row_and_column(tmp_path, kind, column, wanted, value):
    if kind == "csv" and isinstance(value, list):
        pytest.skip("CSV has no lists")
    path = written(tmp_path, kind, frame(**{column: [value] * 3}))
    with pytest.raises(DataError) as caught:
        read_transactions(path, labels=True)
    message = str(caught.value)
    assert message.startswith(f"{path}: row 1, column {column}: ")
    assert f"wanted {wanted}" in message
    assert "\n" not in message


@KINDS
def test_the_first_row_that_is_not_allowed_is_named_as_it_stands(tmp_path, kind):
    path = written(tmp_path, kind, frame(amount=["1", "12,5", "x"]))
    with pytest.raises(
        DataError, match=r"row 2, column amount: '12,5', wanted .* numbers have a decimal point"
    ):
        read_transactions(path)
    path = written(tmp_path, kind, frame(user_age=["1", "2", ""]))
    with pytest.raises(DataError, match=r"row 3, column user_age: empty, wanted an integer from 0 to 130$"):
        read_transactions(path)


@pytest.mark.parametrize("zone", [None, "UTC", "Europe/Berlin"])
@pytest.mark.parametrize("unit", ["ms", "us", "ns"])
def test_instants_of_parquet_keep_their_zone(tmp_path, zone, unit):
    at = pl.Series([datetime(2026, 3, 1)] * 3).cast(pl.Datetime(unit)).dt.replace_time_zone(zone)  # noqa: DTZ001
    shift = 3600 if zone == "Europe/Berlin" else 0
    found = read_transactions(written(tmp_path, "parquet", frame(at=at)), times=True)
    assert found["at"].to_list() == [MARCH - shift] * 3


def test_an_instant_of_parquet_beyond_all_calendars_is_refused(tmp_path):
    at = pl.Series([2**62] * 3).cast(pl.Datetime("us"))
    with pytest.raises(DataError, match="row 1, column at: "):
        read_transactions(written(tmp_path, "parquet", frame(at=at)))


@KINDS
@pytest.mark.parametrize("name", ["mine[1]", "mine*", "~mine"])
def test_a_name_is_no_pattern(tmp_path, kind, name):
    table = frame().rename({"is_fraud": "label[0]"})
    assert len(read_transactions(written(tmp_path, kind, table, name))) == 3


@KINDS
def test_a_column_that_is_missing_is_named(tmp_path, kind):
    path = written(tmp_path, kind, frame().drop("amount", "is_fraud"))
    with pytest.raises(
        DataError, match=r"missing column amount, is_fraud; wanted: transaction_id, amount, .*, is_fraud$"
    ):
        read_transactions(path, labels=True)
    with pytest.raises(DataError, match="missing column at; wanted"):
        read_transactions(written(tmp_path, kind, frame()), times=True)


def test_a_column_that_is_there_twice_is_told(tmp_path):
    path = tmp_path / "mine.csv"
    path.write_text(
        "x,x," + frame().write_csv().replace("amount", "amount,amount", 1).replace("\n", ",1\nx,y,")
    )
    with pytest.raises(DataError, match=r"mine\.csv: line 1: the column amount is there 2 times; keep one"):
        read_transactions(path)


@KINDS
def test_a_table_without_rows_is_refused(tmp_path, kind):
    with pytest.raises(DataError, match="no rows"):
        read_transactions(written(tmp_path, kind, frame().clear()))


BAD_FILES = {
    "missing.csv": (None, "can't be read: No such file or directory"),
    "missing.parquet": (None, "can't be read: No such file or directory"),
    "mine.xlsx": (b"", "the name must end in .csv or .parquet"),
    "empty.csv": (b"", "is empty"),
    "empty.parquet": (b"", "can't be read: "),
    "torn.parquet": (b"PAR1 and no more", "can't be read: "),
    "other.csv": (b"amount,hour\n1,2\n", "missing column transaction_id, merchant_category"),
    "german.csv": (b"transaction_id;amount\n1;2,5\n", "line 1: columns are separated by semicolons"),
}


@pytest.mark.parametrize("name", BAD_FILES)
def test_a_file_that_is_no_table_of_transactions_is_refused_in_one_line(tmp_path, name):
    content, message = BAD_FILES[name]
    if content is not None:
        (tmp_path / name).write_bytes(content)
    with pytest.raises(DataError) as caught:
        read_transactions(tmp_path / name)
    assert str(caught.value).startswith(f"{tmp_path / name}: {message}")
    assert "\n" not in str(caught.value)


def test_a_long_csv_keeps_its_order(tmp_path):
    found = read_transactions(written(tmp_path, "csv", frame(rows=100_001)))
    assert found["transaction_id"].to_list() == [f"t{i}" for i in range(100_001)]


def test_ids_that_are_there_twice_are_counted():
    assert repeated(frame()) is None
    assert repeated(frame(transaction_id=["b", "a", "b"])) == ("b", 2)
