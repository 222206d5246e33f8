"""``batchrec plan``: what a run will make and need, before it is made, and whether there is room for it."""

from __future__ import annotations

import time
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

from batchrec.deadline import Deadline
from batchrec.engine.cluster import ADDRESSES
from batchrec.engine.device import check_choice, settled_device
from batchrec.errors import ConfigError, GateError
from batchrec.output.storage import is_url, local_path, open_storage
from batchrec.pilot import pilot
from batchrec.proof_of_run import evidence_of, part_prover
from batchrec.resources import release_resources
from batchrec.resume import device_choice
from batchrec.room import available_memory, free_disk, watched
from batchrec.run import check_id_type, load, schema_of, work_of
from batchrec.stopwatch import Stopwatch
from batchrec.temporary import temporary_folder
from batchrec.times import shown_duration
from batchrec.users import partition_sizes, prepare_users

if TYPE_CHECKING:
    from pathlib import Path

    from rich.table import Table

    from batchrec.config import JobConfig
    from batchrec.pilot import Measured

_PILOT = "pilot"


@dataclass(frozen=True)
class Plan:
    """What a run will make and need.

    Parameters
    ----------
    input_rows, null_rows, duplicate_rows, users, partitions
        Counted, not predicted: all ids are read and sorted.
    rows, output_bytes
        Of the part files.
    seconds
        By step: ``read users`` and ``load models`` as they just took, ``compute`` and ``verify``; ``all``.
    memory_bytes
        Peak of all processes of this machine together.
    memory_available_bytes
        What was not in use before.
    disk_bytes
        Output and sorted ids, where the output is a folder of this machine.
    disk_free_bytes
        On the output's disk; None for a URL.
    time_left_seconds
        Until the deadline, if the options set one.
    pilot_users
        Users that were computed to find this out.
    """

    input_rows: int
    null_rows: int
    duplicate_rows: int
    users: int
    partitions: int
    rows: int
    output_bytes: int
    seconds: dict[str, float]
    memory_bytes: int
    memory_available_bytes: int
    disk_bytes: int
    disk_free_bytes: int | None
    time_left_seconds: float | None
    pilot_users: int

    def lacking(self) -> list[str]:
        """Say what there is not enough of; nothing where the run has room."""
        found = []
        if self.memory_bytes > self.memory_available_bytes:
            found.append(f"memory: {_bytes(self.memory_bytes)} needed, {_bytes(self.memory_available_bytes)} available")
        if self.disk_free_bytes is not None and self.disk_bytes > self.disk_free_bytes:
            found.append(f"disk: {_bytes(self.disk_bytes)} needed, {_bytes(self.disk_free_bytes)} free")
        if self.time_left_seconds is not None and self.seconds["all"] > self.time_left_seconds:
            needed, left = shown_duration(self.seconds["all"]), shown_duration(self.time_left_seconds)
            found.append(f"time: {needed} needed, {left} left, so that users would be degraded")
        return found

    def as_dict(self) -> dict[str, Any]:
        """Return JSON values."""
        return asdict(self) | {"lacking": self.lacking()}

    def table(self) -> Table:
        """Make a table for the eye."""
        from rich.table import Table

        table = Table(title=f"plan of a run, from a pilot of {self.pilot_users:,} users")
        for name in ("", "run", "there is"):
            table.add_column(name, justify="left" if not name else "right")
        seconds = self.seconds
        table.add_row("users", f"{self.users:,}", f"{self.input_rows:,} input rows")
        table.add_row("partitions", f"{self.partitions:,}", "")
        table.add_row("rows", f"{self.rows:,}", "")
        table.add_row("output", _bytes(self.output_bytes), "")
        free = "" if self.disk_free_bytes is None else f"{_bytes(self.disk_free_bytes)} free"
        table.add_row("disk", _bytes(self.disk_bytes), free)
        table.add_row("memory", _bytes(self.memory_bytes), f"{_bytes(self.memory_available_bytes)} available")
        for name in ("read users", "load models", "compute", "verify"):
            table.add_row(f"time to {name}", shown_duration(seconds[name]), "")
        left = "" if self.time_left_seconds is None else f"{shown_duration(self.time_left_seconds)} left"
        table.add_row("time in all", shown_duration(seconds["all"]), left)
        return table


