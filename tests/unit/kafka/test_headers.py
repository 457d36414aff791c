import pytest

from fraudscale.kafka.headers import SourceRecord, read_source, source_of


def test_what_is_written_is_read():
    source = SourceRecord("cards.eu-west_1", 11, 9_007_199_254_740_993)
    assert read_source(source_of(*source)) == read_source(source_of(*source).encode()) == source


@pytest.mark.parametrize(
    "value",
    [None, b"", "transactions", "transactions/1", "/1/2", "a/1/2/3", "a/-1/2", "a/1/x", "a/1/²", b"\xff/1"],
)
def test_what_does_not_name_a_record_is_no_source(value):
    assert read_source(value) is None
