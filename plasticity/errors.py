"""Every error that a user can cause. Its message has one or two lines and names the way out.

A command prints the message and ends with the error's ``status``; in Python, catch
``PlasticityError`` or one of the others. This module imports nothing.
"""


class PlasticityError(Exception):
    """An error that a user can cause.

    Attributes:
        status: The exit status of a command that ends with it.
    """

    status = 1


class UsageError(PlasticityError):
    """Wrong use; the message says what would be right."""

    status = 2


class DoesNotFit(UsageError, ValueError):
    """There can be no such network, or none with such a remedy, for a problem."""


class Failure(PlasticityError):
    """Something cannot be done here; the message says why, and the way out."""


class DataError(Failure):
    """A data set is missing, damaged, or not what it should be; the message says what to do."""


class Diverged(Failure):
    """The training loss is NaN or infinite."""


class RecordError(Failure):
    """A file of a run is damaged or cannot be written; the message says what to do."""


class InUse(RecordError):
    """Another process does it just now: wait for it, or stop it."""

    status = 75


def cause_of(error: BaseException) -> str:
    """Return the last line of an exception's message, or its type where it has none."""
    return (str(error).strip() or type(error).__name__).splitlines()[-1]
