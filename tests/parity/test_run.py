"""A whole run as a user types it, on each device: the same rows but for near-ties."""

import json
import time

import numpy as np
import pytest

from batchrec import resume, worker
from batchrec.engine import device as devices
from batchrec.engine.inventory import first_problem
from batchrec.pipeline import recommend
from tests.parity.devices import skip_beside_a_gpu, strict
from tests.parity.near_ties import close, same_lists
from tests.runs import command, published

N_ITEMS = 300
"""All items of the small world are candidates, so that no list hangs on who comes last among the candidates."""


ON_THE_CPU = "features are joined on the CPU"


def dense(table, column, k, fill):
    """Lists of a published run as one array (n, k), filled up where they are short."""
    lists = table[column].to_pylist()
    return np.array([one + [fill] * (k - len(one)) for one in lists])


@pytest.fixture
def strict_gpu(monkeypatch):
    """Let array-api-strict be the GPU of this process: everything but the library of the arrays is as on a real one."""
    skip_beside_a_gpu()
    monkeypatch.setitem(devices._OPEN, "gpu", strict)
    monkeypatch.setattr(devices, "first_problem", lambda *_: None)


def make(world, output, device, *more):
    return [*world.args(output, f"--candidates={N_ITEMS}", "--top-k=50", "--users-per-partition=400"), *more,
            f"--device={device}", f"--run-id={device}"]  # fmt: skip


@pytest.fixture
def both_runs(request, world, tmp_path, batchrec):
    """Options to the published runs of both devices, in processes of their own where there is a real GPU."""

    def runs(*more):
        if request.param == "strict":
            request.getfixturevalue("strict_gpu")
            for device in ("cpu", "gpu"):
                said = batchrec(*make(world, tmp_path, device, *more))
                assert said.code == 0, said.err
                assert ON_THE_CPU not in said.err
        else:
            for device in ("cpu", "gpu"):
                process = command(*make(world, tmp_path, device, *more))
                _, err = process.communicate(timeout=300)
                assert process.returncode == 0, err
                assert ON_THE_CPU not in err
        return tmp_path / "cpu", tmp_path / "gpu"

    if request.param == "cupy" and (problem := first_problem("--device gpu")):
        pytest.skip(f"no GPU can be used here: {problem.name}: {problem.problem}")
    return runs


@pytest.mark.parametrize("both_runs", ["strict", "cupy"], indirect=True)
@pytest.mark.parametrize("rank_by", ["ranker", "retrieval"])
def test_sorted_lists(both_runs, rank_by):
    cpu, gpu = map(published, both_runs("--temperature=inf", f"--rank-by={rank_by}"))
    assert gpu.schema.equals(cpu.schema, check_metadata=True)
    for column in ("user_id", "status", "source"):
        assert gpu[column].equals(cpu[column])
    items, scores = ([dense(table, name, 50, fill) for table in (gpu, cpu)] for name, fill in
                     (("item_ids", -1), ("scores", -np.inf)))  # fmt: skip
    same_lists(*items, *scores)
    close(*scores)


@pytest.mark.parametrize("both_runs", ["strict", "cupy"], indirect=True)
def test_sampled_lists(both_runs):
    """The order of a sampled list hangs on noise that is the same everywhere; near-ties in it are rare."""
    cpu, gpu = map(published, both_runs("--temperature=2"))
    same = np.array([one == other for one, other in zip(*(t["item_ids"].to_pylist() for t in (cpu, gpu)), strict=True)])
    assert same.mean() > 0.99
    for column in ("scores", "propensities"):
        found, expected = (np.concatenate(table.filter(same)[column].to_pylist()) for table in (gpu, cpu))
        close(found, expected)


def test_the_manifest_says_which_device(world, tmp_path, batchrec, strict_gpu):
    for asked, settled in (("auto", "gpu"), ("cpu", "cpu")):
        said = batchrec(*world.args(tmp_path, f"--device={asked}", f"--run-id={asked}"))
        assert said.code == 0, said.err
        assert json.loads((tmp_path / asked / "_manifest.json").read_text())["options"]["device"] == settled


