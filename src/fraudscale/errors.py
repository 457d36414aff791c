"""The one base of our errors: what the program says, and with which exit code it ends."""

from inspect import cleandoc
from typing import ClassVar


class FraudscaleError(Exception):
    """Something went wrong that a person may have to mend."""

    exit_code: ClassVar[int] = 1
    """Of a command that ends with it: 2 where the user's input is the cause, 1 for the rest."""

    def __init__(self, message: str = "") -> None:
        """Take a message that names the value and the remedy; without one the class's docstring speaks."""
        super().__init__(message or cleandoc(type(self).__doc__ or type(self).__name__))


class InputError(FraudscaleError):
    """The user's input can't be used."""

    exit_code = 2
