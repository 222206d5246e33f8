import shutil

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from batchrec.errors import ArtifactError, ConfigError, SchemaError
from batchrec.evaluate.lists import read_lists
from tests.evaluate.support import publish, seal

USERS = pa.array([2, 3, 5, 8])
CATALOGUE = pa.array(["a", "b", "c", "d"])
LISTS = {1: ["a", "b", "c"], 2: ["b", "d", "a"], 3: [], 5: ["c"], 9: ["d"]}
PLACED = [[1, 3], [-1, -1], [2, -1], [-1, -1]]


@pytest.mark.parametrize("parts", [1, 2, 4])
@pytest.mark.parametrize("layout", ["list", "long"])
def test_first_k_items_of_the_evaluated_users(tmp_path, layout, parts):
    lists = read_lists(publish(tmp_path / "run", LISTS, layout, parts), USERS, CATALOGUE, k=2)
    assert lists.positions.tolist() == PLACED
    assert lists.positions.dtype == np.int64
    assert lists.users_left_out == 2  # 1 and 9


def test_rows_of_a_long_part_may_stand_in_any_order(tmp_path):
    run = publish(tmp_path / "run", LISTS, "long")
    part = run / "part-00000.parquet"
    pq.write_table(pq.read_table(part).take([6, 0, 5, 1, 4, 2, 3, 7]), part)
    assert read_lists(seal(run), USERS, CATALOGUE, k=2).positions.tolist() == PLACED


def test_ranks_from_0(tmp_path):
    run = publish(tmp_path / "run", LISTS, "long")
    part = run / "part-00000.parquet"
    table = pq.read_table(part)
    pq.write_table(table.set_column(1, "rank", pa.array(table["rank"].to_numpy() - 1)), part)
    with pytest.raises(ArtifactError, match=r"part-00000\.parquet holds rank 0, expected ranks from 1"):
        read_lists(seal(run), USERS, CATALOGUE, k=2)


def test_narrow_integer_ids(tmp_path):
    run = publish(tmp_path / "run", {2: [7, 9]}, user_type=pa.int16(), item_type=pa.uint32())
    assert read_lists(run, pa.array([2]), pa.array([7, 8, 9]), k=2).positions.tolist() == [[0, 2]]


def test_the_longest_list_sets_the_largest_k(tmp_path):
    run = publish(tmp_path / "run", LISTS)
    assert read_lists(run, USERS, CATALOGUE, k=3).positions.shape == (4, 3)
    with pytest.raises(ConfigError, match=r"k is 4, but the longest list of .* holds 3 items"):
        read_lists(run, USERS, CATALOGUE, k=4)


@pytest.mark.parametrize("missing", ["_SUCCESS", "_manifest.json"])
def test_a_folder_that_is_no_published_run(tmp_path, missing):
    run = publish(tmp_path / "run", LISTS)
    (run / missing).unlink()
    with pytest.raises(ArtifactError, match=rf"is not a published run .*{missing}"):
        read_lists(run, USERS, CATALOGUE, k=2)


def test_a_folder_that_is_not_there(tmp_path):
    with pytest.raises(ArtifactError, match="not a published run"):
        read_lists(tmp_path / "run", USERS, CATALOGUE, k=2)


def test_a_run_without_parts(tmp_path):
    run = publish(tmp_path / "run", LISTS)
    (run / "part-00000.parquet").unlink()
    with pytest.raises(ArtifactError, match="no part file"):
        read_lists(seal(run), USERS, CATALOGUE, k=2)


def test_a_damaged_part(tmp_path):
    run = publish(tmp_path / "run", LISTS)
    (run / "part-00000.parquet").write_bytes(b"PAR1")
    with pytest.raises(ArtifactError, match=r"part-00000\.parquet cannot be read"):
        read_lists(seal(run), USERS, CATALOGUE, k=2)


def test_a_part_that_the_run_lacks(tmp_path):
    run = publish(tmp_path / "run", LISTS, parts=2)
    (run / "part-00001.parquet").unlink()
    with pytest.raises(ArtifactError, match=r"part-00001\.parquet is missing"):
        read_lists(run, USERS, CATALOGUE, k=2)


def test_a_part_of_another_run(tmp_path):
    run = publish(tmp_path / "run", LISTS, parts=2)
    other = publish(tmp_path / "other", LISTS | {2: ["a", "c", "d"]}, parts=2)
    shutil.copy(other / "part-00001.parquet", run)
    with pytest.raises(ArtifactError, match=r"part-00001\.parquet is damaged"):
        read_lists(run, USERS, CATALOGUE, k=2)


def test_a_part_file_that_the_manifest_does_not_name_is_not_read(tmp_path):
    run = publish(tmp_path / "run", LISTS)
    shutil.copy(publish(tmp_path / "other", {3: ["a", "b"]}) / "part-00000.parquet", run / "part-00001.parquet")
    assert read_lists(run, USERS, CATALOGUE, k=2).positions.tolist() == PLACED


def test_a_part_without_lists(tmp_path):
    run = publish(tmp_path / "run", LISTS)
    pq.write_table(pa.table({"user_id": [2], "score": [0.5]}), run / "part-00000.parquet")
    with pytest.raises(SchemaError, match="has the columns user_id int64, score double; expected user_id and a list"):
        read_lists(seal(run), USERS, CATALOGUE, k=2)


def test_user_ids_of_another_type(tmp_path):
    run = publish(tmp_path / "run", {"u": ["a", "b"]})
    with pytest.raises(
        SchemaError, match=r"column user_id of .* has type string, but the holdout has ids of type int64"
    ):
        read_lists(run, USERS, CATALOGUE, k=2)


@pytest.mark.parametrize("layout", ["list", "long"])
def test_item_ids_of_another_type(tmp_path, layout):
    run = publish(tmp_path / "run", {2: [1, 2]}, layout)
    with pytest.raises(SchemaError, match=r"column item_ids? of .* has type int64, but the catalogue has"):
        read_lists(run, USERS, CATALOGUE, k=2)


def test_an_item_outside_the_catalogue(tmp_path):
    run = publish(tmp_path / "run", {2: ["a", "z"]})
    with pytest.raises(ArtifactError, match="recommends item 'z', which is not among the 4 items of the catalogue"):
        read_lists(run, USERS, CATALOGUE, k=2)


def test_an_item_listed_twice(tmp_path):
    run = publish(tmp_path / "run", {2: ["a", "b"], 3: ["c", "b", "c"]})
    assert read_lists(run, USERS, CATALOGUE, k=2).positions.tolist()[1] == [2, 1]
    with pytest.raises(ArtifactError, match="lists item 'c' twice for user 3"):
        read_lists(run, USERS, CATALOGUE, k=3)


@pytest.mark.parametrize("layout", ["list", "long"])
def test_a_user_listed_twice_in_two_parts(tmp_path, layout):
    run = publish(tmp_path / "run", {2: ["a", "b"], 3: ["c", "b"]}, layout)
    (run / "part-00001.parquet").write_bytes((run / "part-00000.parquet").read_bytes())
    with pytest.raises(ArtifactError, match=r"part-00001\.parquet holds a second list of user 2"):
        read_lists(seal(run), USERS, CATALOGUE, k=2)


def test_a_user_listed_twice_in_one_part(tmp_path):
    run = publish(tmp_path / "run", {2: ["a", "b"], 3: ["c", "b"]})
    part = run / "part-00000.parquet"
    pq.write_table(pa.concat_tables([pq.read_table(part)] * 2), part)
    with pytest.raises(ArtifactError, match="holds a second list of user 2"):
        read_lists(seal(run), USERS, CATALOGUE, k=2)
