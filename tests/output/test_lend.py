"""What a run lends to workers on other machines: reachable for as long as it is needed, gone afterwards."""

import fsspec
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from batchrec.errors import SchemaError
from batchrec.output.publish import RunFolder
from batchrec.output.storage import open_storage
from batchrec.users import read_partition

URL = "memory://lend/out"
NAME = "_work/users.parquet"


@pytest.fixture
def users(tmp_path):
    """A file of three row groups: 0 to 9, 10 to 19, 20 to 24."""
    path = tmp_path / "users.parquet"
    pq.write_table(pa.table({"user_id": pa.array(range(25))}), path, row_group_size=10)
    return path


@pytest.fixture
def run():
    yield open_storage(URL).folder("night")
    fsspec.filesystem("memory").rm("/lend", recursive=True)


def test_a_store_holds_a_copy_that_is_read_by_its_url(run, users):
    with run.lend(users, NAME) as place:
        users.unlink()
        assert place.startswith("memory://")
        assert read_partition(place, 1)["user_id"].to_pylist() == list(range(10, 20))
        assert read_partition(place, 2)["user_id"].to_pylist() == list(range(20, 25))
    assert run.names() == []


def test_a_copy_is_gone_also_where_the_run_fails(run, users):
    def fail():
        with run.lend(users, NAME):
            assert run.names() == [NAME]
            raise KeyError

    with pytest.raises(KeyError):
        fail()
    assert run.names() == []


def test_a_copy_that_a_killed_run_left_is_removed_by_the_next(run, users):
    run.write(NAME, users.read_bytes())
    run.write("part-00000.parquet", b"finished")
    RunFolder.open(open_storage(URL), "night").tidy()
    assert run.names() == ["part-00000.parquet"]


def test_a_disk_lends_the_file_itself(tmp_path, users):
    with open_storage(tmp_path / "out").folder("night").lend(users, NAME) as place:
        assert place == str(users)
        assert not (tmp_path / "out").exists()
    assert users.exists()


@pytest.mark.parametrize("place", ["memory://lend/nowhere/users.parquet", "/nowhere/users.parquet"])
def test_users_that_a_worker_does_not_see_are_named(place):
    with pytest.raises(SchemaError, match=r"nowhere/users\.parquet are not there: let all workers reach"):
        read_partition(place, 0)
