import json
import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fraudscale.scoring import codec
from fraudscale.scoring.codec import InvalidTransaction
from fraudscale.scoring.records import Scores, Transaction

GOOD = {
    "transaction_id": "tx-1",
    "amount": 12.5,
    "merchant_category": "grocery",
    "hour": 14,
    "day_of_week": 2,
    "user_age": 41,
    "account_balance": -80.25,
}


def body(**changes):
    return json.dumps(GOOD | changes).encode()


def without(field):
    return json.dumps({name: value for name, value in GOOD.items() if name != field}).encode()


def test_a_transaction_is_read_and_written_without_loss():
    transaction = codec.decode_transaction(body())
    assert transaction == Transaction(**GOOD)
    assert codec.decode_transaction(codec.encode_transaction(transaction)) == transaction


def test_unknown_fields_and_unknown_categories_are_taken():
    assert (
        codec.decode_transaction(body(colour="red", merchant_category="yachts")).merchant_category == "yachts"
    )


@pytest.mark.parametrize("field", GOOD)
def test_a_missing_field_is_named(field):
    with pytest.raises(InvalidTransaction) as caught:
        codec.decode_transaction(without(field))
    assert (caught.value.field, caught.value.reason) == (field, "The field is required")


@pytest.mark.parametrize(
    ("changes", "field"),
    [
        ({"transaction_id": ""}, "transaction_id"),
        ({"transaction_id": "x" * 129}, "transaction_id"),
        ({"transaction_id": 7}, "transaction_id"),
        ({"amount": -0.01}, "amount"),
        ({"amount": "3"}, "amount"),
        ({"hour": 24}, "hour"),
        ({"hour": -1}, "hour"),
        ({"hour": 3.5}, "hour"),
        ({"hour": 3.0}, "hour"),  # JSON Schema's integer admits 3.0; ours is the stricter reading
        ({"hour": True}, "hour"),
        ({"hour": None}, "hour"),
        ({"day_of_week": 7}, "day_of_week"),
        ({"user_age": 131}, "user_age"),
        ({"merchant_category": None}, "merchant_category"),
    ],
)
def test_a_bad_value_is_refused_with_its_field(changes, field):
    with pytest.raises(InvalidTransaction) as caught:
        codec.decode_transaction(body(**changes))
    assert caught.value.field == field


@pytest.mark.parametrize("field", ["amount", "account_balance"])
@pytest.mark.parametrize("number", ["1e999", "-1e999", "1" * 400])
def test_a_number_beyond_64_bits_is_refused(field, number):
    with pytest.raises(InvalidTransaction) as caught:
        codec.decode_transaction(body().replace(json.dumps(GOOD[field]).encode(), number.encode()))
    assert caught.value.field == field


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"", "The body is empty"),
        (b"{", "not valid JSON"),
        (b"[]", "Expected `object`"),
        (b"\xff\xfe", "not valid JSON"),
        (body().replace(b"12.5", b"NaN"), "not valid JSON"),
        (body().replace(b'"tx-1"', b'"\xff"'), "not UTF-8"),
        (body()[:-1] + b', "x": ' + b"[" * 100_000 + b"]" * 100_000 + b"}", "nested too deeply"),
        (body() + b"x", "not valid JSON"),
    ],
)
def test_bytes_that_are_no_transaction_are_refused_with_a_reason(content, reason):
    with pytest.raises(InvalidTransaction, match=reason) as caught:
        codec.decode_transaction(content)
    assert caught.value.field == ""


def test_a_batch_names_the_item_that_is_wrong():
    content = b'{"transactions": [' + body() + b"," + without("hour") + b"]}"
    with pytest.raises(InvalidTransaction) as caught:
        codec.decode_transactions(content)
    assert caught.value.field == "transactions[1].hour"


@pytest.mark.parametrize("count", [0, 1001])
def test_a_batch_holds_1_to_1000_transactions(count):
    with pytest.raises(InvalidTransaction) as caught:
        codec.decode_transactions(b'{"transactions": [' + b",".join([body()] * count) + b"]}")
    assert caught.value.field == "transactions"


def test_the_largest_batch_is_read():
    content = b'{"transactions": [' + b",".join([body()] * 1000) + b"]}"
    assert len(codec.decode_transactions(content)) == 1000


BOM = b"\xef\xbb\xbf"


def test_one_leading_byte_order_mark_is_ignored():
    assert codec.decode_transaction(BOM + body()) == Transaction(**GOOD)
    assert codec.decode_transactions(BOM + b'{"transactions": [' + body() + b"]}") == [Transaction(**GOOD)]
    for content in (BOM + BOM + body(), b" " + BOM + body(), body() + BOM, BOM):
        with pytest.raises(InvalidTransaction, match="not valid JSON"):
            codec.decode_transaction(content)
    with pytest.raises(InvalidTransaction, match="The field is required"):
        codec.decode_transaction(BOM + without("hour"))


@pytest.mark.parametrize("bom", [b"", BOM])
@pytest.mark.parametrize("bad", [b'"\xff"', '"€ '.encode() + b'\xff"', b'"\xe2\x82"'])
@pytest.mark.parametrize("decode", [codec.decode_transaction, codec.decode_transactions])
def test_the_place_of_what_is_not_utf_8_is_that_in_the_body(decode, bad, bom):
    content = bom + body(merchant_category="€").replace(b'"tx-1"', bad)
    if decode is codec.decode_transactions:
        content = bom + b'{"transactions": [' + body() + b"," + content.removeprefix(bom) + b"]}"
    with pytest.raises(InvalidTransaction, match="not UTF-8") as caught:
        decode(content)
    place = int(re.search("at byte ([0-9]+)", caught.value.reason)[1])
    content[:place].decode()
    with pytest.raises(UnicodeDecodeError):
        content[: place + 3].decode()


@pytest.mark.parametrize("bom", [b"", BOM])
def test_the_place_of_what_is_not_json_is_that_in_the_body(bom):
    with pytest.raises(InvalidTransaction, match=rf"\(byte {len(bom) + len(body()) - 1}\)"):
        codec.decode_transaction(bom + body()[:-1] + b"!")


@given(st.binary(max_size=200))
def test_no_bytes_raise_anything_else(content):
    try:
        codec.decode_transaction(content)
    except InvalidTransaction:
        return


def test_a_scored_record_holds_both_records_and_the_event_time():
    scores = Scores(
        [Transaction(**GOOD)], [0.75], [True], [0.75], [1.5], "3", "2026-11-01T00:00:01Z", "replica-1"
    )
    value = json.loads(*codec.encode_scored(scores, ["2026-11-01T00:00:00Z"]))
    assert value == GOOD | {
        "is_fraud": True,
        "fraud_probability": 0.75,
        "confidence": 0.75,
        "model_version": "3",
        "prediction_time": "2026-11-01T00:00:01Z",
        "processing_time_ms": 1.5,
        "replica_id": "replica-1",
        "event_time": "2026-11-01T00:00:00Z",
        "schema_version": 1,
    }
