import io
import subprocess
import sys

import pytest
from rich.console import Console

from batchrec.evaluate.metrics import METRICS
from batchrec.evaluate.report import Comparison, Figure, HoldoutSummary, Report, System

FIGURES = {name: Figure(0.123456789, 0.1, 0.2) for name in METRICS}
DIFFERENCES = {name: Figure(-0.0123456789, -0.1, 0.05) for name in METRICS}
LONG_NAME = "2024-05-01T02-00-00-a-name-with-[brackets]"


def report(names=("popularity", "retrieval", LONG_NAME)):
    return Report(
        k=10,
        resamples=1000,
        seed=0,
        catalogue_items=1682,
        holdout=HoldoutSummary(943, 20381, 88, 0, 0, 0),
        systems=tuple(System(name, 3, 1234567, FIGURES) for name in names),
        comparisons=tuple(Comparison(name, "popularity", DIFFERENCES) for name in names[1:]),
    )


def rendered(one):
    console = Console(width=100, record=True, file=io.StringIO())
    console.print(one.to_table())
    return console.export_text()


def test_the_table_fits_100_columns_and_cuts_nothing():
    text = rendered(report())
    assert max(map(len, text.splitlines())) <= 100
    assert "…" not in text
    assert text.count(" .1235") == 15
    assert text.count("(.100, .200)") == 15
    assert text.count("-.0123") == 10
    assert text.count("(-.100, +.050)") == 10
    for name in METRICS:
        assert f"{name}@10" in text


def test_the_table_says_who_was_counted():
    text = " ".join(rendered(report()).split())
    assert "943 users" in text
    assert "retrieval: 3 users without a list count as zeros; 1,234,567 without held-out items left out." in text
    assert "88 are of items outside the catalogue of 1,682" in text


def test_brackets_in_names_are_no_markup():
    first_column = "".join(line[:20].strip() for line in rendered(report()).splitlines())
    assert first_column.count(LONG_NAME) == 2
    assert f"{LONG_NAME}: 3 users" in " ".join(rendered(report()).split())


@pytest.mark.parametrize("value", [0.1 + 0.2, 0.3])
def test_json_does_not_depend_on_the_last_bits(value):
    figures = {name: Figure(value, -1e-17, value) for name in METRICS}
    one = Report(10, 1, 0, 5, HoldoutSummary(1, 1, 0, 0, 0, 0), (System("popularity", 0, 0, figures),), ())
    assert '"estimate": 0.3,\n          "low": 0.0,' in one.to_json()


def test_rich_is_imported_for_the_table_only():
    code = "import sys, batchrec.evaluate; sys.exit('rich' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
