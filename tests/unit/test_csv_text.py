import codecs

import pytest

from fraudscale.csv_text import CsvError, hint, read_csv


def read(content):
    header, rows = read_csv(content if isinstance(content, bytes) else content.encode())
    return header, list(rows)


GOOD = {
    "plain": "a,b\n1,2\n",
    "without a last line break": "a,b\n1,2",
    "with carriage returns": "a,b\r\n1,2\r\n",
    "with carriage returns alone": "a,b\r1,2\r",
    "with a byte order mark": codecs.BOM_UTF8 + b"a,b\n1,2\n",
    "with spaces around its names": " a ,b \n1,2\n",
    "with blank lines at its end": "a,b\n1,2\n\n \n,\n , \n",
    "quoted": '"a","b"\n"1","2"\n',
}


@pytest.mark.parametrize("form", GOOD)
def test_one_table_is_read_in_whatever_form_it_comes(form):
    assert read(GOOD[form]) == (["a", "b"], [(2, ["1", "2"])])


def test_rows_know_their_lines_whatever_is_blank_or_goes_on_between_them():
    assert read('\na\n\n1\n"x\ny"\n\u20282\n')[1] == [(4, ["1"]), (6, ["x\ny"]), (7, ["\u20282"])]


def test_one_byte_order_mark_is_none_of_the_name_and_a_second_one_is():
    assert read(2 * codecs.BOM_UTF8 + b"a\n")[0] == ["\ufeffa"]


BAD = {
    "empty": ("", "is empty"),
    "blank": ("\n \n", "is empty"),
    "semicolons": ("a;b\n1,5;2\n", "line 1: columns are separated by semicolons; separate them by commas"),
    "quoted, with semicolons": ('"a";"b"\n1;2\n', "line 1: columns are separated by semicolons"),
    "tabs": ("a\tb\n1\t2\n", "line 1: columns are separated by tabs"),
    "bars": ("\n\na|b\r1|2\r", "line 1: columns are separated by bars"),
    "UTF-16": ("a,b\n".encode("utf-16"), "it is UTF-16; save it as UTF-8"),
    "UTF-16, the other way round": (codecs.BOM_UTF16_BE + "a".encode("utf-16-be"), "it is UTF-16"),
    "UTF-16 without a mark": ("a,b\n".encode("utf-16-le"), "holds a NUL at byte 1; if it is UTF-16, save it"),
    "Latin-1": ("a,größe\n".encode("latin-1"), "not UTF-8: invalid start byte at byte 4; save it as UTF-8"),
    "Latin-1 behind a mark": (codecs.BOM_UTF8 + b"a\xff", "not UTF-8: invalid start byte at byte 4"),
    "Excel": (b"PK\x03\x04\x14", "it is a ZIP archive, as an Excel file is; export it as CSV"),
    "compressed": (b"\x1f\x8b\x08", "it is compressed with gzip; unpack it"),
    "Parquet": (b"PAR1\x15", "it is Parquet; let its name end in .parquet"),
    "a row too long": ("a,b\n1,2\n1,2,3\n", "line 3: 3 values in 2 columns; a value that holds a comma needs"),
    "a row too short": ("a,b\n1\n", "line 2: 1 values in 2 columns"),
    "a quote without an end": ('a,b\n1,"2\n', "line 2: not CSV: unexpected end of data"),
}  # fmt: skip


@pytest.mark.parametrize("kind", BAD)
def test_what_is_nearly_csv_is_named(kind):
    content, message = BAD[kind]
    with pytest.raises(CsvError) as caught:
        read(content)
    assert str(caught.value).startswith(message)
    assert not str(caught.value).endswith("quotes") or kind == "a row too long"


@pytest.mark.parametrize("text", ["12,5", " -1.234,56", "1,234.5", "1 234", "1'234", ",5", "1\u00a0000"])
def test_numbers_as_other_countries_write_them_are_known(text):
    assert hint(text) == "; numbers have a decimal point instead of a comma, and nothing between thousands"


@pytest.mark.parametrize("text", ["", "24", "2.5", "many", "1,2,x", "2026-03-01", "-"])
def test_other_texts_bring_no_hint(text):
    assert hint(text) == ""
