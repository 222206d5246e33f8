"""Bad input through the real command line: one sentence that names the thing and the remedy, and nothing written."""

import json
import os
import re
import shutil

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from tests.runs import command, tree

USAGE = 2


@pytest.fixture(scope="module")
def output(world, tmp_path_factory):
    """An output folder that holds a published run and a link to it."""
    folder = tmp_path_factory.mktemp("bad") / "output"
    process = command(*world.args(folder, "--run-id=good"))
    out, err = process.communicate(timeout=180)
    assert process.returncode == 0, err
    assert json.loads(out.splitlines()[-1])["run_id"] == "good"
    return folder


def refused(said, code, *words):
    """One line on standard error, in the documented form, with these words in it."""
    assert said.code == code, said.err
    assert said.out == ""
    lines = [line for line in said.err.splitlines() if not re.match(r"\d\d:\d\d:\d\d ", line)]
    assert len(lines) == 1, said.err
    assert lines[0].startswith("batchrec: error: ")
    assert lines[0].endswith(".")
    for word in words:
        assert str(word) in lines[0]


@pytest.fixture
def run_refused(world, output, batchrec):
    """Run with changed arguments; check the sentence, and that the output folder is as it was."""

    def run(code, words, *changed, without=()):
        before = tree(output.parent)
        args = [arg for arg in world.args(output) if not arg.startswith(tuple(f"--{name}=" for name in without))]
        refused(batchrec(*args, *changed), code, *words)
        assert tree(output.parent) == before

    return run


def write_users(path, column, name="user_id"):
    pq.write_table(pa.table({name: column}), path)
    return f"--users={path}"


# Users


def test_users_missing(run_refused, tmp_path):
    run_refused(USAGE, [tmp_path / "none.parquet", "does not exist"], f"--users={tmp_path / 'none.parquet'}")


def test_users_not_parquet(run_refused, tmp_path):
    path = tmp_path / "users.csv"
    path.write_text("user_id\n1\n2\n")
    run_refused(USAGE, [path, "not a readable Parquet file"], f"--users={path}")


def test_users_cut_short(run_refused, tmp_path, world):
    path = tmp_path / "users.parquet"
    path.write_bytes((world.data / "users.parquet").read_bytes()[:-100])
    run_refused(USAGE, [path, "not a readable Parquet file"], f"--users={path}")


def test_users_not_readable(run_refused, tmp_path, world):
    if os.geteuid() == 0:
        pytest.skip("root may read everything")
    path = tmp_path / "users.parquet"
    shutil.copy(world.data / "users.parquet", path)
    path.chmod(0)
    run_refused(USAGE, [path, "may not be read"], f"--users={path}")


def test_no_user_id_column(run_refused, tmp_path):
    given = write_users(tmp_path / "users.parquet", pa.array([1, 2]), "customer")
    run_refused(USAGE, ["'user_id'", "customer"], given)


def test_kept_column_that_is_not_there(run_refused, tmp_path, world):
    users = write_users(tmp_path / "users.parquet", pa.array(world.ids()))
    run_refused(USAGE, ["users.parquet", "'plan'", "its columns: user_id"], users, "--keep-columns=plan")
    run_refused(USAGE, ["--keep-columns", "'scores'", "output column"], users, "--keep-columns=scores")


@pytest.mark.parametrize(
    "column", [pa.array([1.5, 2.0]), pa.array([True, False]), pa.array([b"a"]), pa.array([[1], [2]])]
)
def test_column_that_holds_no_ids(run_refused, tmp_path, column):
    given = write_users(tmp_path / "users.parquet", column)
    run_refused(USAGE, ["'user_id'", str(column.type).split("<")[0], "cast it"], given)


def test_ids_of_the_wrong_kind(run_refused, tmp_path, world):
    given = write_users(tmp_path / "users.parquet", pa.array(["a", "b"]))
    run_refused(USAGE, ["string", "int64", world.bundle, "cast the column"], given)


@pytest.mark.parametrize("column", [pa.array([], pa.int64()), pa.array([None, None], pa.int64())])
def test_no_ids_at_all(run_refused, tmp_path, column):
    run_refused(USAGE, ["holds no", "give at least one user"], write_users(tmp_path / "users.parquet", column))


