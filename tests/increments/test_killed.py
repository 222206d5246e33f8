"""A run since another one, killed: what is finished is not done again, and the outcome is the same."""

from __future__ import annotations

import random
import signal
import time

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from tests.faults.support import args, ended, is_published, start, wait_for
from tests.increments.shop import expected_changes, found_changes, kept_files


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(3))
def test_killed_at_random_moments(world, batchrec, tmp_path, seed):
    """From the first part to the last step of publication, changes among them."""
    ids = sorted(world.ids())
    for name, some in (("before", ids[:700]), ("now", ids[300:])):
        pq.write_table(pa.table({"user_id": some}), tmp_path / f"{name}.parquet")
    output, more = tmp_path / "out", (f"--users={tmp_path / 'now.parquet'}", "--since=before")
    said = batchrec(*world.args(output, f"--users={tmp_path / 'before.parquet'}", "--run-id=before"))
    assert said.code == 0, said.err
    random_ = random.Random(seed)
    killed = 0
    for moment in (random_.uniform(0, 3) for _ in range(3)):
        process = start(world, output, *more, stdout=None)
        begun = output / "night" / "_journal" / "begun.json"
        wait_for(lambda process=process, begun=begun: begun.exists() or process.poll() is not None, process)
        time.sleep(moment)
        process.send_signal(signal.SIGKILL)
        code, err = ended(process)
        assert code in (-signal.SIGKILL, 0, 2), err
        killed += code == -signal.SIGKILL
        if (output / "night" / "_SUCCESS").exists() and is_published(output):
            break
    assert killed >= 1
    if (output / "current").resolve().name != "night":
        said = batchrec(*args(world, output, *more))
        assert said.code == 0, said.err
    said = batchrec(*args(world, tmp_path / "full", f"--users={tmp_path / 'now.parquet'}"))
    assert said.code == 0, said.err
    assert kept_files(output / "night") == kept_files(tmp_path / "full" / "night")
    assert found_changes(output / "night") == expected_changes(output / "before", output / "night")
    assert batchrec("verify", output / "night").code == 0
