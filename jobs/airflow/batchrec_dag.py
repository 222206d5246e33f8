"""The nightly batch in Airflow 3: prepare → run → verify → push, as of the day of the DAG run.

Copy this file into the DAG folder. batchrec has an environment of its own, in which its programs are started; nothing
of it is imported here, since its pins and Airflow's do not fit each other.
"""

from __future__ import annotations

import json
import os
import subprocess
from datetime import UTC, datetime, timedelta
from pathlib import Path
from tempfile import TemporaryFile
from typing import TYPE_CHECKING, Any, ClassVar

from airflow.sdk import DAG, Asset, BaseOperator, TriggerRule, chain
from airflow.sdk.exceptions import AirflowException, AirflowFailException, AirflowSkipException

if TYPE_CHECKING:
    from collections.abc import Sequence

    from airflow.sdk import Context

HOME = Path(os.environ.get("NIGHTLY_HOME", "/srv/batchrec"))
"""Folder of job.toml, nightly.sh, feature_repo and .venv; commands are started in it."""

OUTPUT = HOME / "output"
"""Folder of all runs, as job.toml has it."""

LISTS = Asset(name="batchrec_lists", uri=f"file://{OUTPUT}/current")
"""What a DAG that reads the lists is scheduled by."""

TEMPORARY, NOTHING_TO_DO = 75, 99


class Batchrec(BaseOperator):
    """One command of batchrec: its log is the task's, its JSON summary its XCom, its exit code decides what is next.

    Parameters
    ----------
    command
        Program and arguments, templated.
    """

    template_fields: ClassVar[Sequence[str]] = ("command",)

    def __init__(self, command: list[str], **options: Any) -> None:
        super().__init__(**options)
        self.command = command
        self._process: subprocess.Popen[str] | None = None

    def execute(self, context: Context) -> dict[str, Any]:
        """Run the command.

        Raises
        ------
        AirflowSkipException
            There is nothing to do (exit code 99).
        AirflowException
            It passes by itself (exit code 75): retried.
        AirflowFailException
            Anything else: not retried, since the same command would fail again.
        """
        code, out, last_log_line = self._run()
        if code == NOTHING_TO_DO:
            raise AirflowSkipException(last_log_line)
        if code == TEMPORARY:
            raise AirflowException(last_log_line)
        if code:
            raise AirflowFailException(f"exit code {code}: {last_log_line}")
        summary: dict[str, Any] = json.loads(out.splitlines()[-1])
        for asset in self.outlets:
            context["outlet_events"][asset].extra = {"run_id": summary["run_id"]}
        return summary

    def on_kill(self) -> None:
        """Let batchrec stop in order: what is finished stays, and a retry goes on from there."""
        if self._process:
            self._process.terminate()

    def _run(self) -> tuple[int, str, str]:
        """Return exit code, standard output and the last line of standard error."""
        path = f"{HOME / '.venv' / 'bin'}{os.pathsep}{os.environ['PATH']}"
        line = ""
        with TemporaryFile("w+") as out:
            process = self._process = subprocess.Popen(  # noqa: S603 - written below
                self.command, cwd=HOME, env=os.environ | {"PATH": path}, stdout=out, stderr=subprocess.PIPE, text=True
            )
            for line in process.stderr or ():
                self.log.info(line.rstrip())
            code = process.wait()
            out.seek(0)
            return code, out.read(), line.strip()


with DAG(
    dag_id="batchrec",
    description="A list of recommendations for every user",
    schedule="30 2 * * *",
    start_date=datetime(2026, 1, 1, tzinfo=UTC),
    catchup=False,
    max_active_runs=1,
    default_args={"retries": 8, "retry_delay": timedelta(minutes=15)},
):
    # Files that upstream jobs wrote in another order; those in order are left alone.
    prepare = Batchrec(
        task_id="prepare", command=["batchrec", "sort-features", "user_features", "item_features", "item_id_seen"]
    )
    # --as-of and --run-id are the day.
    run = Batchrec(task_id="run", command=["./nightly.sh", "{{ ds }}"], outlets=[LISTS])
    # Also where `run` was skipped, because the day is published: a push that was cut short is then gone on with.
    verify = Batchrec(
        task_id="verify",
        command=["batchrec", "verify", f"{OUTPUT}/{{{{ ds }}}}"],
        trigger_rule=TriggerRule.NONE_FAILED,
    )
    push = Batchrec(
        task_id="push", command=["batchrec", "push", f"{OUTPUT}/{{{{ ds }}}}"], trigger_rule=TriggerRule.NONE_FAILED
    )
    chain(prepare, run, verify, push)