def make_plan(config: JobConfig) -> Plan:
    """Predict a run by a pilot: nothing is published, no lock is taken, and nothing is left behind.

    Suppression lists, the push and the output's own speed, where it is not a disk of this machine, are left out.

    Raises
    ------
    ConfigError
        The run's partitions are computed by other machines, whose room cannot be seen from here.
    BatchrecError
        Whatever would end the run.
    """
    if config.cluster.startswith(ADDRESSES):
        raise ConfigError(
            f"--cluster is {config.cluster}: a plan measures on this machine", "plan with local or processes:N"
        )
    now, started, available = datetime.now(UTC), time.monotonic(), available_memory()
    deadline = Deadline.of(config, now, started)
    as_of = config.as_of or now.replace(microsecond=0)
    device = settled_device(config.device, config.cluster)
    check_choice(device_choice(config, device), config.cluster)
    config = config.model_copy(update={"as_of": as_of, "device": device})
    with temporary_folder("batchrec-plan-") as scratch:
        try:
            return _planned(config, as_of, scratch, available, deadline)
        finally:
            release_resources()


def check_room(plan: Plan) -> None:
    """See that the run has room.

    Raises
    ------
    GateError
        It has not; the message says what there is not enough of.
    """
    lacking = plan.lacking()
    if lacking:
        raise GateError(
            f"there is no room for the run ({'; '.join(lacking)})",
            "make room, or ask for less: fewer --users-per-partition need less memory, fewer --candidates less time",
        )


def _planned(config: JobConfig, as_of: datetime, folder: Path, available: int, deadline: Deadline | None) -> Plan:
    stopwatch = Stopwatch()
    with watched() as peak:
        with stopwatch("read users"):
            users, path = prepare_users(
                config.users,
                config.user_id_column,
                folder,
                config.users_per_partition,
                config.keep_columns,
                config.memory_limit,
            )
        check_id_type(users, config)
        with stopwatch("load models"):
            loaded = load(config, as_of)
    scratch = config.model_copy(update={"output": str(folder), "run_id": _PILOT})
    work = work_of(scratch, path, loaded.bundle.fingerprint)
    sizes = partition_sizes(path)
    storage = open_storage(folder).folder(_PILOT)
    schema = schema_of(users, loaded, config)
    prove_part = None
    if config.verify:
        prove_part = part_prover(config, storage, schema, evidence_of(loaded, config, None, None))
    found = pilot(work, sizes, folder, config.cluster, prove_part)
    output_bytes = round(found.bytes.of(sizes))
    is_local = not is_url(config.output)
    return Plan(
        input_rows=users.input_rows,
        null_rows=users.null_rows,
        duplicate_rows=users.duplicate_rows,
        users=users.distinct_users,
        partitions=len(sizes),
        rows=round(found.rows.of(sizes)),
        output_bytes=output_bytes,
        seconds=_seconds(stopwatch.seconds, found, sizes),
        memory_bytes=max(peak.bytes, found.resident + round(found.memory.of(sizes[:1]))),
        memory_available_bytes=available,
        disk_bytes=output_bytes + path.stat().st_size if is_local else 0,
        disk_free_bytes=free_disk(local_path(config.output)) if is_local else None,
        time_left_seconds=_time_left(config, deadline),
        pilot_users=found.users,
    )


def _seconds(measured: dict[str, float], found: Measured, sizes: list[int]) -> dict[str, float]:
    steps = measured | {"compute": found.warm_up + found.compute.of(sizes), "verify": found.proof.of(sizes)}
    return {name: round(seconds, 2) for name, seconds in (steps | {"all": sum(steps.values())}).items()}


def _bytes(number: int) -> str:
    for unit, size in (("GB", 10**9), ("MB", 10**6), ("kB", 10**3)):
        if number >= size:
            return f"{number / size:,.1f} {unit}"
    return f"{number} B"


def _time_left(config: JobConfig, deadline: Deadline | None) -> float | None:
    """Seconds that the run has if it is started now: a budget begins with the run itself, a deadline is when it is."""
    if config.time_budget is not None:
        return round(float(config.time_budget), 1)
    return None if deadline is None else round((deadline.at - datetime.now(UTC)).total_seconds(), 1)
