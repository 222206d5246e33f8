"""The options of a run: command-line flags, then ``BATCHREC_*`` environment variables, then the job file."""

from __future__ import annotations

import difflib
import hashlib
import json
import math
import os
import re
import tomllib
from datetime import UTC, date, datetime, time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

from pydantic import AwareDatetime, Field, ValidationError, ValidationInfo, field_validator
from pydantic_settings import BaseSettings, NoDecode, PydanticBaseSettingsSource, SettingsConfigDict

from batchrec.engine.cluster import LOCAL, checked_place
from batchrec.errors import ConfigError
from batchrec.log import LogFormat
from batchrec.output.storage import is_url, local_path
from batchrec.schema import output_columns
from batchrec.times import duration_of, moment_of

if TYPE_CHECKING:
    from collections.abc import Callable

    from pydantic_core import ErrorDetails

ENV_PREFIX = "BATCHREC_"

LEAST_MEMORY = 512_000_000
"""Fewest bytes that a process can be limited to: with half of 128 MB, sorting 3 million users failed."""

_SIZE = re.compile(r"(\d+(?:\.\d+)?)\s*([kmgt]?(?:i?b)?)", re.IGNORECASE)
_UNITS = {"": 1, "B": 1}
for _power, _letter in enumerate("KMGT", start=1):
    _UNITS |= {_letter: 1000**_power, f"{_letter}B": 1000**_power, f"{_letter}IB": 1024**_power}

OTHER_VARIABLES = {"BATCHREC_DATA", "BATCHREC_FEATURE_DATA"}
"""Environment variables of the tests and of the feature repositories; every other ``BATCHREC_*`` is an option."""