def test_one_partition_at_a_time_has_the_device(world, tmp_path, batchrec, strict_gpu, monkeypatch):
    """While the lists of one are made, others are read, encoded and written, but theirs are not made."""
    inside, most, made = [], [], []

    def watched(*arguments):
        inside.append(1)
        most.append(len(inside))
        time.sleep(0.05)
        inside.pop()
        made.append(1)
        return recommend(*arguments)

    monkeypatch.setattr(worker, "recommend", watched)
    said = batchrec(*world.args(tmp_path, "--device=gpu", "--users-per-partition=100"))
    assert said.code == 0, said.err
    assert len(made) == 10
    assert max(most) == 1


class TestOptions:
    """What changes lists: told in the manifest, and refused where nothing would come of it."""

    def test_coarser_arithmetic(self, world, tmp_path, batchrec, strict_gpu):
        options = ("--precision=bf16", "--index-storage=fp16", "--index-gpus=3")
        for run_id, more in {"exact": (), "coarse": options}.items():
            said = batchrec(*world.args(tmp_path, "--device=gpu", f"--run-id={run_id}", *more))
            assert said.code == 0, said.err
        exact, coarse = (published(tmp_path / run_id) for run_id in ("exact", "coarse"))
        shared = [
            len(set(one) & set(other)) / max(len(one), 1)
            for one, other in zip(exact["item_ids"].to_pylist(), coarse["item_ids"].to_pylist(), strict=True)
            if one
        ]
        assert np.mean(shared) > 0.8
        assert not exact["scores"].equals(coarse["scores"])
        settled = json.loads((tmp_path / "coarse" / "_manifest.json").read_text())["options"]
        assert [settled[name] for name in ("precision", "index_storage", "index_gpus")] == ["bf16", "fp16", 3]

    @pytest.mark.parametrize("option", ["--precision=tf32", "--index-storage=fp16", "--index-gpus=2"])
    @pytest.mark.parametrize("begin", ["run", "plan"])
    def test_is_for_gpus(self, world, tmp_path, batchrec, option, begin):
        arguments = world.args(tmp_path, "--device=cpu", option)
        said = batchrec(begin, *arguments[1:])
        assert said.code == 2
        assert "but the run computes on the CPU" in said.err
        assert not list(tmp_path.glob("*"))


class TestResume:
    @pytest.fixture
    def begun_on_gpu(self, world, tmp_path, batchrec, monkeypatch, strict_gpu):
        """A run that was begun on the GPU and stopped by a gate."""
        monkeypatch.setattr("batchrec.run.check_failed_share", stop)
        assert batchrec(*world.args(tmp_path, "--run-id=night")).code == 3
        monkeypatch.undo()
        return tmp_path

    def test_goes_on_on_the_device_it_was_begun_on(self, world, begun_on_gpu, batchrec, monkeypatch):
        asked = []
        monkeypatch.setattr(resume, "settled_device", lambda device, _: asked.append(device) or "cpu")
        said = batchrec(*world.args(begun_on_gpu, "--run-id=night"))
        assert asked == ["gpu"]
        assert said.code == 2
        assert "device ('gpu' then, 'cpu' now)" in said.err

    def test_is_refused_where_that_device_is_missing(self, world, begun_on_gpu, batchrec):
        said = batchrec(*world.args(begun_on_gpu, "--run-id=night"))
        assert said.code == 2
        assert "--device gpu cannot be used on" in said.err

    def test_is_refused_on_another_device(self, world, begun_on_gpu, batchrec):
        said = batchrec(*world.args(begun_on_gpu, "--run-id=night", "--device=cpu"))
        assert said.code == 2
        assert "device ('gpu' then, 'cpu' now)" in said.err


def stop(*_):
    from batchrec.errors import GateError

    raise GateError("stopped", "go on")
