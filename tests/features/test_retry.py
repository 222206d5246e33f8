"""A join that fails in a way that may pass is asked again; any other failure is raised at once."""

import shutil

import duckdb
import feast
import ibis
import pyarrow as pa
import pytest

from batchrec.errors import FeatureError
from batchrec.features.retry import WAITS, retried
from batchrec.features.store import FeatureRef, FeatureStore
from tests.features import flaky_store
from tests.features.conftest import configure, day

PRICE = FeatureRef("item_features", "price", "double")


@pytest.fixture
def slept(monkeypatch):
    seconds = []
    monkeypatch.setattr("batchrec.features.retry.time.sleep", seconds.append)
    return seconds


@pytest.fixture
def flaky(repo, tmp_path, monkeypatch):
    monkeypatch.setattr(flaky_store, "calls", [])

    def opened(**options):
        shutil.copytree(repo.path, tmp_path / "repo")
        configure(tmp_path / "repo", offline="tests.features.flaky_store.FlakyOfflineStore", **options)
        return FeatureStore.open(tmp_path / "repo")

    return opened


def test_a_store_that_fails_every_third_time_loses_nothing(flaky, slept, capfd):
    store = flaky()
    for _ in range(6):
        assert store.point_in_time(pa.array([10, 20]), day(0), [PRICE])["price"].to_pylist() == [1.5, None]
    assert flaky_store.calls == [False, False, True] * 2 + [False, False]
    assert slept == [WAITS[0]] * 2
    said = capfd.readouterr().err.splitlines()
    assert len(said) == 2
    assert "joining item_features failed (OSError: the store is away); try 2 of 3 in" in said[0]


def test_a_store_that_stays_away_is_an_error_after_three_tries(flaky, slept, capfd):
    store = flaky(fails_every=1)
    with pytest.raises(FeatureError, match="OSError: the store is away"):
        store.point_in_time(pa.array([10]), day(0), [PRICE])
    assert flaky_store.calls == [True, True, True]
    assert slept == list(WAITS)
    assert slept[0] < slept[1]
    assert len(capfd.readouterr().err.splitlines()) == 2


@pytest.mark.parametrize(
    "error",
    [
        ValueError("no"),
        pa.ArrowInvalid("not a Parquet file"),
        TypeError("no"),
        KeyError("x"),
        AttributeError("x"),
        NotImplementedError("no"),
        duckdb.BinderException("no such column"),
        duckdb.CatalogException("no such table"),
        duckdb.InvalidInputException("no magic bytes"),
        duckdb.ParserException("syntax"),
        duckdb.ConversionException("not a number"),
        ibis.common.exceptions.IbisTypeError("no such column"),
        feast.errors.FeatureViewNotFoundException("v"),
    ],
)
def test_what_cannot_pass_is_raised_at_once(error, slept, capfd):
    calls = []

    def call():
        calls.append(1)
        raise error

    with pytest.raises(type(error)):
        retried(call, "joining", WAITS)
    assert len(calls) == 1
    assert slept == []
    assert capfd.readouterr().err == ""


@pytest.mark.parametrize("error", [OSError(), TimeoutError(), duckdb.IOException("s"), duckdb.HTTPException("s")])
def test_what_may_pass_is_tried_again(error, slept):
    left = [error, error]

    def call():
        if left:
            raise left.pop()
        return 5

    assert retried(call, "joining", WAITS) == 5