class JobConfig(BaseSettings):
    """Everything that one ``batchrec run`` can be told. Each field is a flag, a variable and a key of the job file."""

    model_config = SettingsConfigDict(
        env_prefix=ENV_PREFIX, env_ignore_empty=True, extra="forbid", frozen=True, validate_default=True
    )

    users: str = Field(description="Parquet file, directory, glob or fsspec URL with the ids of the users to serve")
    bundle: Path | str = Field(description="folder or URL of the trained models, written by `batchrec train`")
    feature_repo: Path = Field(Path("feature_repo"), description="Feast repository that has been applied")
    user_id_column: str = Field("user_id", description="column of the users file that holds the ids")
    keep_columns: Annotated[tuple[str, ...], NoDecode] = Field(
        (),
        description="columns of the users file to carry to the output rows, separated by commas (in the job file also "
        "a list); of a repeated user the row that sorts first by them counts, in the order given, nulls last",
    )
    as_of: AwareDatetime | None = Field(
        None, description="time as of which features are read, ISO 8601, UTC unless it says otherwise; default now"
    )
    candidates: int = Field(100, ge=1, le=100_000, description="items that retrieval offers the ranker, a user")
    top_k: int = Field(10, ge=1, le=10_000, description="items a list")
    temperature: float = Field(
        20.0, gt=0, description="factor on the relevance in softmax sampling, inf for plain sorting"
    )
    rank_by: Literal["ranker", "retrieval"] = Field(
        "ranker", description="what gives the relevance: the ranker, or the retrieval score alone"
    )
    fallback: Literal["popularity", "none"] = Field(
        "popularity", description="what users without any features get: the most popular items, or an empty list"
    )
    seed: int = Field(0, ge=0, lt=2**63, description="seed of the sampling")
    output: str = Field("output", description="folder of all runs, a local path or a URL that fsspec knows")
    run_id: str | None = Field(None, description="name of the run's folder; default the as-of time")
    resume: bool = Field(
        False, description="go on with an unfinished run: the one that `run_id` names, otherwise the newest"
    )
    since: str | None = Field(
        None,
        description="published run to start from: a name in `output`, `current`, or a path or URL; only users whose "
        "inputs changed since then are computed, and the differences are written to `_changes`",
    )
    users_per_partition: int = Field(
        10_000, ge=1, le=2**24, description="users that are computed together, one part file"
    )
    layout: Literal["list", "long"] = Field("list", description="one row a user (list) or one row an item (long)")
    suppress: Annotated[tuple[str, ...], NoDecode] = Field(
        (),
        description="Parquet files, separated by commas (in the job file also a list), with a column item_id or "
        "user_id: read when all lists are made; these items are taken out of every list, these users get no row",
    )
    max_failed_share: float = Field(
        0.0, ge=0, le=1, description="share of the users whose features may fail to be read before nothing is published"
    )
    deadline: AwareDatetime | None = Field(
        None,
        description="time by which the run is published: the next 04:00, or a date and time in ISO 8601, local time "
        "unless it says otherwise; where the time does not suffice, users get status `degraded` and less is computed "
        "for them: half the candidates, a quarter, an eighth, no ranker, the most popular items",
    )
    time_budget: float | None = Field(
        None,
        gt=0,
        le=31_536_000,
        description="the same as a time from the start of the run: seconds, or a text such as 90m or 1h30m",
    )
    verify: bool = Field(True, description="read the finished parts again and prove them before they are published")
    delta: str | None = Field(
        None, description="Delta Lake table, a path or a URL, whose next version is the rows of the published run"
    )
    push: bool = Field(False, description="push the lists of the published run into the online store")
    push_view: str = Field("user_recommendations", description="feature view that lists are pushed into")
    log_format: LogFormat = Field(
        "text", description="form of the log on standard error: lines for people, or one JSON object a line"
    )
    metrics: Path | None = Field(
        None, description="file for Prometheus: figures of the last published run, exit code of the last run of all"
    )
    lineage: Path | None = Field(
        None, description="file to which OpenLineage events of the run are appended, one JSON object a line"
    )

    cluster: str = Field(
        LOCAL,
        description="where partitions are computed: `local`, in this process; `processes:N`, in N worker processes on "
        "this machine; `cuda`, in a worker process for each of its GPUs; `tcp://host:port` or `tls://host:port`, by "
        "the workers of an existing Dask cluster",
    )
    device: Literal["auto", "cpu", "gpu"] = Field(
        "auto",
        description="what partitions are computed on: `auto` is the GPU where everything it needs can be used, and the "
        "CPU on an existing cluster; a run that goes on stays on the device it was begun on",
    )
    precision: Literal["fp32", "tf32", "bf16"] = Field(
        "fp32",
        description="what query tower and ranker multiply matrices in on a GPU: float32, TensorFloat-32 or bfloat16, "
        "summed in float32; the last two change lists",
    )
    index_storage: Literal["fp32", "fp16"] = Field(
        "fp32",
        description="what the index stores vectors in on a GPU: with float16, items at the end of the candidates may "
        "be others; scores are those of float32",
    )
    index_gpus: int = Field(
        1,
        ge=1,
        le=64,
        description="GPUs of a worker that share the index, each with a range of the items; not with `cluster` `cuda`, "
        "which has a worker on each GPU",
    )
    memory_limit: int | None = Field(
        None,
        ge=LEAST_MEMORY,
        description="bytes, or a text such as 4GB, that one process may hold: sorting the users takes half of it and "
        "then goes on on disk, and a process of `processes:N` that exceeds it is replaced; without it sorting takes "
        "512 MB, and nothing else is bounded",
    )

    @field_validator("users", "bundle", "feature_repo", "output", "since", "delta", mode="before")
    @classmethod
    def _named(cls, value: object) -> object:
        """Refuse an empty text, which would mean the working directory."""
        if isinstance(value, str) and not value.strip():
            raise ValueError("it is empty")
        return value

    @field_validator("bundle", mode="before")
    @classmethod
    def _path_unless_url(cls, value: object) -> object:
        return local_path(value) if isinstance(value, str) and not is_url(value) else value

    @field_validator("suppress")
    @classmethod
    def _each_named(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        if not all(source.strip() for source in value):
            raise ValueError("a name is empty")
        return value

    @field_validator("as_of", mode="before")
    @classmethod
    def _in_utc(cls, value: object) -> object:
        """Read a bare date or time as UTC, and carry every other one to UTC."""
        if isinstance(value, str):
            try:
                value = datetime.fromisoformat(value)
            except ValueError as error:
                raise ValueError("expected a time in ISO 8601, such as 2026-01-31 or 2026-01-31T06:00+01:00") from error
        if isinstance(value, date) and not isinstance(value, datetime):
            value = datetime(value.year, value.month, value.day, tzinfo=UTC)
        if isinstance(value, datetime):
            return value.replace(tzinfo=UTC) if value.tzinfo is None else value.astimezone(UTC)
        return value

    @field_validator("deadline", mode="before")
    @classmethod
    def _a_moment(cls, value: object) -> object:
        """Read a time of day as the next one."""
        return moment_of(value, datetime.now(UTC)) if isinstance(value, (str, time, datetime)) else value

    @field_validator("time_budget", mode="before")
    @classmethod
    def _in_seconds(cls, value: object) -> object:
        """Read a text such as 90m."""
        return duration_of(value) if isinstance(value, str) else value

    @field_validator("time_budget")
    @classmethod
    def _one_limit(cls, value: float | None, info: ValidationInfo) -> float | None:
        if value is not None and info.data.get("deadline") is not None:
            raise ValueError("there is a deadline already, and it can be one of the two only")
        return value

    @field_validator("keep_columns", "suppress", mode="before")
    @classmethod
    def _split(cls, value: object) -> object:
        """Read names separated by commas; a text without any is no column."""
        if isinstance(value, str):
            return [name.strip() for name in value.split(",")] if value.strip() else []
        return value

    @field_validator("cluster")
    @classmethod
    def _a_cluster(cls, value: str) -> str:
        return checked_place(value)

    @field_validator("memory_limit", mode="before")
    @classmethod
    def _in_bytes(cls, value: object) -> object:
        """Read a text such as 4GB or 512 MiB."""
        if not isinstance(value, str):
            return value
        found = _SIZE.fullmatch(value.strip())
        if not found:
            raise ValueError("expected bytes, or a size such as 4GB or 512MiB")
        return int(float(found[1]) * _UNITS[found[2].upper()])

    @field_validator("keep_columns")
    @classmethod
    def _can_stand_beside_the_output(cls, value: tuple[str, ...], info: ValidationInfo) -> tuple[str, ...]:
        for place, name in enumerate(value):
            if not name:
                raise ValueError("a name is empty")
            if name in value[:place]:
                raise ValueError(f"{name!r} is named twice")
            if name == info.data.get("user_id_column"):
                raise ValueError(f"{name!r} is the id column, which is in the output anyway")
            if name in output_columns():
                raise ValueError(f"{name!r} is the name of an output column")
        return value

    @field_validator("top_k")
    @classmethod
    def _no_more_than_candidates(cls, value: int, info: ValidationInfo) -> int:
        candidates = info.data.get("candidates", value)
        if value > candidates:
            raise ValueError(f"a list of {value} cannot be chosen among {candidates} candidates")
        return value

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],  # noqa: ARG003 - the signature is given
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,
        dotenv_settings: PydanticBaseSettingsSource,  # noqa: ARG003
        file_secret_settings: PydanticBaseSettingsSource,  # noqa: ARG003
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        """Put flags before the environment; :func:`load_config` puts the job file below both."""
        return init_settings, env_settings

    def options(self) -> dict[str, Any]:
        """Return every option as JSON values, for the manifest."""
        return {name: _plain(value) for name, value in self.model_dump().items()}

    def row_options(self) -> dict[str, Any]:
        """Return the options that decide what stands in the output, and in which files."""
        return {name: value for name, value in self.options().items() if name not in _NOT_IN_ROWS}

    def list_options(self) -> dict[str, Any]:
        """Return the options that decide a user's list, whatever the time, the partition and the columns beside it."""
        return {name: value for name, value in self.row_options().items() if name not in _NOT_IN_LISTS}

    def fingerprint(self) -> str:
        """SHA-256 over :meth:`row_options`."""
        return hashlib.sha256(json.dumps(self.row_options(), sort_keys=True).encode()).hexdigest()


