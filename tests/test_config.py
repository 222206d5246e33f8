"""Flags before environment before job file, and the same defaults wherever they are told."""

from datetime import UTC, datetime, timedelta, timezone
from pathlib import Path

import pytest

from batchrec.config import JobConfig, load_config
from batchrec.errors import ConfigError

NEEDED = {"users": "users.parquet", "bundle": "bundle"}


@pytest.fixture(autouse=True)
def clean_environment(monkeypatch):
    import os

    for name in list(os.environ):
        if name.startswith("BATCHREC_"):
            monkeypatch.delenv(name)


@pytest.fixture
def job_file(tmp_path):
    def write(text):
        path = tmp_path / "job.toml"
        path.write_text(text)
        return path

    return write


def test_flags_win_over_environment_and_environment_over_the_job_file(monkeypatch, job_file):
    path = job_file('top_k = 1\nseed = 1\nlayout = "long"')
    monkeypatch.setenv("BATCHREC_TOP_K", "2")
    monkeypatch.setenv("BATCHREC_SEED", "2")
    found = load_config(NEEDED | {"top_k": 3, "seed": None, "layout": None}, path)
    assert (found.top_k, found.seed, found.layout, found.candidates) == (3, 2, "long", 100)


def test_everything_can_come_from_the_job_file(job_file):
    path = job_file(
        'users = "u"\nbundle = "b"\nas_of = 2026-01-02T03:04:05+01:00\ntemperature = inf\ncandidates = 50\n'
        'fallback = "none"\nrank_by = "retrieval"\noutput = "o"\nrun_id = "r"\nusers_per_partition = 9'
    )
    found = load_config({}, path)
    assert found.bundle == Path("b")
    assert found.as_of == datetime(2026, 1, 2, 2, 4, 5, tzinfo=UTC)
    assert found.temperature == float("inf")
    assert (found.candidates, found.fallback, found.rank_by) == (50, "none", "retrieval")
    assert (found.output, found.run_id, found.users_per_partition) == ("o", "r", 9)


def test_everything_can_come_from_the_environment(monkeypatch):
    values = {"USERS": "u", "BUNDLE": "b", "AS_OF": "2026-01-02", "TEMPERATURE": "inf", "USERS_PER_PARTITION": "9"}
    for name, value in values.items():
        monkeypatch.setenv(f"BATCHREC_{name}", value)
    found = load_config({}, None)
    assert (found.users, found.as_of, found.users_per_partition) == ("u", datetime(2026, 1, 2, tzinfo=UTC), 9)


def test_an_empty_variable_is_none(monkeypatch, job_file):
    monkeypatch.setenv("BATCHREC_SEED", "")
    assert load_config(NEEDED, None).seed == 0
    assert load_config(NEEDED, job_file("seed = 5")).seed == 5


def test_a_bundle_of_this_machine_by_its_url():
    assert load_config(NEEDED | {"bundle": "file:///a%20b/c"}, None).bundle == Path("/a b/c")
    assert load_config(NEEDED | {"bundle": "s3://a/c"}, None).bundle == "s3://a/c"


def test_variables_of_the_feature_repository_and_the_tests_are_none_of_ours(monkeypatch):
    monkeypatch.setenv("BATCHREC_DATA", "/data")
    monkeypatch.setenv("BATCHREC_FEATURE_DATA", "/data")
    assert load_config(NEEDED, None).users == "users.parquet"


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ("2026-03-01", datetime(2026, 3, 1, tzinfo=UTC)),
        ("2026-03-01 06:30", datetime(2026, 3, 1, 6, 30, tzinfo=UTC)),
        ("2026-03-01T06:30:00Z", datetime(2026, 3, 1, 6, 30, tzinfo=UTC)),
        ("2026-03-01T06:30-02:00", datetime(2026, 3, 1, 8, 30, tzinfo=UTC)),
    ],
)
def test_times_are_utc_unless_they_say_otherwise(given, expected, job_file):
    found = load_config(NEEDED | {"as_of": given}, None)
    assert found.as_of == expected
    assert found.as_of.utcoffset() == timedelta(0)
    toml = given if given == "2026-03-01" else given.replace(" ", "T") + (":00" if given.endswith(":30") else "")
    if "-02:00" not in given:
        assert load_config(NEEDED, job_file(f"as_of = {toml}")).as_of == expected


def test_the_same_moment_has_one_fingerprint():
    moment = datetime(2026, 3, 1, 12, tzinfo=UTC)
    elsewhere = moment.astimezone(timezone(timedelta(hours=5)))
    one, other = (load_config(NEEDED | {"as_of": time.isoformat()}, None) for time in (moment, elsewhere))
    assert one.fingerprint() == other.fingerprint()


