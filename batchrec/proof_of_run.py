"""The proof of a run before it is published, and how long that will take."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from batchrec.deadline import InTime
from batchrec.engine.cluster import THREADS
from batchrec.errors import BusyError, FeatureError
from batchrec.progress import say
from batchrec.reserve import Reserve
from batchrec.verify.proof import Evidence, check_record, expectation, prove

if TYPE_CHECKING:
    from collections.abc import Callable

    import pyarrow as pa

    from batchrec.config import JobConfig
    from batchrec.deadline import Deadline
    from batchrec.output.manifest import Manifest
    from batchrec.output.record import PartRecord
    from batchrec.output.storage import Storage
    from batchrec.resources import Resources
    from batchrec.suppression import Suppression
    from batchrec.verify.proof import Finding

_UNPROVEN = "nothing was published; run again, which redoes damaged parts, and report it if it happens again"


def evidence_of(
    loaded: Resources, config: JobConfig, suppression: Suppression | None, ask_until: Callable[[], float] | None
) -> Evidence:
    """Return what the rows of a run are held against; seen items are waited for until a moment, if one is given."""

    def seen_of(ids: pa.Array) -> pa.Array:
        return loaded.store.point_in_time(ids, config.as_of, [loaded.seen])[loaded.seen.feature].combine_chunks()

    return Evidence(
        loaded.bundle.item_ids,
        seen_of if ask_until is None else InTime(seen_of, ask_until),
        None if suppression is None else suppression.items,
        None if suppression is None else suppression.users,
    )


def proof_of(storage: Storage, manifest: Manifest, evidence: Evidence) -> dict[str, Any]:
    """Prove a run that is about to be published; returns what :func:`~batchrec.verify.proof.prove` does.

    Raises
    ------
    GateError
        Something does not hold.
    BusyError
        The feature store did not say what users have seen.
    """
    try:
        with ThreadPoolExecutor(THREADS) as threads:
            proof = prove(storage, manifest.as_dict(), evidence, _UNPROVEN, threads.map)
    except FeatureError as error:
        raise BusyError(
            f"all parts are finished, but seen items could not be read to prove them ({error.problem})",
            "run again with --resume, or with --no-verify",
        ) from error
    without = proof["parts_without_seen_check"]
    but = f"; {without:,} parts not held against what their users have seen" if without else ""
    say(
        f"verified: {proof['parts']:,} parts, {proof['rows']:,} rows, {proof['list_items']:,} list items, "
        f"no violation{but}",
        event="verified",
    )
    return proof


def reserve_for(
    deadline: Deadline, config: JobConfig, storage: Storage, schema: pa.Schema, loaded: Resources, users: int
) -> Reserve:
    """Return what finds out how long suppression and proof of a run of so many users will take."""
    evidence = evidence_of(loaded, config, None, lambda: deadline.last_call)
    without = replace(evidence, seen_of=lambda _: None)
    tries = [part_prover(config, storage, schema, each) for each in (without, evidence)]
    return Reserve(deadline, users, tries, int(config.verify) + bool(config.suppress))


def part_prover(
    config: JobConfig, storage: Storage, schema: pa.Schema, evidence: Evidence
) -> Callable[[PartRecord], Finding]:
    """Return what proves one part of a run before the run has a manifest."""
    described = {
        "options": config.options(),
        "schema": {field.name: str(field.type) for field in schema},
        "accounting": {"by_status": {}, "suppressed_users": 0},
    }
    expected = expectation(storage, described)
    return lambda record: check_record(storage, expected, evidence, record)
