"""The options of a run: command-line flags, then ``BATCHREC_*`` environment variables, then the job file."""

from __future__ import annotations

import difflib
import hashlib
import json
import math
import tomllib
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Literal

from pydantic import AwareDatetime, Field, ValidationError, field_validator
from pydantic_settings import BaseSettings, PydanticBaseSettingsSource, SettingsConfigDict

from batchrec.errors import ConfigError

ENV_PREFIX = "BATCHREC_"


class JobConfig(BaseSettings):
    """Everything that one ``batchrec run`` can be told. Each field is a flag, a variable and a key of the job file."""

    model_config = SettingsConfigDict(env_prefix=ENV_PREFIX, extra="forbid", frozen=True, validate_default=True)

    users: str = Field(description="Parquet file, directory, glob or fsspec URL with the ids of the users to serve")
    bundle: Path = Field(description="folder with the trained models, written by `batchrec train`")
    feature_repo: Path = Field(Path("feature_repo"), description="Feast repository that has been applied")
    user_id_column: str = Field("user_id", description="column of the users file that holds the ids")
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
    output: str = Field("output", description="folder of all runs; must be local")
    run_id: str | None = Field(None, description="name of the run's folder; default the as-of time")
    users_per_partition: int = Field(
        10_000, ge=1, le=2**24, description="users that are computed together, one part file"
    )
    layout: Literal["list", "long"] = Field("list", description="one row a user (list) or one row an item (long)")

    @field_validator("as_of", mode="before")
    @classmethod
    def _utc_unless_said(cls, value: object) -> object:
        """Read a bare date or time as UTC."""
        if isinstance(value, str):
            value = datetime.fromisoformat(value)
        if isinstance(value, datetime) and value.tzinfo is None:
            return value.replace(tzinfo=UTC)
        return value

    @field_validator("temperature")
    @classmethod
    def _a_number(cls, value: float) -> float:
        if math.isnan(value):
            raise ValueError("must be a number above 0, or inf")
        return value

    @field_validator("top_k")
    @classmethod
    def _no_more_than_candidates(cls, value: int, info: Any) -> int:
        if value > info.data.get("candidates", value):
            raise ValueError(f"a list of {value} cannot be chosen among {info.data['candidates']} candidates")
        return value

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,
        dotenv_settings: PydanticBaseSettingsSource,
        file_secret_settings: PydanticBaseSettingsSource,
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        """Flags before environment; the job file is merged below both by :func:`load_config`."""
        return init_settings, env_settings

    def options(self) -> dict[str, Any]:
        """Return every option as JSON values, for the manifest."""
        return {name: _plain(value) for name, value in self.model_dump().items()}

    def fingerprint(self) -> str:
        """SHA-256 over the options that decide what stands in the output, and in which files."""
        rows = {name: value for name, value in self.options().items() if name not in _NOT_IN_ROWS}
        return hashlib.sha256(json.dumps(rows, sort_keys=True).encode()).hexdigest()


_NOT_IN_ROWS = {"users", "bundle", "feature_repo", "output", "run_id"}
"""Places, not content: what lies there has fingerprints of its own."""


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
    for name, value in _read_job_file(job_file).items():
        if name not in given and not _in_environment(name):
            given[name] = value
    try:
        return JobConfig(**given)
    except ValidationError as error:
        raise _config_error(error) from error


def _read_job_file(path: Path | None) -> dict[str, Any]:
    if path is None:
        return {}
    try:
        with path.open("rb") as file:
            content = tomllib.load(file)
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        raise ConfigError(
            f"the job file {path} cannot be read as TOML ({error})", "correct it, or name another"
        ) from error
    for name in content:
        if name not in JobConfig.model_fields:
            near = difflib.get_close_matches(name, JobConfig.model_fields, 1)
            hint = f"did you mean {near[0]!r}? Otherwise remove it" if near else "remove it"
            known = ", ".join(sorted(JobConfig.model_fields))
            raise ConfigError(f"the job file {path} has an unknown key {name!r} (known: {known})", hint)
    return content


def _in_environment(name: str) -> bool:
    import os

    return f"{ENV_PREFIX}{name}".upper() in {key.upper() for key in os.environ}


def _config_error(error: ValidationError) -> ConfigError:
    first = error.errors()[0]
    name = str(first["loc"][0]) if first["loc"] else "options"
    flag = "--" + name.replace("_", "-")
    if first["type"] == "missing":
        return ConfigError(
            f"{flag} is missing", f"give it as a flag, as {ENV_PREFIX}{name.upper()}, or in the job file"
        )
    return ConfigError(
        f"{flag} is {first['input']!r}: {first['msg'][0].lower()}{first['msg'][1:]}", "give another value"
    )


def _plain(value: object) -> Any:
    if isinstance(value, datetime):
        return value.astimezone(UTC).isoformat()
    if isinstance(value, float) and math.isinf(value):
        return "inf"
    return str(value) if isinstance(value, Path) else value
