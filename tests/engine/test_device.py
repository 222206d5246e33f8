"""Which device a run is settled on, and what a user is told where a GPU is missing."""

import ctypes
import subprocess
import sys
from types import SimpleNamespace

import pytest

from batchrec.config import load_config
from batchrec.engine import device, inventory
from batchrec.engine.device import Choice, check_choice, settled_device
from batchrec.engine.inventory import Finding, first_problem
from batchrec.errors import ConfigError
from batchrec.models import gpu
from tests.runs import ROOT, command

MISSING = Finding("CuPy", "--device gpu", "", "cupy is not installed", "install it")
HAS_GPU = first_problem("--device gpu") is None
without_gpu = pytest.mark.skipif(HAS_GPU, reason="there is a GPU here")


@pytest.fixture
def machine(monkeypatch):
    """Say what of a GPU is missing on this machine: nothing, or CuPy."""

    def has(problem):
        monkeypatch.setattr(device, "first_problem", lambda *_: problem)

    return has


@pytest.mark.parametrize(
    ("asked", "place", "with_gpu", "without"),
    [
        ("auto", "local", "gpu", "cpu"),
        ("cpu", "local", "cpu", "cpu"),
        ("gpu", "local", "gpu", None),
        ("auto", "processes:2", "gpu", "cpu"),
        ("gpu", "processes:2", "gpu", None),
        ("auto", "cuda", "gpu", None),
        ("gpu", "cuda", "gpu", None),
        ("auto", "tcp://far:8786", "cpu", "cpu"),
        ("cpu", "tcp://far:8786", "cpu", "cpu"),
        ("gpu", "tcp://far:8786", "gpu", "gpu"),
    ],
)
def test_the_device_of_a_run(machine, asked, place, with_gpu, without):
    machine(None)
    assert settled_device(asked, place) == with_gpu
    machine(MISSING)
    if without is not None:
        assert settled_device(asked, place) == without
    else:
        with pytest.raises(ConfigError, match=r"cannot be used on .*: CuPy: cupy is not installed: install it"):
            settled_device(asked, place)


@pytest.mark.parametrize(
    ("choice", "place", "said"),
    [
        (
            Choice("cpu", precision="bf16"),
            "local",
            "--precision is bf16, but the run computes on the CPU, always with fp32",
        ),
        (Choice("cpu", index_storage="fp16"), "local", "--index-storage is fp16, but the run computes on the CPU"),
        (Choice("cpu", index_gpus=2), "tcp://far:8786", "--index-gpus is 2, but the run computes on the CPU"),
        (Choice("gpu", index_gpus=2), "cuda", "--index-gpus is 2, but --cluster cuda has a worker on each GPU"),
    ],
)
def test_options_that_do_not_go_together(choice, place, said):
    with pytest.raises(ConfigError, match=said):
        check_choice(choice, place)


def test_options_that_go_together():
    check_choice(Choice("cpu"), "cuda")
    check_choice(Choice("gpu", "tf32", "fp16", 4), "local")
    check_choice(Choice("gpu", "bf16", "fp16"), "cuda")


def test_a_cluster_of_gpus_does_not_compute_on_the_cpu(machine):
    machine(None)
    with pytest.raises(ConfigError, match="--cluster cuda computes on GPUs, but --device is cpu"):
        settled_device("cpu", "cuda")


def test_another_device_makes_other_last_bits():
    needed = {"users": "users.parquet", "bundle": "bundle"}
    cpu, gpu = (load_config(needed | {"device": name}, None) for name in ("cpu", "gpu"))
    assert cpu.fingerprint() != gpu.fingerprint()


def test_what_cannot_be_a_device():
    with pytest.raises(ConfigError, match="--device is 'tpu'"):
        load_config({"users": "u", "bundle": "b", "device": "tpu"}, None)


class Driver:
    """Answers as NVIDIA's driver does."""

    def __init__(self, gpus=1, status=0):
        self._gpus, self._status = gpus, status

    def cuInit(self, _flags):  # noqa: N802 - the driver's own name
        return self._status

    def cuDriverGetVersion(self, answer):  # noqa: N802
        answer._obj.value = 12080

    def cuDeviceGetCount(self, answer):  # noqa: N802
        answer._obj.value = self._gpus


@pytest.mark.parametrize(
    ("driver", "found", "problem"),
    [
        (Driver(gpus=2), "of unknown version, up to CUDA 12.8, 2 GPUs", ""),
        (Driver(gpus=0), "of unknown version, up to CUDA 12.8, 0 GPUs", "it has no GPU"),
        (Driver(status=100), "of unknown version", "it starts no GPU (cuInit returns 100)"),
    ],
)
def test_the_driver(monkeypatch, tmp_path, driver, found, problem):
    monkeypatch.setattr(ctypes, "CDLL", lambda _: driver)
    monkeypatch.setattr(inventory, "_DRIVER_VERSION", tmp_path / "none")
    (finding,) = [one for one in inventory.inventory() if one.name == "NVIDIA driver"]
    assert (finding.found, finding.problem) == (found, problem)


