"""Parts pushed by several processes at once: turning rows into protobuf messages is work of the processor's."""

from __future__ import annotations

import gc
import multiprocessing
import signal
from contextlib import contextmanager
from dataclasses import dataclass
from multiprocessing.connection import wait
from typing import TYPE_CHECKING, Any

from batchrec.delivery.rows import user_rows
from batchrec.errors import BatchrecError, SinkError
from batchrec.features.store import FeatureStore
from batchrec.log import about, set_up_log
from batchrec.output.storage import open_storage
from batchrec.output.sums import check_part_file

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence
    from datetime import datetime
    from multiprocessing.connection import Connection
    from pathlib import Path

    from batchrec.features.online import OnlineView
    from batchrec.output.record import PartRecord


@dataclass(frozen=True)
class Work:
    """What a process needs to know; it travels to all of them.

    Parameters
    ----------
    run
        Path or URL of the run folder.
    repo
        Feast repository.
    view
        Name of the feature view.
    at
        Event timestamp of every row.
    batch
        Users that are written at once.
    """

    run: str
    repo: Path
    view: str
    at: datetime
    batch: int


def push_parts(
    work: Work,
    records: Sequence[PartRecord],
    workers: int,
    advance: Callable[[int], None],
    done: Callable[[PartRecord, int], None],
) -> None:
    """Write every row of some parts into the online store.

    Parameters
    ----------
    work
        Where from and where to.
    records
        The parts.
    workers
        Processes; with one, or one part, this process does the work itself.
    advance
        Told of every batch that is written: its users.
    done
        Told of every part of which all rows are written, and its users.

    Raises
    ------
    ArtifactError
        A part is not the one that was published.
    BusyError, SinkError
        The store does not take the rows, or a process died.
    """
    workers = min(workers, len(records))
    if workers > 1:
        with _processes(work, workers) as connections:
            _hand_out(connections, list(records), advance, done)
        return
    view = FeatureStore(work.repo).online(work.view)
    for record in records:
        done(record, _push_part(view, work, record, advance))


def _push_part(view: OnlineView, work: Work, record: PartRecord, advance: Callable[[int], None]) -> int:
    folder, users = open_storage(work.run), 0
    check_part_file(folder, record)
    for table in user_rows(folder, record.name, work.batch):
        view.write(table, work.at)
        users += len(table)
        advance(len(table))
    return users


@contextmanager
def _processes(work: Work, workers: int) -> Iterator[list[Connection]]:
    """Start processes that wait for parts; when the block ends, however it does, they end too.

    Each has a pipe of its own that nobody else holds, so that it also ends when this process is killed.
    """
    context = multiprocessing.get_context("spawn")
    pipes = [context.Pipe() for _ in range(workers)]
    processes = [context.Process(target=_serve, args=(work, theirs), daemon=True) for _, theirs in pipes]
    try:
        for process, (_, theirs) in zip(processes, pipes, strict=True):
            process.start()
            theirs.close()
        yield [ours for ours, _ in pipes]
    finally:
        for ours, _ in pipes:
            ours.close()
        for process in processes:
            if process.pid is not None:
                process.terminate()
                process.join()


def _hand_out(
    connections: list[Connection],
    waiting: list[PartRecord],
    advance: Callable[[int], None],
    done: Callable[[PartRecord, int], None],
) -> None:
    """Give every process a part after another until none is left and all are done."""
    waiting.reverse()
    in_work = {connection: _send(connection, waiting.pop()) for connection in connections}
    while in_work:
        for connection in wait(list(in_work)):
            message = _received(connection)  # type: ignore[arg-type]
            if isinstance(message, BatchrecError):
                raise message
            if isinstance(message, int):
                advance(message)
                continue
            done(in_work.pop(connection), message[0])  # type: ignore[call-overload]
            if waiting:
                in_work[connection] = _send(connection, waiting.pop())  # type: ignore[index, arg-type]


def _send(connection: Connection, record: PartRecord) -> PartRecord:
    try:
        connection.send(record)
    except OSError as error:
        raise _died() from error
    return record


def _received(connection: Connection) -> Any:
    try:
        return connection.recv()
    except (EOFError, OSError) as error:
        raise _died() from error


def _died() -> SinkError:
    return SinkError(
        "a process that pushes rows died (killed from outside, or out of memory)",
        "give fewer --workers, then run `batchrec push` again: it pushes what is missing",
    )


def _serve(work: Work, connection: Connection) -> None:
    """Push the parts that come in; send users of every batch as a number, of every part as a tuple of one."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C goes to all; the first process decides
    set_up_log()
    about(run_id=work.run.rstrip("/").rpartition("/")[2])
    try:
        try:
            view = FeatureStore(work.repo).online(work.view)
            # The modules stay as they are: every search for garbage would go through all of them again.
            gc.freeze()
            while True:
                users = _push_part(view, work, connection.recv(), connection.send)
                connection.send((users,))
        except BatchrecError as error:
            connection.send(error)
    except (EOFError, OSError):  # the first process has gone, or wants no more
        return
