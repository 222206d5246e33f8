"""The run that another one is computed since: found, held against its sums, and read."""

from __future__ import annotations

import hashlib
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from batchrec.engine.cluster import THREADS
from batchrec.errors import ArtifactError, ConfigError
from batchrec.output.digests import digest_records
from batchrec.output.location import CURRENT, check_run_id
from batchrec.output.manifest import MANIFEST, read_manifest
from batchrec.output.publish import SUCCESS, open_run
from batchrec.output.ranges import IdRange, id_ranges
from batchrec.output.storage import is_url, open_storage
from batchrec.output.sums import check_part_file, part_records
from batchrec.progress import say
from batchrec.schema import USER_ID

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from batchrec.output.ranges import Id
    from batchrec.output.storage import Storage

_HINT = "name another run, or leave out --since to compute every user"

_WORDS = {"bundle": "the bundle", "items": "the features of items", "code": "batchrec itself or a library under it"}


@dataclass(frozen=True)
class Previous:
    """A published run, as this one looks back at it; small, so that it travels with every task.

    Parameters
    ----------
    place
        Path or URL of its folder.
    run_id
        Its name.
    manifest
        SHA-256 of its manifest, which holds the sums of its files.
    inputs
        What all its lists were computed from; None where it keeps no digests.
    rows, digests
        Its part files and the files of its digests, with the users they reach from and to.
    """

    place: str
    run_id: str
    manifest: str
    inputs: Mapping[str, Any] | None
    rows: tuple[IdRange, ...]
    digests: tuple[IdRange, ...]

    @property
    def folder(self) -> Storage:
        """Its folder."""
        return open_storage(self.place)

    def rows_between(self, lower: Id | None, upper: Id | None) -> Iterator[pa.Table]:
        """Yield the rows of users from `lower` on and below `upper`, ascending; None is no bound.

        Raises
        ------
        ArtifactError
            A part cannot be read.
        """
        for part in self.rows:
            if part.reaches(lower, upper):
                table = read_rows(self.folder, part.record.name)
                yield table.filter(_within(table[USER_ID], lower, upper))


def open_previous(since: str, output: Storage) -> Previous | None:
    """Find a published run and hold every file of it against its sum.

    Parameters
    ----------
    since
        A run of the output folder by its name, ``current`` for the newest one; or the path or URL of a run.
    output
        The output folder.

    Returns
    -------
    Previous or None
        None where ``current`` is asked for and nothing is published yet: a job that runs every night has a first one.

    Raises
    ------
    ConfigError
        There is no such run, or it is not published.
    ArtifactError
        It is damaged.
    """
    name = output.pointed(CURRENT) if since == CURRENT else since
    if name is None:
        say("--since current: nothing is published yet, every user is computed")
        return None
    folder = open_run(name) if "/" in name else _named(output, name)
    if not folder.exists(SUCCESS):
        raise ConfigError(f"--since {since}: {folder.shown()} is not a published run", _HINT)
    try:
        manifest = read_manifest(folder)
        parts, digests = part_records(folder, manifest), digest_records(folder, manifest)
        with ThreadPoolExecutor(THREADS) as threads:
            list(threads.map(partial(check_part_file, folder), (*parts, *digests)))
        place = folder.path() if is_url(folder.path()) else str(Path(folder.path()).absolute())
        return Previous(
            place,
            str(manifest["run_id"]),
            hashlib.sha256(folder.read(MANIFEST)).hexdigest(),
            manifest["digests"]["inputs"] if digests else None,
            id_ranges(folder, parts),
            id_ranges(folder, digests),
        )
    except ArtifactError as error:
        raise ArtifactError(f"--since {since}: {error.problem}", f"restore that run from a copy, {_HINT}") from error


def reusable(previous: Previous | None, inputs: Mapping[str, Any]) -> Previous | None:
    """Return the previous run if its lists can be carried over; otherwise say why every user is computed."""
    differs = "" if previous is None else what_differs(previous, inputs)
    if previous is not None and differs:
        say(f"every user is computed: run {previous.run_id} {differs}")
        return None
    return previous


def what_differs(previous: Previous, inputs: Mapping[str, Any]) -> str:
    """Say what keeps the lists of a previous run from being carried over; empty where nothing does.

    Parameters
    ----------
    previous
        The previous run.
    inputs
        What all lists share. ``bundle``, ``items``, ``code``: sums; ``options``: those that decide lists, by name.
    """
    before = previous.inputs
    if before is None:
        return "keeps no digests"
    changed = [words for name, words in _WORDS.items() if before.get(name) != inputs[name]]
    then, now = before.get("options", {}), inputs["options"]
    changed += [
        f"{name} ({then.get(name)!r} then, {now.get(name)!r} now)"
        for name in sorted(then.keys() | now.keys())
        if then.get(name) != now.get(name)
    ]
    return f"was made with others of these: {', '.join(changed)}" if changed else ""


def _named(output: Storage, name: str) -> Storage:
    try:
        return output.folder(check_run_id(name))
    except ConfigError as error:
        raise ConfigError(f"--since {name!r} is neither the name nor the path of a run", _HINT) from error


def _within(ids: pa.ChunkedArray, lower: Id | None, upper: Id | None) -> pa.Array:
    keep = pa.array(np.ones(len(ids), bool))
    if lower is not None:
        keep = pc.and_(keep, pc.greater_equal(ids, pa.scalar(lower, ids.type)))
    if upper is not None:
        keep = pc.and_(keep, pc.less(ids, pa.scalar(upper, ids.type)))
    return keep


def read_rows(folder: Storage, part: str) -> pa.Table:
    """Read a part of a previous run.

    Raises
    ------
    ArtifactError
        It cannot be read any more.
    """
    try:
        with folder.open(part) as file:
            return pq.read_table(file)
    except (FileNotFoundError, pa.ArrowException) as error:
        raise ArtifactError(
            f"{folder.shown(part)} of the run that --since names cannot be read ({error})",
            "leave that run alone while another is computed since it; then run again",
        ) from error
