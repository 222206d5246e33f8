"""The DAG, executed by Airflow itself: an environment of its own, a real bundle, real exit codes."""

from __future__ import annotations

import fcntl
import json
import os
import signal
import sqlite3
import subprocess
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import pytest

from batchrec.config import ENV_PREFIX
from tests.jobs.home import JOBS, Home, make_home
from tests.runs import ROOT
from tests.world import make_world

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

pytestmark = pytest.mark.slow

ENVIRONMENT = ROOT / ".venv-airflow"
TASKS = ("prepare", "run", "verify", "push")


@dataclass(frozen=True)
class Airflow:
    """An Airflow home with the DAG in its folder, and the files it works on."""

    folder: Path
    home: Home

    def start(self, *arguments: str) -> subprocess.Popen[str]:
        log = (self.folder / "log").open("a")
        ours = ("PYTHONPATH", "AIRFLOW", ENV_PREFIX)
        environment = {name: value for name, value in os.environ.items() if not name.startswith(ours)}
        environment |= {
            "AIRFLOW_HOME": str(self.folder),
            "AIRFLOW__CORE__DAGS_FOLDER": str(self.folder / "dags"),
            "AIRFLOW__CORE__LOAD_EXAMPLES": "False",
            "NIGHTLY_HOME": str(self.home.folder),
        }
        command = [str(ENVIRONMENT / "bin" / "airflow"), *arguments]
        return subprocess.Popen(command, env=environment, stdout=log, stderr=subprocess.STDOUT, text=True)

    def night(self, day: str) -> None:
        """Execute the DAG for a day, in this thread."""
        self.start("dags", "test", "batchrec", day).wait(timeout=900)

    def rows(self, query: str, *values: str) -> list[tuple[Any, ...]]:
        with sqlite3.connect(self.folder / "airflow.db") as connection:
            return connection.execute(query, values).fetchall()

    def states(self, day: str) -> dict[str, tuple[str, int]]:
        """State and number of tries of each task of a day."""
        query = (
            "select task_id, task_instance.state, try_number from task_instance "
            "join dag_run using (dag_id, run_id) where date(logical_date) = ?"
        )
        return {task: (state, tries) for task, state, tries in self.rows(query, day)}

    def pushed(self, day: str, task: str) -> dict[str, Any] | None:
        """Return what a task of a day left in XCom."""
        query = (
            "select value from xcom join dag_run using (dag_id, run_id) "
            "where date(logical_date) = ? and task_id = ? and key = 'return_value'"
        )
        found = self.rows(query, day, task)
        return json.loads(found[0][0]) if found else None

    def published_events(self) -> list[str]:
        """Run ids that the Asset was updated with."""
        return [json.loads(extra)["run_id"] for (extra,) in self.rows("select extra from asset_event order by id")]

    def said(self) -> str:
        return (self.folder / "log").read_text()


@pytest.fixture(scope="module")
def airflow(tmp_path_factory: pytest.TempPathFactory) -> Airflow:
    subprocess.run(["make", "airflow"], cwd=ROOT, check=True, timeout=900)
    world = make_world(tmp_path_factory.mktemp("world"))
    made = Airflow(tmp_path_factory.mktemp("airflow"), make_home(tmp_path_factory.mktemp("srv"), world))
    (made.folder / "dags").mkdir()
    dag = (JOBS / "airflow" / "batchrec_dag.py").read_text(encoding="utf-8")
    assert "minutes=15" in dag
    (made.folder / "dags" / "batchrec_dag.py").write_text(dag.replace("minutes=15", "seconds=1"))
    assert made.start("db", "migrate").wait(timeout=300) == 0, made.said()
    return made


def wait_for(condition: Callable[[], bool], process: subprocess.Popen[str], seconds: float = 300) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert process.poll() is None
        assert time.monotonic() < deadline
        time.sleep(0.05)


class TestDag:
    """In this order: the first night, the same again, a night with obstacles, a night that cannot be."""

    def test_a_night_is_published_proven_and_pushed(self, airflow: Airflow) -> None:
        airflow.night("2026-02-23")
        assert airflow.states("2026-02-23") == dict.fromkeys(TASKS, ("success", 1)), airflow.said()
        assert airflow.home.current() == "2026-02-23"
        manifest = json.loads((airflow.home.output / "2026-02-23" / "_manifest.json").read_text())
        assert manifest["as_of"].startswith("2026-02-23T00:00:00")

    def test_each_summary_is_in_xcom(self, airflow: Airflow) -> None:
        run, verify, push = (airflow.pushed("2026-02-23", task) for task in TASKS[1:])
        assert (run["run_id"], run["users"], run["parts"]) == ("2026-02-23", 1000, 25)
        assert (verify["rows"], push["pushed_users"]) == (1000, 1000)
        assert airflow.published_events() == ["2026-02-23"]

    def test_the_same_night_again_skips_the_run_and_pushes_nothing(self, airflow: Airflow) -> None:
        airflow.night("2026-02-23")
        skipped = {"prepare": "success", "run": "skipped", "verify": "success", "push": "success"}
        assert airflow.states("2026-02-23") == {task: (state, 1) for task, state in skipped.items()}
        assert airflow.pushed("2026-02-23", "run") is None
        assert airflow.pushed("2026-02-23", "push")["pushed_parts"] == 0
        assert airflow.published_events() == ["2026-02-23"]

    def test_a_busy_output_and_a_stop_are_tried_again(self, airflow: Airflow) -> None:
        part = airflow.home.output / "2026-02-24" / "part-00000.parquet"
        on_record = part.parent / "_journal" / "part-00000.json"
        with (airflow.home.output / ".lock").open("a") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            process = airflow.start("dags", "test", "batchrec", "2026-02-24")
            wait_for(lambda: "another process" in airflow.said(), process)
        wait_for(on_record.exists, process)
        first = part.stat().st_mtime_ns
        process.send_signal(signal.SIGTERM)  # reaches the task, which stops batchrec
        process.wait(timeout=900)
        states = airflow.states("2026-02-24")
        assert states["run"][0] == "success"
        assert states["run"][1] >= 3
        assert part.stat().st_mtime_ns == first
        assert airflow.published_events() == ["2026-02-23", "2026-02-24"]

    def test_what_no_retry_mends_fails_at_once(self, airflow: Airflow) -> None:
        job = airflow.home.folder / "job.toml"
        job.write_text(job.read_text() + "colour = 3\n")
        airflow.night("2026-02-25")
        failed = dict.fromkeys(("verify", "push"), ("upstream_failed", 0))
        assert airflow.states("2026-02-25") == {"prepare": ("success", 1), "run": ("failed", 1)} | failed
        assert "exit code 2: batchrec: error: " in airflow.said()
        assert airflow.home.current() == "2026-02-24"
