"""The benchmark for GPUs, as far as it goes without one: its figures, with array-api-strict in the GPU's place."""

import os
import subprocess
import sys
from datetime import UTC, datetime
from types import SimpleNamespace

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from batchrec.engine import device as devices
from batchrec.engine.device import Choice, open_device
from batchrec.resources import release_resources
from tests.parity.devices import strict
from tests.runs import ROOT


@pytest.fixture(scope="module")
def benchmarks():
    """The modules of the benchmark, which is no package."""
    sys.path.insert(0, str(ROOT / "benchmarks"))
    try:
        import bench
        import device_floor
        import gpu
        import gpu_report
        import lists
        import probe
    finally:
        sys.path.remove(str(ROOT / "benchmarks"))
    return SimpleNamespace(bench=bench, floor=device_floor, gpu=gpu, report=gpu_report, lists=lists, probe=probe)


def written(folder, *parts):
    """Write a run of given parts: for each user a list of items and a list of scores."""
    folder.mkdir()
    user = 0
    for number, rows in enumerate(parts):
        table = pa.table(
            {
                "user_id": pa.array(range(user, user + len(rows)), pa.int64()),
                "item_ids": pa.array([items for items, _ in rows], pa.list_(pa.int64())),
                "scores": pa.array([scores for _, scores in rows], pa.list_(pa.float32())),
            }
        )
        user += len(rows)
        pq.write_table(table, folder / f"part-{number:05d}.parquet")
    return folder


class TestChange:
    @pytest.mark.parametrize("at_a_time", [1, 2, 100])
    def test_of_every_kind(self, benchmarks, tmp_path, at_a_time, monkeypatch):
        monkeypatch.setattr(benchmarks.lists, "ROWS_AT_A_TIME", at_a_time)
        before = [([5, 6, 7], [3.0, 2.0, 1.0])] * 3, [([5], [1.0]), ([], [])]
        after = (
            [([5, 6, 7], [3.0, 2.0, 1.0]), ([6, 5, 7], [2.5, 3.0, 1.0]), ([5, 6, 8], [3.0, 2.25, 1.0])],
            [([9], [8.0]), ([], [])],
        )
        found = benchmarks.lists.change(written(tmp_path / "after", *after), written(tmp_path / "before", *before), 3)
        assert found == (5, 2 / 5, pytest.approx((1 + 1 + 2 / 3 + 0) / 4), 3 / 5, 0.5)

    def test_other_users(self, benchmarks, tmp_path):
        one, other = written(tmp_path / "one", [([5], [1.0])]), written(tmp_path / "other", [([5], [1.0])] * 2)
        with pytest.raises(SystemExit, match="are of other users"):
            benchmarks.lists.change(one, other, 1)


def test_a_run_with_one_option_more(benchmarks):
    variant = benchmarks.gpu.Variant("gpu", "fp32", "cluster=processes:2")
    assert variant.options == {"device": "gpu", "precision": "fp32", "cluster": "processes:2"}
    assert variant.name == "gpu-fp32-cluster-processes-2"
    assert benchmarks.gpu.Variant("cpu", "fp32").options == {"device": "cpu", "precision": "fp32"}
    assert benchmarks.gpu.Variant("cpu", "fp32").name == "cpu-fp32"


def test_steady_state_begins_when_the_first_part_is_done(benchmarks, tmp_path):
    run = written(tmp_path / "run", *[[([5], [1.0])] * users for users in (10, 20, 30)])
    for number, second in {0: 100, 1: 106, 2: 104}.items():
        os.utime(run / f"part-{number:05d}.parquet", (second, second))
    assert benchmarks.gpu.users_a_second(run) == 50 / 6
    (run / "part-00002.parquet").unlink()
    assert benchmarks.gpu.users_a_second(run) is None


def test_the_peak_is_what_came_on_top(benchmarks, monkeypatch):
    monkeypatch.setattr(benchmarks.gpu, "EVERY", 0.001)
    looks = iter([100, 150, 900])
    seen = []

    def used():
        seen.append(next(looks, 200))
        return seen[-1]

    with benchmarks.gpu.peak_of(used) as peak:
        while len(seen) < 4:
            pass
    assert peak == [800]


def test_the_floor(benchmarks):
    found = benchmarks.floor.measure(strict(), 32, 1 << 12)
    assert found["flop/s"].keys() == {"fp32", "tf32", "bf16"}
    assert all(rate > 0 for rate in [*found.pop("flop/s").values(), *found.values()])


