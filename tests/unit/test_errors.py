"""What an error says, and the one line and exit code with which a command ends."""

import pytest

from fraudscale import cli
from fraudscale.errors import FraudscaleError, InputError


class DiskFull(FraudscaleError):
    """The disk is full;
    remove what is old."""


@pytest.mark.parametrize(
    ("error", "text"),
    [
        (DiskFull(), "The disk is full;\nremove what is old."),
        (DiskFull("/data is full"), "/data is full"),
        (InputError(), "The user's input can't be used."),
    ],
)
def test_an_error_says_its_message_or_else_its_docstring(error, text):
    assert str(error) == text


@pytest.mark.parametrize(
    ("error", "code", "line"),
    [
        (DiskFull("/data is full"), 1, "fraudscale: /data is full\n"),
        (InputError("--rate 0: must be above 0"), 2, "fraudscale: --rate 0: must be above 0\n"),
        (
            PermissionError(13, "Permission denied", "/data"),
            1,
            "fraudscale: [Errno 13] Permission denied: '/data'\n",
        ),
    ],
)
def test_a_command_ends_with_one_line_and_the_error_s_exit_code(monkeypatch, capsys, error, code, line):
    def app(**_):
        raise error

    monkeypatch.setattr(cli, "app", app)
    with pytest.raises(SystemExit) as ended:
        cli.main()
    assert ended.value.code == code
    assert capsys.readouterr() == ("", line)


def test_an_error_of_ours_that_nobody_foresaw_keeps_its_trace(monkeypatch):
    def app(**_):
        raise KeyError("a mistake of the program")

    monkeypatch.setattr(cli, "app", app)
    with pytest.raises(KeyError):
        cli.main()