@pytest.mark.parametrize("name", sorted(JobConfig.model_fields))
def test_the_fingerprint_tells_what_changes_rows_and_not_where_things_lie(name):
    other = {
        "as_of": "2026-01-01", "candidates": 99, "fallback": "none", "layout": "long", "rank_by": "retrieval",
        "seed": 1, "temperature": 1.5, "top_k": 9, "user_id_column": "id", "users_per_partition": 5,
        "keep_columns": "age", "users": "x", "bundle": "x", "feature_repo": "x", "output": "x", "run_id": "x",
        "resume": True, "suppress": "x", "max_failed_share": 0.5, "verify": False,
        "cluster": "processes:2", "memory_limit": "4GB", "push": True, "push_view": "x", "metrics": "x",
        "deadline": "04:00", "time_budget": "90m",
        "log_format": "json", "lineage": "x",
        "delta": "x", "since": "x",
        "device": "cpu", "precision": "bf16", "index_storage": "fp16", "index_gpus": 2,
    }  # fmt: skip
    before, after = load_config(NEEDED, None), load_config(NEEDED | {name: other[name]}, None)
    is_place = name in {"users", "bundle", "feature_repo", "output", "run_id", "suppress"}
    decides_no_row = name in {
        "resume", "max_failed_share", "verify", "cluster", "memory_limit", "push", "push_view", "metrics", "log_format",
        "lineage", "deadline", "time_budget", "delta", "since",
    }  # fmt: skip
    assert (before.fingerprint() == after.fingerprint()) is (is_place or decides_no_row)


def test_options_are_json(tmp_path):
    import json

    found = load_config(NEEDED | {"as_of": "2026-01-01", "temperature": "inf"}, None)
    options = json.loads(json.dumps(found.options(), allow_nan=False))
    assert options["as_of"] == "2026-01-01T00:00:00+00:00"
    assert options["temperature"] == "inf"
    assert set(options) == set(JobConfig.model_fields)


def test_a_value_is_blamed_on_where_it_came_from(monkeypatch, job_file):
    path = job_file("candidates = 0")
    with pytest.raises(ConfigError, match=f"^candidates in the job file {path} is 0: "):
        load_config(NEEDED, path)
    monkeypatch.setenv("BATCHREC_CANDIDATES", "-5")
    with pytest.raises(ConfigError, match=r"^BATCHREC_CANDIDATES is '-5': "):
        load_config(NEEDED, path)
    with pytest.raises(ConfigError, match=r"^--candidates is -7: "):
        load_config(NEEDED | {"candidates": -7}, path)


@pytest.mark.parametrize("given", ["age,plan", " age , plan ", ["age", "plan"], ("age", "plan")])
def test_kept_columns_are_names_or_one_text(given):
    assert load_config(NEEDED | {"keep_columns": given}, None).keep_columns == ("age", "plan")


def test_kept_columns_from_flag_variable_and_job_file(monkeypatch, job_file):
    assert load_config(NEEDED, None).keep_columns == ()
    assert load_config(NEEDED, job_file('keep_columns = "a,b"')).keep_columns == ("a", "b")
    path = job_file('keep_columns = ["a", "b,c"]')
    assert load_config(NEEDED, path).keep_columns == ("a", "b,c")
    monkeypatch.setenv("BATCHREC_KEEP_COLUMNS", "d,e")
    assert load_config(NEEDED, path).keep_columns == ("d", "e")
    assert load_config(NEEDED | {"keep_columns": ""}, path).keep_columns == ()


@pytest.mark.parametrize(
    ("given", "problem"),
    [
        ("a,b,a", "'a' is named twice"),
        ("a,,b", "a name is empty"),
        ("a,uid", "'uid' is the id column"),
        *((name, f"'{name}' is the name of an output column") for name in ("user_id", "status", "rank", "propensity")),
    ],
)
def test_names_that_cannot_stand_beside_the_output(given, problem):
    with pytest.raises(ConfigError, match=f"^--keep-columns is '{given}': {problem}"):
        load_config(NEEDED | {"user_id_column": "uid", "keep_columns": given}, None)


@pytest.mark.parametrize("given", ['"04:00"', "04:00:00"])
def test_a_deadline_is_the_next_such_time(job_file, given):
    found = load_config(NEEDED, job_file(f"deadline = {given}")).deadline
    now = datetime.now(UTC)
    assert now < found <= now + timedelta(days=1, hours=1)
    assert (found.astimezone().hour, found.astimezone().minute) == (4, 0)


@pytest.mark.parametrize("given", ["2030-01-02T04:00:00+01:00", '"2030-01-02T03:00Z"'])
def test_a_deadline_may_have_a_date(job_file, given):
    assert load_config(NEEDED, job_file(f"deadline = {given}")).deadline == datetime(2030, 1, 2, 3, tzinfo=UTC)


@pytest.mark.parametrize(("given", "seconds"), [('"90m"', 5400), ("5400", 5400), ("0.5", 0.5)])
def test_a_time_budget_is_seconds_or_a_text(job_file, given, seconds):
    assert load_config(NEEDED, job_file(f"time_budget = {given}")).time_budget == seconds


@pytest.mark.parametrize("given", ["0", "-5", "nan", "inf", "soon", "9000h"])
def test_what_is_no_time_budget(given):
    with pytest.raises(ConfigError, match=r"^--time-budget is "):
        load_config(NEEDED | {"time_budget": given}, None)


def test_a_deadline_and_a_time_budget_are_one_too_many(monkeypatch, job_file):
    monkeypatch.setenv("BATCHREC_DEADLINE", "04:00")
    with pytest.raises(ConfigError, match=r"time_budget in the job file .* there is a deadline already"):
        load_config(NEEDED, job_file('time_budget = "90m"'))