_NOT_IN_ROWS = {
    *("users", "bundle", "feature_repo", "output", "run_id", "suppress"),  # places: what lies there has its own sums
    *("cluster", "memory_limit"),  # where rows are computed
    *("resume", "max_failed_share", "verify"),  # whether a run goes on or is published, not what is in it
    "since",  # what need not be computed again
    *("deadline", "time_budget"),  # a part made with less than was asked for is on record as such
    *("delta", "push", "push_view", "log_format", "metrics", "lineage"),  # what is done with it afterwards
}


_NOT_IN_LISTS = {
    "as_of",  # what was true then is compared itself
    *("user_id_column", "keep_columns"),  # columns of the users, always those of the run itself
    *("users_per_partition", "layout"),  # the same list in other files, in other rows
}


def load_config(flags: dict[str, Any], job_file: Path | None) -> JobConfig:
    """Merge flags, environment and job file, and check the result.

    Parameters
    ----------
    flags
        Options given on the command line; None stands for "not given".
    job_file
        TOML file of options, or None.

    Raises
    ------
    ConfigError
        If the job file cannot be read, holds an unknown key, or an option has a value it cannot have.
    """
    given = {name: value for name, value in flags.items() if value is not None}
    in_file = _read_job_file(job_file)
    in_environment = _options_in_environment()
    for name in in_file.keys() - in_environment.keys() - given.keys():
        given[name] = in_file[name]
    try:
        return JobConfig(**given)
    except ValidationError as error:
        first = error.errors()[0]
        name = str(first["loc"][0]) if first["loc"] else "options"
        where = _flag(name)
        if flags.get(name) is None and name in in_environment:
            where = in_environment[name]
        elif flags.get(name) is None and name in in_file:
            where = f"{name} in the job file {job_file}"
        raise _config_error(name, where, first) from error