@without_gpu
class TestWithoutGpu:
    def test_a_run_is_refused_before_it_begins(self, tmp_path, batchrec):
        said = batchrec("run", "--users=none.parquet", "--bundle=none", f"--output={tmp_path}/out", "--device=gpu")
        assert said.code == 2
        assert "--device gpu cannot be used on" in said.err
        assert "`batchrec doctor` shows all that is missing" in said.err

    def test_so_is_a_cluster_of_gpus(self, tmp_path, batchrec):
        said = batchrec("run", "--users=none.parquet", "--bundle=none", f"--output={tmp_path}/out", "--cluster=cuda")
        assert said.code == 2
        assert "--cluster cuda cannot be used on" in said.err

    def test_doctor_says_why(self, batchrec):
        said = batchrec("doctor")
        assert said.code == 0
        assert (said.summary["asked"], said.summary["device"], said.summary["usable"]) == ("auto", "cpu", True)
        found = {one["name"]: one for one in said.summary["found"]}
        assert found["Keras"]["found"].startswith("3.")
        assert found["Faiss"]["problem"] == ""
        assert all(one["problem"] and one["remedy"] for one in found.values() if one["need"] == "--device gpu")
        for name in found:
            assert name in said.out

    def test_doctor_refuses_the_gpu(self, batchrec):
        said = batchrec("doctor", "--device=gpu")
        assert said.code == 2
        assert said.summary["usable"] is False
        assert said.err.startswith("batchrec: error: ")


@without_gpu
def test_doctor_where_the_packages_are_there_and_the_gpu_is_not(tmp_path):
    """Packages that fail in ways of their own when they are imported or used: each is a row, none ends the command."""
    (tmp_path / "cupy.py").write_text(
        "def arange(n):\n    raise RuntimeError('cudaErrorInsufficientDriver: too old')\n"
    )
    (tmp_path / "rmm.py").write_text("raise ImportError('librmm.so: cannot open shared object file')\n")
    process = command("doctor", before=["env", f"PYTHONPATH={tmp_path}:{ROOT}"])
    out, err = process.communicate(timeout=100)
    assert process.returncode == 0, err
    assert "cudaErrorInsufficientDriver: too old" in out.splitlines()[-1]
    assert "librmm.so: cannot open shared object file" in out.splitlines()[-1]


def test_the_cpu_is_kept_where_there_is_a_gpu():
    """TensorFlow would take a GPU by itself. Its devices are made up here; what it is told about them counts."""
    program = """
import tensorflow as tf
from batchrec.models import gpu
hidden = []
tf.config.get_visible_devices = lambda kind: [] if hidden else ["a GPU"]
tf.config.set_visible_devices = lambda devices, kind: hidden.append((devices, kind))
gpu.keep_off_gpu()
assert hidden == [([], "GPU")], hidden
for precision, tensor_float_32 in {"fp32": False, "tf32": True, "bf16": True}.items():
    gpu.use_gpu(precision)
    assert tf.config.experimental.tensor_float_32_execution_enabled() is tensor_float_32
"""
    subprocess.run([sys.executable, "-c", program], check=True)


class TestJaxIsKeptOffAGpu:
    """JAX would take a GPU by itself, and keeps the devices that it has found. They are made up here."""

    @pytest.fixture
    def jax(self, monkeypatch):
        told, alive = {}, []

        def devices(platform=None):
            if platform == "cpu" and told.get("no cpu"):
                raise RuntimeError("Unknown backend cpu")
            return [f"{platform}:0"]

        made_up = SimpleNamespace(
            config=SimpleNamespace(update=told.__setitem__),
            default_backend=lambda: "gpu",
            live_arrays=lambda: alive,
            devices=devices,
            told=told,
            alive=alive,
        )
        monkeypatch.setitem(sys.modules, "jax", made_up)
        return made_up

    def test_after_a_look_for_gpus(self, jax):
        gpu._BACKENDS["jax"].keep_off()
        assert jax.told["jax_default_device"] == "cpu:0"

    def test_not_once_it_has_computed_there(self, jax):
        jax.alive.append("an array")
        with pytest.raises(ConfigError, match="begun to compute on the GPU"):
            gpu._BACKENDS["jax"].keep_off()

    def test_where_it_was_told_to_look_for_gpus_alone(self, jax):
        jax.told["no cpu"] = True
        with pytest.raises(ConfigError, match=r"no CPU.*JAX_PLATFORMS=cuda,cpu"):
            gpu._BACKENDS["jax"].keep_off()

    def test_a_later_run_may_use_it(self, jax):
        gpu._BACKENDS["jax"].keep_off()
        gpu._BACKENDS["jax"].use(False)
        assert jax.told["jax_default_device"] is None
