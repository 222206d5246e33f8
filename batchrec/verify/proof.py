"""The proof of a run: every part read back from where it lies, and held against manifest, catalogue and seen items."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, NamedTuple

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from batchrec.errors import ArtifactError, GateError
from batchrec.hashing import IdFingerprint
from batchrec.output.changes import CHANGES, read_increment
from batchrec.output.digests import DIGESTS, digest_records
from batchrec.output.manifest import MANIFEST
from batchrec.output.record import is_part
from batchrec.output.sums import check_part_file, part_records
from batchrec.schema import USER_ID, Source
from batchrec.verify.changes import check_changes
from batchrec.verify.checks import CHECKS, Expectation, check_part, counts_by_status

if TYPE_CHECKING:
    from batchrec.output.record import PartRecord
    from batchrec.output.storage import Storage

RUN_CHECKS = ("sums", "unlisted_parts", "part_order", "user_ids", "status_counts", "changes")
"""Checks of a run as a whole, beside those of :data:`~batchrec.verify.checks.CHECKS`.

- ``sums``: parts, digests and changes that are missing, unreadable, or of other bytes, SHA-256 or rows than the
  manifest says.
- ``unlisted_parts``: files in the folder, or beside the parts in folders of their own, that the manifest does not name
  and readers would take for the run's.
- ``part_order``: parts whose first user id does not come after the last one of the part before.
- ``user_ids``: 1 where the users of the run are not those that came in, in layout ``list``.
- ``status_counts``: statuses that the manifest counts otherwise than the rows, in layout ``list``.
- ``changes``: see :func:`~batchrec.verify.changes.check_changes`.
"""

_WITHOUT_FEATURES = "popularity"
_SOURCES_BY_LEVEL = {
    "retrieval": (str(Source.RETRIEVAL),),
    _WITHOUT_FEATURES: (str(Source.POPULARITY), str(Source.NONE)),
}
"""Sources by the first word of the level a part was made with, where it is not that of the run."""

Each = Callable[[Callable[["PartRecord"], "Finding"], Iterable["PartRecord"]], Iterable["Finding"]]
"""Applies a function to every part and gives the results in order, as ``map`` does."""


@dataclass(frozen=True)
class Evidence:
    """What the rows are held against.

    Parameters
    ----------
    catalogue
        (N,) raw item ids.
    seen_of
        (m,) distinct raw user ids to (m,) lists of raw item ids that each has seen as of the run's time; to None where
        there was no time to find out, which leaves that unchecked.
    suppressed_items, suppressed_users
        Raw ids that must not occur; None for none.
    """

    catalogue: pa.Array
    seen_of: Callable[[pa.Array], pa.Array | None]
    suppressed_items: pa.Array | None = None
    suppressed_users: pa.Array | None = None


class Finding(NamedTuple):
    """What one part was found to hold.

    Attributes
    ----------
    violations
        By check.
    damage
        Why the part could not be read; empty where it could.
    by_status
        Users by status, in layout ``list``.
    ids
        (m,) user ids in the order of the rows.
    items
        Items of all its lists.
    with_seen
        Whether its lists were held against what the users have seen.
    """

    violations: Mapping[str, int]
    damage: str
    by_status: Mapping[str, int]
    ids: pa.Array | None
    items: int
    with_seen: bool = True


def prove(
    storage: Storage, manifest: Mapping[str, Any], evidence: Evidence, remedy: str, each: Each = map
) -> dict[str, Any]:
    """Read a run again and see that everything it promises holds.

    Parameters
    ----------
    storage
        The run folder.
    manifest
        As it is published, or about to be.
    evidence
        What the rows are held against.
    remedy
        What to do where something does not hold.
    each
        Applies the check of one part to all; ``map`` unless parts are to be read side by side.

    Returns
    -------
    dict
        JSON values: ``checks`` (violations by name, all 0), ``parts``, ``rows``, ``list_items``, and
        ``parts_without_seen_check``: those made without a feature, whose lists are the same for all, and those whose
        users' seen items could not be read in time.

    Raises
    ------
    GateError
        Something does not hold; the message names the checks and how often each was violated.
    ArtifactError
        The manifest does not say what is to be expected.
    """
    records = part_records(storage, manifest)
    expected, levels = expectation(storage, manifest), _levels(manifest)

    def check(record: PartRecord) -> Finding:
        return check_record(storage, expected, evidence, record, levels.get(record.name))

    whole = _Whole(manifest)
    for finding in each(check, records):
        whole.add(finding)
    increment = read_increment(storage, manifest)
    beside = [*digest_records(storage, manifest), *(() if increment is None else increment.records)]
    for record in beside:
        whole.look_at(storage, record)
    if increment is not None and not whole.damages:
        whole.count("changes", check_changes(storage, records, increment))
    listed = {record.name for record in (*records, *beside)}
    whole.count("unlisted_parts", sum(_is_read(name) and name not in listed for name in storage.names()))
    violations = whole.violations()
    if any(violations.values()):
        raise _violated(storage, violations, whole.damages, remedy)
    rows = sum(record.rows for record in records)
    found = {"checks": violations, "parts": len(records), "rows": rows, "list_items": whole.items}
    return found | {"parts_without_seen_check": whole.without_seen}


class _Whole:
    """Adds up what the parts of a run were found to hold, in their order."""

    def __init__(self, manifest: Mapping[str, Any]) -> None:
        self._manifest = manifest
        self._violations: Counter[str] = Counter()
        self._by_status: Counter[str] = Counter()
        self._digest: IdFingerprint | None = None
        self._last: pa.Scalar | None = None
        self.damages: list[str] = []
        self.items = self.without_seen = 0

    def add(self, finding: Finding) -> None:
        self._violations.update(finding.violations)
        self._by_status.update(finding.by_status)
        self.items += finding.items
        self.without_seen += not finding.with_seen
        if finding.damage:
            self._violations["sums"] += 1
            self.damages.append(finding.damage)
        if finding.ids is not None and len(finding.ids):
            self._follow(finding.ids)

    def look_at(self, storage: Storage, record: PartRecord) -> None:
        """Hold a file beside the parts against its sum."""
        try:
            check_part_file(storage, record)
        except ArtifactError as error:
            self.count("sums", 1)
            self.damages.append(error.problem)

    def count(self, check: str, violations: int) -> None:
        self._violations[check] += violations

    def violations(self) -> dict[str, int]:
        found = {name: self._violations[name] for name in (*RUN_CHECKS, *CHECKS)}
        if self._manifest["options"]["layout"] == "list":
            accounting = self._manifest["accounting"]
            expected = {name: count for name, count in accounting["by_status"].items() if count}
            counted = {name: count for name, count in self._by_status.items() if count}
            names = expected.keys() | counted.keys()
            found["status_counts"] = sum(expected.get(name) != counted.get(name) for name in names)
            # Who was suppressed is not on record, so without them the ids cannot be summed as they came in.
            if not accounting["suppressed_users"]:
                digest = self._digest.hexdigest() if self._digest else None
                found["user_ids"] = int(digest != self._manifest["fingerprints"]["user_ids"])
        return found

    def _follow(self, ids: pa.Array) -> None:
        if self._last is not None and not pc.less(self._last, ids[0]).as_py():
            self._violations["part_order"] += 1
        self._last = ids[-1]
        self._digest = self._digest or IdFingerprint(ids.type)
        self._digest.update(ids)


def _is_read(name: str) -> bool:
    """Tell whether readers would take a file for one of the run's."""
    folder, _, last = name.rpartition("/")
    return is_part(last) and (not folder or folder.split("/", 1)[0] in (DIGESTS, CHANGES))


