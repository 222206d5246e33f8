import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from batchrec.errors import SchemaError
from batchrec.evaluate.holdout import read_holdout
from batchrec.evaluate.tables import IdTable, read_item_ids
from tests.evaluate.support import write_pairs

COLUMNS = ("user_id", "item_id")


def test_ids_come_in_the_two_types_that_ids_have(tmp_path):
    path = write_pairs(tmp_path / "pairs.parquet", [(1, "a"), (None, "b")], pa.uint8(), pa.large_string())
    table = IdTable.open(path, COLUMNS)
    assert table.schema.types == [pa.int64(), pa.string()]
    assert pa.concat_tables(table.batches()).to_pylist() == [
        {"user_id": 1, "item_id": "a"},
        {"user_id": None, "item_id": "b"},
    ]


def test_dictionary_encoded_ids(tmp_path):
    path = tmp_path / "pairs.parquet"
    pq.write_table(pa.table({"user_id": [1], "item_id": pa.array(["a"]).dictionary_encode()}), path)
    assert pa.concat_tables(IdTable.open(path, COLUMNS).batches())["item_id"].to_pylist() == ["a"]


def test_a_folder_of_files(tmp_path):
    write_pairs(tmp_path / "a.parquet", [(1, 2)])
    write_pairs(tmp_path / "b.parquet", [(3, 4)])
    assert pa.concat_tables(IdTable.open(tmp_path, COLUMNS).batches())["item_id"].to_pylist() == [2, 4]


def test_a_missing_file(tmp_path):
    with pytest.raises(SchemaError, match=r"pairs\.parquet does not exist"):
        IdTable.open(tmp_path / "pairs.parquet", COLUMNS)


def test_a_file_that_is_not_parquet(tmp_path):
    (tmp_path / "pairs.parquet").write_text("user_id,item_id")
    with pytest.raises(SchemaError, match=r"pairs\.parquet cannot be read as Parquet"):
        IdTable.open(tmp_path / "pairs.parquet", COLUMNS)


def test_a_missing_column(tmp_path):
    pq.write_table(pa.table({"user": [1], "item_id": [1]}), tmp_path / "pairs.parquet")
    with pytest.raises(SchemaError, match=r"no column user_id \(columns found: user, item_id\)"):
        IdTable.open(tmp_path / "pairs.parquet", COLUMNS)


def test_a_column_that_cannot_be_ids(tmp_path):
    path = write_pairs(tmp_path / "pairs.parquet", [(1.5, 1)])
    with pytest.raises(SchemaError, match=r"column user_id of .* has type double, expected integers or strings"):
        IdTable.open(path, COLUMNS)


def test_ids_beyond_64_signed_bits(tmp_path):
    path = write_pairs(tmp_path / "pairs.parquet", [(2**63, 1)], pa.uint64())
    with pytest.raises(SchemaError, match="cannot be read as Parquet ids"):
        list(IdTable.open(path, COLUMNS).batches())


def test_distinct_items_in_order(tmp_path):
    path = write_pairs(tmp_path / "pairs.parquet", [(1, 9), (1, 10), (2, None), (2, 9), (3, -1)])
    assert read_item_ids(path).to_pylist() == [-1, 9, 10]


def test_a_catalogue_without_items(tmp_path):
    with pytest.raises(SchemaError, match="holds no item id"):
        read_item_ids(write_pairs(tmp_path / "items.parquet", [], pa.int64(), pa.int64()))


def test_held_out_pairs_count_once(tmp_path):
    pairs = [(7, "b"), (7, "a"), (7, "b"), (4, "z"), (None, "a"), (4, None), (7, "b")]
    holdout = read_holdout(write_pairs(tmp_path / "holdout.parquet", pairs), pa.array(["a", "b", "c"]))
    assert holdout.users.to_pylist() == [4, 7]
    assert holdout.held_out.tolist() == [1, 2]  # 4 holds an item that no list can reach
    assert holdout.keys.tolist() == [3, 4]
    assert (holdout.null_rows, holdout.duplicate_rows) == (2, 2)


@pytest.mark.parametrize("pairs", [[], [(None, 1)]])
def test_nothing_held_out(tmp_path, pairs):
    path = write_pairs(tmp_path / "holdout.parquet", pairs, pa.int64(), pa.int64())
    with pytest.raises(SchemaError, match="no held-out interaction"):
        read_holdout(path, pa.array([1]))


def test_held_out_items_of_another_type(tmp_path):
    path = write_pairs(tmp_path / "holdout.parquet", [(1, "1")])
    with pytest.raises(
        SchemaError, match=r"column item_id of .* has type string, but the catalogue has ids of type int64"
    ):
        read_holdout(path, pa.array([1]))
