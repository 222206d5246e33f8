import os
import subprocess
import sys
import threading
import time

import pytest

from batchrec.models.threads import cores, share_out, turn


def test_results_come_in_the_order_of_the_pieces():
    def slow_first(piece):
        time.sleep(0.02 if piece == 0 else 0)
        return piece * piece

    assert share_out(slow_first, range(20)) == [piece * piece for piece in range(20)]


def test_the_first_failure_is_raised_and_the_next_caller_is_served():
    def fail(piece):
        raise ValueError(f"piece {piece}")

    with pytest.raises(ValueError, match="piece 0"):
        share_out(fail, range(3))
    assert share_out(str, [1]) == ["1"]


def test_callers_share_the_threads_of_which_there_are_as_many_as_cores():
    running, most, lock = set(), [], threading.Lock()

    def work(piece):
        with lock:
            running.add(piece)
            most.append(len(running))
        time.sleep(0.002)
        with lock:
            running.remove(piece)
        return piece[0]

    found = {}

    def call(caller):
        found[caller] = share_out(work, [(caller, number) for number in range(10)])

    threads = [threading.Thread(target=call, args=(caller,)) for caller in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert found == {caller: [caller] * 10 for caller in range(4)}
    assert max(most) <= cores()


def test_who_needs_all_cores_is_alone():
    at_work, seen, done = set(), [], threading.Event()

    def piece(_):
        at_work.add("piece")
        time.sleep(0.001)
        seen.append(at_work.copy())
        at_work.discard("piece")

    def share():
        while not done.is_set():
            share_out(piece, [0])

    sharing = threading.Thread(target=share)
    sharing.start()
    for _ in range(50):
        with turn:
            at_work.add("alone")
            time.sleep(0.001)
            seen.append(at_work.copy())
            at_work.discard("alone")
    done.set()
    sharing.join()
    assert {"piece"} in seen
    assert seen.count({"alone"}) == 50
    assert {"piece", "alone"} not in seen


@pytest.mark.parametrize(("asked", "expected"), [("1", 1), ("", None), ("many", None), ("0", None), ("9999", None)])
def test_fewer_cores_on_request(monkeypatch, asked, expected):
    monkeypatch.setenv("OMP_NUM_THREADS", asked)
    assert cores() == (expected or len(os.sched_getaffinity(0)))


def test_a_process_that_is_given_one_core_computes_in_one_thread():
    code = (
        "import os; os.sched_setaffinity(0, {min(os.sched_getaffinity(0))});"
        "from batchrec.models.threads import cores; print(cores())"
    )
    done = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True)
    assert done.stdout == "1\n"


def test_every_library_is_kept_to_its_threads():
    """BLAS to one a call, Arrow to the cores: read back from the libraries themselves, in a process of its own."""
    code = """
import numpy, pyarrow
from threadpoolctl import threadpool_info
from batchrec.models import threads
threads.one_thread_a_call()
threads.set_up_arrow()
assert all(one["num_threads"] == 1 for one in threadpool_info() if one["user_api"] == "blas")
assert pyarrow.cpu_count() == threads.cores()
"""
    subprocess.run([sys.executable, "-c", code], check=True)


def test_tensorflow_is_told_before_a_model_is_loaded(tmp_path):
    code = """
import pathlib, sys
from batchrec.models.backend import import_keras
from batchrec.models.serving import load_model
from batchrec.models.threads import cores
keras = import_keras()
one = keras.Input((3,), name="one")
if len(sys.argv) > 2:
    keras.Model({"one": one}, keras.layers.Dense(1)(one)).save(sys.argv[1])
else:
    load_model(pathlib.Path(sys.argv[1]), {"one"})
    import tensorflow as tf
    assert tf.config.threading.get_intra_op_parallelism_threads() == cores() == 1
"""
    for more in (["save"], []):
        command = [sys.executable, "-c", code, str(tmp_path / "model.keras"), *more]
        subprocess.run(command, check=True, env=os.environ | {"OMP_NUM_THREADS": "1"}, capture_output=True)
