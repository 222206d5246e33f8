"""What a worker checks before it computes."""

import subprocess
import sys
from datetime import UTC, datetime
from functools import partial

import pytest

from batchrec.engine.device import Choice
from batchrec.engine.task import call, packed
from batchrec.errors import ArtifactError, ClusterError
from batchrec.pipeline import Options
from batchrec.resources import release_resources
from batchrec.worker import Work, compute_partition


def test_a_task_is_computed_by_the_same_code_alone():
    task, code = packed(abs)
    assert call(task, code, -3) == 3
    with pytest.raises(ClusterError, match="another batchrec, or other libraries"):
        call(task, "0" * 64, -3)


def test_a_scheduler_imports_nothing_heavy_for_it():
    program = "import sys, batchrec.engine.task; print(sorted({'numpy', 'pyarrow', 'feast'} & set(sys.modules)))"
    found = subprocess.run([sys.executable, "-c", program], check=True, capture_output=True, text=True)
    assert found.stdout == "[]\n"


@pytest.fixture
def work(world, tmp_path):
    yield Work(
        bundle=world.bundle,
        feature_repo=world.repo,
        bundle_fingerprint="0" * 64,
        users=world.data / "users.parquet",
        output=str(tmp_path),
        run_id="night",
        as_of=datetime(2026, 2, 23, tzinfo=UTC),
        options=Options(30, 10, 2.0, 0, "ranker"),
        fallback="popularity",
        layout="list",
        device=Choice("cpu"),
    )
    release_resources()


def test_a_bundle_that_is_another_one_here_is_refused(work, tmp_path):
    with pytest.raises(ArtifactError, match="finds another bundle at"):
        compute_partition(work, 0)
    assert list(tmp_path.iterdir()) == []


def test_what_travels_is_small(work):
    task, _ = packed(partial(compute_partition, work))
    assert len(task) < 2000
