"""Lists for the eye."""

import os
import re

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from tests.evaluate.support import publish, write_items
from tests.runs import command


@pytest.fixture(scope="module")
def runs(world, tmp_path_factory):
    folder = tmp_path_factory.mktemp("show")
    process = command(*world.args(folder, "--run-id=lists"))
    _, err = process.communicate(timeout=180)
    assert process.returncode == 0, err
    return folder


def test_five_users_with_titles(world, runs, batchrec):
    said = batchrec("show", runs / "current", "--items", world.data / "items.parquet")
    assert said.code == 0, said.err
    shown = [str(user) for user in sorted(world.ids())[:6]]
    assert [user in said.out for user in shown] == [True] * 5 + [False]
    assert re.search(r" 1\. brand \d+ · [\w-]+ \d{4}", said.out)
    assert "run lists, as of " in said.out


def test_ids_where_there_are_no_titles(world, runs, batchrec):
    said = batchrec("show", runs / "lists", "--users", "1")
    assert said.code == 0
    assert len(re.findall(r"\d+\. \d{8}  \(", said.out)) == 10


def test_what_cannot_be_shown(world, runs, batchrec, tmp_path):
    for args, words in (
        ([tmp_path], "_manifest.json"),
        ([runs / "lists", "--items", "/nowhere.parquet"], "/nowhere.parquet"),
        ([runs / "lists", "--items", world.data / "users.parquet"], "title"),
    ):
        said = batchrec("show", *args)
        assert (said.code, said.out) == (2, ""), said.err
        assert words in said.err
        assert said.err.count("\n") == 1


def test_long_layout_is_refused(world, batchrec, tmp_path):
    assert batchrec(*world.args(tmp_path), "--layout=long", "--run-id=r").code == 0
    said = batchrec("show", tmp_path / "r")
    assert said.code == 2
    assert "layout long" in said.err


def test_a_missing_part_is_refused(batchrec, tmp_path):
    run = publish(tmp_path / "r", {user: ["a"] for user in range(40)}, parts=4)
    (run / "part-00003.parquet").unlink()
    said = batchrec("show", run, "--users", "1")
    assert (said.code, said.out) == (2, "")
    assert "part-00003.parquet is missing" in said.err


def test_a_damaged_part_is_refused(batchrec, tmp_path):
    run = publish(tmp_path / "r", {1: ["a"], 2: ["b"]}, parts=2)
    part = run / "part-00001.parquet"
    part.write_bytes(part.read_bytes()[:-4])
    said = batchrec("show", run)
    assert (said.code, said.out) == (2, "")
    assert "part-00001.parquet is damaged" in said.err
    assert said.err.count("\n") == 1


WORDS = [
    "Song [remix]",
    "[/bold] x [red]",
    "[red]",
    "[link=file:///etc]x[/link]",
    ":smile:",
    "back\\[bold]slash",
    "5 < 6",
]


@pytest.mark.parametrize("word", WORDS)
def test_ids_and_titles_are_no_markup(batchrec, tmp_path, word):
    run = publish(tmp_path / "r", {word: [word, "b"]})
    assert batchrec("show", run).out.count(word) == 2
    items = tmp_path / "items.parquet"
    pq.write_table(pa.table({"item_id": [word, "b"], "title": [word * 2, "B"]}), items)
    shown = batchrec("show", run, "--items", items).out
    assert shown.count(word) == 3
    assert " 2. B  (0.00)" in shown


def test_the_name_of_the_run_is_no_markup(batchrec, tmp_path):
    shown = batchrec("show", publish(tmp_path / "[red]x", {1: ["a"]})).out
    assert "run [red]x, as of 2026-02-03" in " ".join(shown.split())


@pytest.mark.parametrize(
    ("character", "stand_in"),
    [
        ("\n", r"\n"), ("\r", r"\r"), ("\t", r"\t"), ("\0", r"\x00"), ("\x1b[2J", r"\x1b[2J"), ("\x7f", r"\x7f"),
        ("\x9b2J", r"\x9b2J"), ("\u2028", r"\u2028"), ("\u202e", r"\u202e"), ("\b", r"\x08"),
    ],
)  # fmt: skip
def test_control_characters_are_written_out(batchrec, tmp_path, character, stand_in):
    word = f"a{character}b"
    shown = batchrec("show", publish(tmp_path / "r", {word: [word]})).out
    assert shown.count(f"a{stand_in}b") == 2
    assert word not in shown
    assert len(shown.splitlines()) == len(batchrec("show", publish(tmp_path / "s", {"ab": ["ab"]})).out.splitlines())


def test_letters_of_any_script_stand_as_they_are(batchrec, tmp_path):
    words = ["Ærø ñ", "東京", "क्\u200dष"]
    shown = batchrec("show", publish(tmp_path / "r", {"u": words})).out
    assert all(word in shown for word in words)


def test_standard_output_that_is_closed(tmp_path):
    run = publish(tmp_path / "r", {1: [5, 6]})
    write_items(tmp_path / "items.parquet", [5, 6])
    pq.write_table(pa.table({"user_id": [1], "item_id": [5]}), tmp_path / "pairs.parquet")
    evaluate = (
        "evaluate",
        run,
        "--k=1",
        *(f"--{name}={tmp_path}/pairs.parquet" for name in ("holdout", "interactions")),
    )
    for args in (("show", run), (*evaluate, f"--items={tmp_path}/items.parquet")):
        process = command(*args, stdout=None, preexec_fn=lambda: os.close(1))
        _, err = process.communicate(timeout=60)
        assert (process.returncode, err) == (0, "")
