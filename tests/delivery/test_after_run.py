"""What follows a publication: checked before, done whatever else fails, and made up for by the same command again."""

from deltalake import DeltaTable


def test_a_run_killed_before_it_was_delivered_is_delivered_by_its_repetition(world, batchrec, tmp_path):
    first = world.args(tmp_path / "out", "--run-id=monday")
    assert batchrec(*first).code == 0
    again = batchrec(*first, "--resume", f"--delta={tmp_path / 'table'}")
    assert again.code == 99, again.err
    assert DeltaTable(tmp_path / "table").to_pyarrow_table().num_rows == 1000
    assert batchrec(*first, "--resume", f"--delta={tmp_path / 'table'}").code == 99
    assert DeltaTable(tmp_path / "table").version() == 0

    assert batchrec(*world.args(tmp_path / "out", "--run-id=tuesday", "--seed=1")).code == 0
    old = batchrec(*first, "--resume", f"--delta={tmp_path / 'other'}")
    assert old.code == 99
    assert not (tmp_path / "other").exists(), "newer lists may have been delivered since"


def test_a_folder_for_metrics_that_is_not_there_stops_the_command_at_once(world, batchrec, tmp_path):
    path = tmp_path / "nowhere" / "batchrec.prom"
    said = batchrec(*world.args(tmp_path / "out", f"--metrics={path}"))
    assert said.code == 2
    assert f"there is no folder {path.parent}" in said.err
    assert not (tmp_path / "out").exists()


def test_metrics_that_fail_keep_nothing_else_from_being_done(world, batchrec, tmp_path):
    (tmp_path / "batchrec.prom").mkdir()
    options = (f"--metrics={tmp_path / 'batchrec.prom'}", f"--delta={tmp_path / 'table'}")
    said = batchrec(*world.args(tmp_path / "out", "--run-id=monday", *options))
    assert said.code == 1
    assert "run monday is published, but its metrics failed" in said.err
    assert DeltaTable(tmp_path / "table").to_pyarrow_table().num_rows == 1000