def test_the_floor_of_a_host_is_that_of_all_its_cores(benchmarks, monkeypatch):
    monkeypatch.setattr(benchmarks.floor.floor, "measure", lambda: {"flop/s": 3e11, "bytes/s": 2e10})
    found = benchmarks.floor.measure(open_device(Choice("cpu")), 32, 1 << 12)
    assert found == {"flop/s": {"fp32": 3e11}, "bytes/s": 2e10}
    assert "20 GB/s copied on the device, read and written." in benchmarks.report._floor({"floor": found})[0]


def test_arithmetic_is_counted_for_the_items_a_history_holds(benchmarks, tmp_path):
    pq.write_table(pa.table({"user_id": [9, 3, 5, 7]}), tmp_path / "users.parquet")
    seen = {
        "user_id_raw": [3, 3, 7, 9],
        "item_id_seen": [[1] * 4, [1] * 2, [1] * 80, [1] * 6],
        "event_timestamp": [datetime(2026, 1, day, tzinfo=UTC) for day in (2, 1, 1, 1)],
    }
    pq.write_table(pa.table(seen), tmp_path / "item_id_seen.parquet")
    lengths = benchmarks.bench.history_lengths(SimpleNamespace(data=tmp_path), 3)
    assert lengths.tolist() == [4, 1, 50]
    counted = [
        benchmarks.bench.floor.necessary(np.array(some), 10, 13, 6)["query tower"]["flop"]
        for some in ([4, 1, 50], [4], [1], [50])
    ]
    assert counted[0] == sum(counted[1:])


def test_stages_one_by_one(benchmarks, world, monkeypatch):
    monkeypatch.setitem(devices._OPEN, "gpu", strict)
    monkeypatch.setattr(benchmarks.probe, "ROUNDS", 1)
    monkeypatch.setattr(benchmarks.probe, "OPTIONS", benchmarks.probe.Options(20, 5, 2.0, 0, "ranker"))
    made = SimpleNamespace(
        data=world.data, repo=world.repo, bundle=world.bundle, as_of=datetime(2026, 2, 23, tzinfo=UTC)
    )
    found = benchmarks.probe.stages(made, Choice("gpu", "bf16"), 50)
    release_resources()
    assert found["users"] == 50
    assert list(found["seconds"]) == [
        "read features", "encode", "query tower", "retrieve and filter", "rank", "sample",
        "from the device",
    ]  # fmt: skip


def test_the_table_shows_what_is_measured_so_far(benchmarks, tmp_path):
    report = benchmarks.gpu.Report(tmp_path / "night")
    table = tmp_path / "night.md"
    report.add("workload", {"name": "R0", "users": 100, "items": 10, "k": 3})
    assert "100 users, 10 items" in table.read_text()
    report.add("necessary", {"rank": {"flop": 1e6, "bytes": 0}})
    report.add("floor", {"flop/s": dict.fromkeys(("fp32", "bf16"), 1e9), "bytes/s": 1e9, "bytes/s to it": 1e9,
                         "bytes/s from it": 1e9})  # fmt: skip
    ran = {"wall": 9, "seconds": {"compute": 4}, "steady users/s": None, "peak bytes of the device": 0, "peak bytes": 0}
    for name in ("gpu-fp32", "gpu-bf16"):
        report.add(f"runs/{name}/run", ran)
        report.add(f"runs/{name}/stages", {"users": 50, "seconds": {"rank": 0.004, "sample": 0.001}})
    report.add("runs/gpu-bf16/change", {"users": 100, "equal": 0.5, "overlap": 0.9, "first_equal": 0.75, "score": 0.01,
                                        "from": "gpu-fp32"})  # fmt: skip
    text = table.read_text()
    assert "| gpu-fp32 | 9.0 | 4.0 | 25 | too few parts |" in text
    assert "| rank | 4.0 (25.0%) | 4.0 (25.0%) |" in text
    assert "| gpu-bf16 | gpu-fp32 | 50.00% | 75.00% | 90.00% | 0.01 |" in text


def test_without_a_gpu_it_ends_with_one_sentence(benchmarks, monkeypatch, capsys):
    said = SimpleNamespace(returncode=2, stderr="a table\nbatchrec: error: NVIDIA driver: there is none.\n")
    monkeypatch.setattr(subprocess, "run", lambda *_, **__: said)
    monkeypatch.setattr(sys, "argv", ["gpu.py"])
    with pytest.raises(SystemExit) as left:
        benchmarks.gpu.main()
    assert left.value.code == 2
    assert capsys.readouterr().err == "batchrec: error: NVIDIA driver: there is none.\n"


def test_shares_are_numbers_for_json(benchmarks, tmp_path):
    one = written(tmp_path / "one", [([5], [1.0])])
    assert all(type(value) in {int, float} for value in benchmarks.lists.change(one, one, 1))
    assert not np.isnan(benchmarks.lists.change(one, one, 1).overlap)
