"""nightly.sh, the crontab, the systemd units and the command of the Kubernetes manifest: executed as a scheduler would.

One night: a run is stopped while it is at work, cron's line goes on with it, and every later try finds it published.
"""

from __future__ import annotations

import fcntl
import json
import os
import re
import shlex
import shutil
import signal
import subprocess
import time
from configparser import RawConfigParser
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import TYPE_CHECKING

import pytest
import yaml

from batchrec import cli, errors
from tests.faults.support import wait_for
from tests.jobs.home import JOBS, Home, make_home

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

SYSTEMD = sorted((JOBS / "systemd").iterdir())
needs_systemd = pytest.mark.skipif(shutil.which("systemd-analyze") is None, reason="systemd-analyze is not installed")


@dataclass(frozen=True)
class Crontab:
    """Variables and commands of a crontab, as cron reads them."""

    variables: dict[str, str]
    commands: list[str]

    @classmethod
    def read(cls, text: str) -> Crontab:
        lines = [line for line in text.splitlines() if line.strip() and not line.startswith("#")]
        variables = dict(line.split("=", 1) for line in lines if re.match(r"[A-Z]+=", line))
        jobs = [line for line in lines if not re.match(r"[A-Z]+=", line)]
        assert all(re.match(r"[\d*/,-]+( [\d*/,-]+){4} ", job) for job in jobs)
        # cron ends the command at a % that is not escaped, and takes the backslash of one that is.
        commands = [re.split(r"(?<!\\)%", job.split(None, 5)[5])[0].replace("\\%", "%") for job in jobs]
        return cls(variables, commands)

    def execute(self, number: int, user_home: Path) -> subprocess.CompletedProcess[str]:
        """Execute a command in the environment that cron gives it; what it prints is what cron mails."""
        environment = {"LOGNAME": "batchrec", "HOME": str(user_home)} | self.variables
        return subprocess.run(
            [self.variables["SHELL"], "-c", self.commands[number]],
            cwd=user_home,
            env=environment,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            timeout=300,
        )