def test_unknown_kind_of_url(run_refused):
    run_refused(USAGE, ["nowhere://users.parquet"], "--users=nowhere://users.parquet")


def test_empty_folder_of_users(run_refused, tmp_path):
    run_refused(USAGE, [tmp_path, "without Parquet files"], f"--users={tmp_path}")


# Options, environment, job file


@pytest.mark.parametrize(
    ("flag", "words"),
    [
        ("--as-of=garbage", ["--as-of", "garbage", "ISO 8601"]),
        ("--temperature=0", ["--temperature", "0"]),
        ("--temperature=-1", ["--temperature", "-1"]),
        ("--temperature=nan", ["--temperature", "nan"]),
        ("--temperature=-inf", ["--temperature", "-inf"]),
        ("--top-k=0", ["--top-k", "0"]),
        ("--top-k=31", ["--top-k", "31", "30 candidates"]),
        ("--top-k=many", ["--top-k", "integer"]),
        ("--candidates=0", ["--candidates"]),
        ("--seed=-1", ["--seed"]),
        ("--users-per-partition=0", ["--users-per-partition"]),
        ("--layout=wide", ["--layout", "'wide'", "'list'", "'long'"]),
        ("--rank-by=magic", ["--rank-by", "'magic'"]),
        ("--run-id=../x", ["--run-id", "'../x'"]),
        ("--run-id=", ["--run-id", "''"]),
        ("--run-id=current", ["--run-id", "current"]),
        ("--output=nowhere://bucket/runs", ["nowhere://bucket/runs", "fsspec"]),
        ("--suppress=", ["--suppress", "a name is empty"]),
        ("--output=", ["--output", "it is empty"]),
        ("--users=", ["--users", "it is empty"]),
        ("--cluster=tcp://127.0.0.1:99999", ["--cluster", "tls://host:port"]),
        ("--max-failed-share=1.5", ["--max-failed-share", "1.5"]),
        ("--as-of=1990-01-01", ["items has features as of 1990-01-01", "--as-of"]),
        ("--no-such-flag", ["--no-such-flag", "--help"]),
        ("surplus", ["surplus", "--help"]),
    ],
)
def test_options_that_cannot_be(run_refused, flag, words):
    run_refused(USAGE, words, flag)


@pytest.mark.parametrize("name", ["users", "bundle"])
def test_what_must_be_given(run_refused, name):
    run_refused(USAGE, [f"--{name} is missing", f"BATCHREC_{name.upper()}"], without=[name])


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ("top_q = 5", ["unknown key 'top_q'", "did you mean top_k"]),
        ("[run]\ntop_k = 5", ["unknown key 'run'"]),
        ("top_k = ", ["is not TOML"]),
        ("seed = 'abc'", ["seed in the job file", "'abc'"]),
        ("layout = 'wide'", ["layout in the job file", "'wide'"]),
    ],
)
def test_job_files_that_cannot_be(run_refused, tmp_path, content, words):
    path = tmp_path / "job.toml"
    path.write_text(content)
    run_refused(USAGE, [path, *words], f"--config={path}")


def test_job_file_that_is_no_file(run_refused, tmp_path):
    run_refused(USAGE, [tmp_path, "cannot be read"], f"--config={tmp_path}")
    run_refused(USAGE, [tmp_path / "none.toml", "cannot be read"], f"--config={tmp_path / 'none.toml'}")


def test_environment_variables_that_cannot_be(run_refused, monkeypatch):
    monkeypatch.setenv("BATCHREC_TOP_K", "abc")
    run_refused(USAGE, ["BATCHREC_TOP_K", "'abc'"])
    monkeypatch.delenv("BATCHREC_TOP_K")
    monkeypatch.setenv("BATCHREC_TOPK", "5")
    run_refused(USAGE, ["BATCHREC_TOPK", "did you mean BATCHREC_TOP_K"])


# Bundle


@pytest.fixture
def bundle(world, tmp_path):
    """A copy of the bundle to damage."""
    return shutil.copytree(world.bundle, tmp_path / "bundle")


