"""Every error batchrec raises on purpose, and the exit code each one ends a command with.

An error is one sentence in two halves: the problem (what was found, what was expected, with names and values) and the
remedy (what to do). The command line prints both on one line and exits with :attr:`BatchrecError.exit_code`.
"""

from __future__ import annotations

from typing import ClassVar

EXIT_INTERRUPTED = 130
"""By Ctrl-C, as shells have it: 128 and the number of the signal."""


class BatchrecError(Exception):
    """Root of all errors raised on purpose.

    Parameters
    ----------
    problem
        What was found and what was expected, naming the file, column, feature or option.
    remedy
        What the reader should do about it, as an imperative.
    """

    exit_code: ClassVar[int] = 1

    def __init__(self, problem: str, remedy: str) -> None:
        super().__init__(problem, remedy)
        self.problem = problem
        self.remedy = remedy

    def __str__(self) -> str:
        return f"{self.problem}: {self.remedy}."


class ConfigError(BatchrecError):
    """An option, environment variable or job file that cannot be used."""

    exit_code = 2


class SchemaError(BatchrecError):
    """A table that is missing, unreadable, or lacks a column or dtype that is needed."""

    exit_code = 2


class ArtifactError(BatchrecError):
    """A bundle, model, index or run folder that is missing, damaged, or does not fit."""

    exit_code = 2


class FeatureError(BatchrecError):
    """A feature repository, view or service that is missing or does not fit the bundle."""

    exit_code = 2


class SinkError(BatchrecError):
    """Output that could not be written or read back."""

    exit_code = 1


class ClusterError(BatchrecError):
    """Dask workers that cannot do the work: other code than the run's, or a partition that kills them."""

    exit_code = 1


class GateError(BatchrecError):
    """A check between computing and publishing failed; nothing was published."""

    exit_code = 3


class BusyError(BatchrecError):
    """A condition that passes by itself (a lock, a store that is away); the same command may be tried again."""

    exit_code = 75


class NothingToDo(BatchrecError):  # noqa: N818 - the outcome is no error
    """The asked-for result is already there."""

    exit_code = 99