def check_record(
    storage: Storage, expected: Expectation, evidence: Evidence, record: PartRecord, level: str | None = None
) -> Finding:
    """Read one part and check it.

    Parameters
    ----------
    storage, expected, evidence
        The run folder, what each part should look like, and what the rows are held against.
    record
        The part.
    level
        The level of effort it was made with, as the manifest names it; None where it was made as was asked for.
    """
    try:
        check_part_file(storage, record)
        with storage.open(record.name) as file:
            table = pq.read_table(file)
    except ArtifactError as error:
        return Finding({}, error.problem, {}, None, 0)
    except (pa.ArrowException, OSError) as error:
        return Finding({}, str(error), {}, None, 0)
    kind = None if level is None else level.split()[0]
    ids, seen = _seen(table, evidence, with_seen=kind != _WITHOUT_FEATURES)
    degraded = () if kind is None else _SOURCES_BY_LEVEL.get(kind, expected.personal)
    expected = replace(expected, degraded=degraded)
    violations = check_part(
        table,
        expected,
        seen,
        evidence.catalogue,
        evidence.suppressed_items,
        evidence.suppressed_users,
    )
    is_list = "item_ids" in table.column_names
    items = pc.sum(pc.list_value_length(table["item_ids"])).as_py() or 0 if is_list else table.num_rows
    by_status = counts_by_status(table) if "status" in table.column_names else {}
    return Finding(violations, "", by_status, ids, items, seen is not None)


def _seen(table: pa.Table, evidence: Evidence, *, with_seen: bool) -> tuple[pa.Array | None, pa.Table | None]:
    """Return the user ids of the rows, and what these users have seen; nothing where there are no ids to ask for."""
    if USER_ID not in table.column_names:
        return None, None
    ids = table[USER_ID].combine_chunks()
    if ids.null_count:
        return None, None
    users = ids.unique()
    seen = evidence.seen_of(users) if with_seen else None
    return ids, None if seen is None else pa.table({USER_ID: users, "seen": seen})


def _levels(manifest: Mapping[str, Any]) -> Mapping[str, str]:
    deadline = manifest.get("deadline")
    return {} if deadline is None else {str(name): str(level) for name, level in deadline["degraded_parts"].items()}


def expectation(storage: Storage, manifest: Mapping[str, Any]) -> Expectation:
    """Return what a manifest says that every part of its run should look like.

    Raises
    ------
    ArtifactError
        It does not say it.
    """
    try:
        options, schema = manifest["options"], dict(manifest["schema"])
        personal = {"ranker": Source.RANKER, "retrieval": Source.RETRIEVAL}[options["rank_by"]]
        accounting = manifest["accounting"]
        _ = {str(name): int(count) for name, count in accounting["by_status"].items()}, accounting["suppressed_users"]
        _ = _levels(manifest)
        return Expectation(
            schema=tuple((str(name), str(dtype)) for name, dtype in schema.items()),
            layout=_one_of(options["layout"], "list", "long"),
            top_k=int(options["top_k"]),
            sampled=options["temperature"] != "inf",
            personal=(str(personal),),
        )
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise ArtifactError(
            f"{storage.shown(MANIFEST)} does not say what the run should hold ({type(error).__name__}: {error})",
            "give a run that this version of batchrec published",
        ) from error


def _one_of(value: object, *words: Any) -> Any:
    if value not in words:
        raise ValueError(f"{value!r} is none of {', '.join(words)}")
    return value


def _violated(storage: Storage, violations: Mapping[str, int], damages: list[str], remedy: str) -> GateError:
    found = ", ".join(f"{name} {count:,}" for name, count in violations.items() if count)
    first = f"; {damages[0]}" if damages else ""
    return GateError(
        f"{storage.shown()} does not hold what it promises: violations by check are {found}{first}",
        remedy,
    )