def redescribe(bundle, change):
    """Change bundle.json and sum all files anew, as somebody does who assembles a bundle wrongly."""
    from batchrec.models.bundle import write_format

    content = json.loads((bundle / "bundle.json").read_text())
    files = list(content.pop("files"))
    change(content)
    write_format(bundle, content, files)


def test_bundle_missing(run_refused, tmp_path):
    run_refused(USAGE, [tmp_path / "none", "is not a bundle"], f"--bundle={tmp_path / 'none'}")
    run_refused(USAGE, [tmp_path, "bundle.json"], f"--bundle={tmp_path}")


@pytest.mark.parametrize("name", ["ranker.keras", "query_tower.keras", "index.faiss", "item_embeddings.parquet"])
def test_bundle_with_a_flipped_byte(run_refused, bundle, name):
    data = bytearray((bundle / name).read_bytes())
    data[len(data) // 2] ^= 1
    (bundle / name).write_bytes(bytes(data))
    run_refused(USAGE, [bundle / name, "damaged"], f"--bundle={bundle}")


def test_bundle_with_a_missing_file(run_refused, bundle):
    (bundle / "ranker.keras").unlink()
    run_refused(USAGE, [bundle, "ranker.keras"], f"--bundle={bundle}")


@pytest.mark.parametrize("text", ["", "{", "[]", "{}", '{"format": 99}'])
def test_bundle_description_damaged(run_refused, bundle, text):
    (bundle / "bundle.json").write_text(text)
    run_refused(USAGE, [bundle, "batchrec train"], f"--bundle={bundle}")


def test_bundle_without_an_index(run_refused, bundle):
    redescribe(bundle, lambda content: content.update(index=None))
    run_refused(USAGE, [bundle, "no index", f"batchrec index {bundle}"], f"--bundle={bundle}")


def test_index_of_another_dimension(run_refused, bundle):
    import faiss

    index = faiss.IndexFlatIP(5)
    index.add(np.zeros((300, 5), np.float32))
    faiss.write_index(index, str(bundle / "index.faiss"))
    redescribe(bundle, lambda content: None)
    run_refused(USAGE, ["index.faiss", "dimension 5", "dimension 8", "batchrec index"], f"--bundle={bundle}")


def test_index_of_another_catalogue(run_refused, bundle):
    import faiss

    index = faiss.IndexFlatIP(8)
    index.add(np.zeros((299, 8), np.float32))
    faiss.write_index(index, str(bundle / "index.faiss"))
    redescribe(bundle, lambda content: None)
    run_refused(USAGE, ["index.faiss", "299", "300", "batchrec index"], f"--bundle={bundle}")


def test_bundle_that_wants_a_feature_the_view_has_not(run_refused, bundle):
    def change(content):
        for model, inputs in (("query_tower", "inputs"), ("ranker", "user_inputs")):
            content[model][inputs][0]["feature"] = "shoe_size"

    redescribe(bundle, change)
    run_refused(USAGE, ["user_features", "shoe_size", "int64", "user_gender"], f"--bundle={bundle}")


def test_bundle_that_wants_a_feature_of_another_dtype(run_refused, bundle):
    def change(content):
        content["ranker"]["item_inputs"][0]["dtype"] = "string"

    redescribe(bundle, change)
    words = ["item_features:item_category", "expected string", "has dtype int64"]
    run_refused(USAGE, words, f"--bundle={bundle}")


def test_bundle_that_wants_a_view_that_is_not(run_refused, bundle):
    redescribe(bundle, lambda content: content["seen"].update(view="purchases"))
    run_refused(USAGE, ["'purchases'", "it has", "item_id_seen"], f"--bundle={bundle}")


def test_model_that_reads_other_inputs(run_refused, bundle):
    redescribe(bundle, lambda content: content["ranker"].update(item_code=None))
    run_refused(USAGE, ["ranker.keras", "item_code"], f"--bundle={bundle}")


def test_model_that_is_none(run_refused, bundle):
    (bundle / "ranker.keras").write_text("not a model")
    redescribe(bundle, lambda content: None)
    run_refused(USAGE, ["ranker.keras", "Keras"], f"--bundle={bundle}")


def test_history_of_another_length(run_refused, bundle):
    """Found only when the model is called, inside a worker."""
    redescribe(bundle, lambda content: content["query_tower"].update(history_length=7))
    run_refused(USAGE, ["query_tower.keras", "history"], f"--bundle={bundle}")


# Feature repository


@pytest.mark.parametrize("missing", ["folder", "feature_store.yaml", "registry"])
def test_repository_that_is_none(run_refused, world, tmp_path, missing):
    repo = tmp_path / "repo"
    if missing != "folder":
        shutil.copytree(world.repo, repo, ignore=shutil.ignore_patterns("data", "__pycache__"))
    if missing == "feature_store.yaml":
        (repo / "feature_store.yaml").unlink()
    words = [repo, "feature_store.yaml" if missing != "registry" else f"feast -c {repo} apply"]
    run_refused(USAGE, words, f"--feature-repo={repo}")


def test_feature_file_that_is_gone(run_refused, world):
    path = world.data / "item_id_seen.parquet"
    away = path.rename(path.with_suffix(".away"))
    try:
        run_refused(USAGE, ["item_id_seen", path])
    finally:
        away.rename(path)


# Output


def test_run_that_is_published_already(run_refused, output):
    run_refused(USAGE, [output / "good", "already holds a published run", "--run-id"], "--run-id=good")


def test_output_that_is_a_file(run_refused, tmp_path):
    (tmp_path / "file").touch()
    run_refused(1, [tmp_path / "file"], f"--output={tmp_path / 'file'}")


def test_output_that_may_not_be_written(run_refused, tmp_path):
    if os.geteuid() == 0:
        pytest.skip("root may write everywhere")
    folder = tmp_path / "locked"
    folder.mkdir(mode=0o555)
    run_refused(1, [folder, "writable"], f"--output={folder}")


def test_output_with_a_foreign_file(run_refused, output, tmp_path):
    folder = tmp_path / "runs" / "mine"
    folder.mkdir(parents=True)
    (folder / "thesis.txt").write_text("years of work")
    run_refused(1, [folder, "thesis.txt"], f"--output={tmp_path / 'runs'}", "--run-id=mine")
    assert (folder / "thesis.txt").read_text() == "years of work"


def test_no_folder_is_left_where_there_was_none(world, batchrec, tmp_path):
    refused(batchrec(*world.args(tmp_path / "new"), "--users=/nowhere.parquet"), USAGE, "/nowhere.parquet")
    assert not (tmp_path / "new").exists()


# Failure in the middle


def test_failure_before_the_first_part_leaves_nothing(world, batchrec, output, bundle):
    redescribe(bundle, lambda content: content["query_tower"].update(history_length=7))
    before = tree(output)
    refused(batchrec(*world.args(output), f"--bundle={bundle}"), USAGE, "query_tower.keras", "history")
    assert tree(output) == before


def test_what_nobody_foresaw_is_one_line_too(world, batchrec, output, monkeypatch):
    from batchrec import worker

    def breaks(*_):
        raise ZeroDivisionError("division\nby zero")

    monkeypatch.setattr(worker, "recommend", breaks)
    before = tree(output)
    refused(batchrec(*world.args(output)), 1, "internal, ZeroDivisionError: division by zero", "--debug")
    assert tree(output) == before


def test_debug_shows_the_traceback(world, batchrec, output):
    said = batchrec(*world.args(output), "--users=/nowhere.parquet", "--debug")
    assert said.code == USAGE
    assert "Traceback (most recent call last)" in said.err
    assert said.err.splitlines()[-1].startswith("batchrec: error: /nowhere.parquet does not exist")


def test_failure_in_a_process_of_its_own(world, output):
    before = tree(output)
    process = command(*world.args(output), "--as-of=1990-01-01")
    out, err = process.communicate(timeout=180)
    assert (process.returncode, out) == (USAGE, "")
    assert len(err.splitlines()) == 1, err
    assert tree(output) == before


# Input that is merely poor


def test_more_candidates_than_items(world, batchrec, tmp_path):
    said = batchrec(*world.args(tmp_path), "--candidates=5000", "--top-k=400", "--users-per-partition=500")
    assert said.code == 0, said.err
    # 294 items are eligible, so every list is shorter than 400.
    assert said.summary["by_status"] == {"short": 995, "fallback": 5}
