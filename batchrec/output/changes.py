"""What differs between a run and the one that it was computed since: files beside the parts, named in the manifest.

Three lists, each in files of its own: users who are new, whose row is another, who have no row any more. The first two
hold rows as the parts do, the third user ids alone.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

from batchrec.errors import ArtifactError
from batchrec.output.manifest import MANIFEST
from batchrec.output.record import PartRecord, is_part

if TYPE_CHECKING:
    from collections.abc import Mapping

    from batchrec.output.storage import Storage

CHANGES = "_changes"
"""Folder inside a run folder; readers of the run's Parquet pass over names with ``_``."""

INSERTED, CHANGED, REMOVED = KINDS = ("inserted", "changed", "removed")
"""Names of the lists, and of their folders in :data:`CHANGES`."""


@dataclass(frozen=True)
class Increment:
    """How a run relates to the one that it was computed since.

    Parameters
    ----------
    run_id, place, manifest
        Name, folder (path or URL) and SHA-256 of the manifest of the earlier run.
    carried_users, computed_users
        Users whose lists were carried over, and all others.
    users
        Users of each list of :data:`KINDS`.
    files
        The files of each.
    """

    run_id: str
    place: str
    manifest: str
    carried_users: int
    computed_users: int
    users: Mapping[str, int]
    files: Mapping[str, list[PartRecord]]

    @property
    def records(self) -> list[PartRecord]:
        """All files, list by list."""
        return [record for records in self.files.values() for record in records]

    def as_dict(self) -> dict[str, Any]:
        """Return JSON values."""
        return asdict(self)

    def figures(self) -> dict[str, Any]:
        """Return what the summary of a run says of it."""
        carried, computed = self.carried_users, self.computed_users
        return {"run_id": self.run_id, "carried_users": carried, "computed_users": computed, **self.users}


def changes_name(kind: str, part: str) -> str:
    """Return the name, inside the run folder, of the file of a list that belongs to a part."""
    return f"{CHANGES}/{kind}/{part}"


def read_increment(folder: Storage, manifest: Mapping[str, Any]) -> Increment | None:
    """Return what a manifest says of the run before; None where it was computed since none.

    Raises
    ------
    ArtifactError
        It does not say it in full.
    """
    content = manifest.get("increment")
    if content is None:
        return None
    try:
        files = {kind: [PartRecord(**one) for one in content["files"][kind]] for kind in KINDS}
        users = {kind: int(content["users"][kind]) for kind in KINDS}
        increment = Increment(**(content | {"users": users, "files": files}))
        named = [(kind, record.name) for kind, records in files.items() for record in records]
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        raise _unusable(folder) from error
    if not all(
        is_part(name.rpartition("/")[2]) and name == changes_name(kind, name.rpartition("/")[2]) for kind, name in named
    ):
        raise _unusable(folder)
    return increment


def _unusable(folder: Storage) -> ArtifactError:
    return ArtifactError(f"{folder.shown(MANIFEST)} does not name its changes", "publish the run again")