@dataclass(frozen=True)
class Night:
    """What came of one night's first try, which was stopped, and of the line of cron that followed."""

    home: Home
    day: str
    stopped_with: int
    seconds_to_stop: float
    first_part: tuple[int, int]
    mail: subprocess.CompletedProcess[str]

    def cron(self, number: int = 0) -> subprocess.CompletedProcess[str]:
        text = self.home.here((JOBS / "crontab").read_text(encoding="utf-8"))
        return Crontab.read(text).execute(number, self.home.folder.parent)

    def nightly(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        return shell(self.home, shlex.join(["./nightly.sh", *arguments]))

    @property
    def log(self) -> str:
        return (self.home.folder / "log" / f"{self.day}.log").read_text()


def shell(home: Home, command: str) -> subprocess.CompletedProcess[str]:
    environment = {"PATH": home.path, "HOME": "/"}
    return subprocess.run(
        ["/bin/sh", "-c", command], cwd=home.folder, env=environment, capture_output=True, text=True, timeout=300
    )


def identity(path: Path) -> tuple[int, int]:
    return path.stat().st_ino, path.stat().st_mtime_ns


@pytest.fixture(scope="module")
def night(world, tmp_path_factory) -> Night:
    home = make_home(tmp_path_factory.mktemp("srv"), world)
    day = f"{datetime.now(UTC):%Y-%m-%d}"
    part = home.output / day / "_journal" / "part-00000.json"
    first = subprocess.Popen(
        ["./nightly.sh", day], cwd=home.folder, env={"PATH": home.path}, stderr=subprocess.PIPE, text=True
    )
    wait_for(part.is_file, first)
    first.send_signal(signal.SIGTERM)
    began = time.monotonic()
    first.communicate(timeout=120)
    stopped = time.monotonic() - began
    kept = identity(home.output / day / "part-00000.parquet")
    made = Night(home, day, first.returncode, stopped, kept, subprocess.CompletedProcess([], 0))
    return Night(home, day, first.returncode, stopped, kept, made.cron())


@pytest.fixture
def locked(night: Night, request: pytest.FixtureRequest) -> Iterator[None]:
    """Hold a lock as another process would."""
    with (night.home.folder / request.param).open("a") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


class TestCron:
    def test_the_first_try_stops_when_told_to(self, night: Night) -> None:
        assert night.stopped_with == errors.BusyError.exit_code
        assert night.seconds_to_stop < cli.SECONDS_TO_STOP + 2

    def test_the_line_goes_on_with_the_run_and_mails_nothing(self, night: Night) -> None:
        assert (night.mail.returncode, night.mail.stdout) == (0, "")
        assert night.home.is_published(night.day)
        assert night.home.current() == night.day
        assert identity(night.home.output / night.day / "part-00000.parquet") == night.first_part

    def test_the_log_tells_of_the_run_and_the_summary_lies_beside_it(self, night: Night) -> None:
        assert re.search(r"verified: 25 parts, 1,000 rows", night.log)
        summaries = (night.home.folder / "log" / f"{night.day}.json").read_text().splitlines()
        assert [json.loads(line)["run_id"] for line in summaries] == [night.day]

    def test_a_try_after_publication_mails_nothing_and_changes_nothing(self, night: Night) -> None:
        before = sorted((path.name, identity(path)) for path in (night.home.output / night.day).iterdir())
        mail = night.cron()
        assert (mail.returncode, mail.stdout) == (0, "")
        assert "is published already" in night.log.splitlines()[-1]
        assert sorted((path.name, identity(path)) for path in (night.home.output / night.day).iterdir()) == before

    @pytest.mark.parametrize("locked", ["log/lock"], indirect=True)
    def test_a_try_while_another_is_at_work_leaves_no_trace(self, night: Night, locked: None) -> None:
        before = night.log
        mail = night.cron()
        assert (mail.returncode, mail.stdout, night.log) == (0, "", before)

    @pytest.mark.parametrize("locked", ["output/.lock"], indirect=True)
    def test_a_run_that_somebody_else_makes_is_mailed(self, night: Night, locked: None) -> None:
        mail = night.cron()
        assert mail.stdout.startswith("nightly.sh: exit code 75\n")
        assert "another process" in mail.stdout
        assert mail.stdout.splitlines()[1:] == night.log.splitlines()[-3:]

    def test_an_error_is_mailed_with_what_to_do(self, night: Night) -> None:
        job = night.home.folder / "job.toml"
        right = job.read_text()
        job.write_text(right + "colour = 3\n")
        try:
            mail = night.cron()
        finally:
            job.write_text(right)
        assert mail.stdout.startswith("nightly.sh: exit code 2\n")
        assert "colour" in mail.stdout

    def test_a_folder_that_is_away_is_mailed_and_nothing_is_started(self, night: Night, tmp_path: Path) -> None:
        text = (JOBS / "crontab").read_text(encoding="utf-8").replace("/srv/batchrec", str(tmp_path / "away"))
        mail = Crontab.read(text).execute(0, tmp_path)
        assert mail.returncode != 0
        assert str(tmp_path / "away") in mail.stdout
        assert list(tmp_path.iterdir()) == []

    def test_the_second_line_removes_old_logs_and_runs(self, night: Night) -> None:
        old = night.home.folder / "log" / "2026-01-02.log"
        old.touch()
        os.utime(old, (0, 0))
        mail = night.cron(1)
        assert (mail.returncode, mail.stdout) == (0, "")
        assert not old.exists()
        last = (night.home.folder / "log" / f"{night.day}.json").read_text().splitlines()[-1]
        assert json.loads(last)["removed"] == []
        assert night.home.is_published(night.day)


class TestNightly:
    def test_a_day_that_is_published_ends_with_99(self, night: Night) -> None:
        assert night.nightly(night.day).returncode == errors.NothingToDo.exit_code

    def test_options_are_those_of_a_run(self, night: Night) -> None:
        done = night.nightly("2026-02-20", "--candidates=nonsense")
        assert done.returncode == 2
        assert "--candidates" in done.stderr


def unit(name: str) -> RawConfigParser:
    read = RawConfigParser(strict=False)
    read.optionxform = str  # type: ignore[assignment,method-assign]
    read.read(JOBS / "systemd" / name)
    return read


def all_exit_codes() -> set[int]:
    kinds = [errors.BatchrecError]
    for kind in kinds:
        kinds.extend(kind.__subclasses__())
    return {kind.exit_code for kind in kinds} | {0, cli.EXIT_INTERRUPTED, cli.EXIT_TERMINATED}


class TestSystemd:
    @needs_systemd
    def test_systemd_takes_the_units(self, night: Night, tmp_path: Path) -> None:
        said = self.analyze(night.home, tmp_path, "verify")
        assert (said.returncode, said.stdout + said.stderr) == (0, "")

    @needs_systemd
    def test_systemd_refuses_the_setting_that_oneshot_does_not_have(self, night: Night, tmp_path: Path) -> None:
        said = self.analyze(night.home, tmp_path, "verify", before="Restart=on-failure", after="Restart=always")
        assert said.returncode != 0
        assert "isn't allowed for Type=oneshot" in said.stderr

    @needs_systemd
    def test_the_service_is_shut_off_from_what_it_does_not_need(self, night: Night, tmp_path: Path) -> None:
        said = self.analyze(night.home, tmp_path, "security", "--offline=yes", "--threshold=40", only=".service")
        assert said.returncode == 0, said.stdout

    @staticmethod
    def analyze(
        home: Home, folder: Path, *words: str, only: str = "", before: str = "", after: str = ""
    ) -> subprocess.CompletedProcess[str]:
        """Run systemd-analyze over the units, with the home in the place of /srv/batchrec."""
        for path in SYSTEMD:
            (folder / path.name).write_text(home.here(path.read_text()).replace(before, after))
        units = [str(path) for path in folder.iterdir() if path.name.endswith(only)]
        return subprocess.run(["systemd-analyze", *words, *units], capture_output=True, text=True, timeout=120)

    def test_the_timer_starts_the_service(self) -> None:
        assert {path.name for path in SYSTEMD} == {"batchrec.service", "batchrec.timer"}
        assert unit("batchrec.timer")["Timer"]["OnCalendar"].endswith(" UTC")  # as the run's name is

    def test_its_command_runs_in_its_environment(self, night: Night) -> None:
        service = unit("batchrec.service")["Service"]
        name, path = service["Environment"].split("=", 1)
        done = subprocess.run(
            [night.home.here(service["ExecStart"])],
            cwd=night.home.here(service["WorkingDirectory"]),
            env={name: night.home.here(path)},
            capture_output=True,
            text=True,
            timeout=120,
        )
        assert done.returncode == int(service["SuccessExitStatus"]) == errors.NothingToDo.exit_code
        assert f"output/{night.day} is published already" in done.stderr

    def test_only_what_passes_by_itself_is_tried_again(self) -> None:
        service = unit("batchrec.service")["Service"]
        fine = {0, int(service["SuccessExitStatus"])}
        given_up = {int(code) for code in service["RestartPreventExitStatus"].split()}
        assert service["Restart"] == "on-failure"
        assert all_exit_codes() - fine - given_up == {errors.BusyError.exit_code}

    def test_it_waits_longer_than_batchrec_takes_to_stop(self) -> None:
        assert float(unit("batchrec.service")["Service"]["TimeoutStopSec"].removesuffix("s")) > cli.SECONDS_TO_STOP


class TestKubernetesCommand:
    @staticmethod
    def command(home: Home, folder: Path) -> subprocess.CompletedProcess[str]:
        """Start the container's command as the image has it: nightly.sh is on its PATH."""
        manifest = yaml.safe_load((JOBS / "kubernetes" / "cronjob.yaml").read_text())
        (container,) = manifest["spec"]["jobTemplate"]["spec"]["template"]["spec"]["containers"]
        environment = {"PATH": f"{home.folder}:{home.path}"}
        words = [*container["command"], *container["args"]]
        return subprocess.run(words, cwd=folder, env=environment, capture_output=True, text=True, timeout=120)

    def test_a_published_day_is_a_success(self, night: Night) -> None:
        done = self.command(night.home, night.home.folder)
        assert (done.returncode, done.stdout, done.stderr) == (0, "", "")

    def test_otherwise_the_exit_code_is_that_of_the_run(self, night: Night, tmp_path: Path) -> None:
        (tmp_path / "job.toml").write_text("colour = 3\n")
        done = self.command(night.home, tmp_path)
        assert done.returncode == 2
        assert "colour" in done.stderr
