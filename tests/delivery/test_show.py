"""Lists for the eye."""

import re

import pytest


@pytest.fixture(scope="module")
def runs(world, tmp_path_factory):
    from tests.runs import command

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