def _read_job_file(path: Path | None) -> dict[str, Any]:
    if path is None:
        return {}
    try:
        with path.open("rb") as file:
            content = tomllib.load(file)
    except OSError as error:
        raise ConfigError(f"the job file {path} cannot be read ({error.strerror})", "name a TOML file") from error
    except (UnicodeDecodeError, RecursionError, tomllib.TOMLDecodeError) as error:
        raise ConfigError(f"the job file {path} is not TOML ({error})", "correct it, or name another") from error
    for name in content:
        if name not in JobConfig.model_fields:
            raise _unknown(f"the job file {path} has an unknown key {name!r}", name, str)
    return content


def _options_in_environment() -> dict[str, str]:
    """Name the environment variable of each option that is set there; empty ones do not count.

    Raises
    ------
    ConfigError
        If a variable has the prefix, but names no option.
    """
    found = {}
    for variable, value in os.environ.items():
        if not variable.upper().startswith(ENV_PREFIX) or not value or variable.upper() in OTHER_VARIABLES:
            continue
        name = variable[len(ENV_PREFIX) :].lower()
        if name not in JobConfig.model_fields:
            raise _unknown(f"the environment variable {variable} names no option", name, _variable)
        found[name] = variable
    return found


def _unknown(problem: str, name: str, shown: Callable[[str], str]) -> ConfigError:
    """Name the options there are, and the one that was perhaps meant."""
    near = difflib.get_close_matches(name, JobConfig.model_fields, 1)
    hint = f"did you mean {shown(near[0])}? Otherwise remove it" if near else "remove it"
    return ConfigError(f"{problem} (known: {', '.join(map(shown, sorted(JobConfig.model_fields)))})", hint)


def _config_error(name: str, where: str, found: ErrorDetails) -> ConfigError:
    if found["type"] == "missing":
        return ConfigError(f"{where} is missing", f"give it as a flag, as {_variable(name)}, or in the job file")
    reason = found["msg"].removeprefix("Value error, ")
    return ConfigError(f"{where} is {found['input']!r}: {reason[0].lower()}{reason[1:]}", "give another value")


def _flag(name: str) -> str:
    return "--" + name.replace("_", "-")


def _variable(name: str) -> str:
    return ENV_PREFIX + name.upper()


def _plain(value: object) -> Any:
    if isinstance(value, datetime):
        return value.isoformat()
    if isinstance(value, float) and math.isinf(value):
        return "inf"
    if isinstance(value, tuple):
        return list(value)
    return str(value) if isinstance(value, Path) else value
