"""What is on record of a push: of which run, into which view of which store, and which parts are there.

The journal lies in the output folder, beside the runs, one for each store and view, whatever run was pushed there last:
when another run is pushed, what was on record of the one before counts no longer.
"""

from __future__ import annotations

import json
import secrets
from dataclasses import asdict, dataclass
from datetime import datetime
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from batchrec.output.record import PartRecord
    from batchrec.output.storage import Storage

FOLDER = ".pushed"
"""Name of the folder, inside an output folder, of all journals of pushes."""

_BEGUN = "begun.json"

_BEFORE = "before.json"
"""Names of the runs whose users may have lists in the store that are none of the run's that is pushed now."""


@dataclass(frozen=True, slots=True)
class Target:
    """What a journal is bound to.

    Parameters
    ----------
    run_id
        Name of the run.
    manifest
        SHA-256 of its manifest, which holds the sums of its parts.
    place
        Which view of which store, see :attr:`~batchrec.features.online.OnlineView.place`.
    """

    run_id: str
    manifest: str
    place: str


class PushJournal:
    """The journal of one push; made by :meth:`resume` or :meth:`begin`.

    Parameters
    ----------
    storage
        Folder of the journal.
    token
        Random name of the push; entries with another one are of an earlier push.
    at
        When the push began: the event timestamp of all its rows.
    of_changes
        Whether it began with a store that held the run before, to which it adds what differs.
    """

    def __init__(self, storage: Storage, token: str, at: datetime, *, of_changes: bool) -> None:
        self.storage, self.token, self.at, self.of_changes = storage, token, at, of_changes

    @classmethod
    def resume(cls, storage: Storage, target: Target) -> PushJournal | None:
        """Return the journal of a push of the same run into the same store; None where there is none, or it is damaged.

        Raises
        ------
        SinkError
            The storage does not answer.
        """
        try:
            begun = json.loads(storage.read(_BEGUN))
            at = datetime.fromisoformat(begun["at"])
            same = all(begun[name] == value for name, value in asdict(target).items())
            if not same or at.tzinfo is None:
                return None
            return cls(storage, str(begun["token"]), at, of_changes=begun.get("of_changes") is True)
        except (FileNotFoundError, AttributeError, KeyError, TypeError, ValueError):
            return None

    @classmethod
    def begin(cls, storage: Storage, target: Target, at: datetime, *, of_changes: bool = False) -> PushJournal:
        """Begin a push from its first part; what was on record before is gone.

        Raises
        ------
        SinkError
            It could not be written.
        """
        journal = cls(storage, secrets.token_hex(16), at, of_changes=of_changes)
        content = {**asdict(target), "at": at.isoformat(), "token": journal.token, "of_changes": of_changes}
        journal._remember()
        storage.write(_BEGUN, json.dumps(content).encode())
        storage.remove([name for name in storage.names() if name.startswith("part-")])
        return journal

    def forget(self) -> None:
        """Let the next push begin from its first part."""
        self._remember()
        self.storage.remove([_BEGUN])

    def before(self) -> list[str]:
        """Return the names of the runs that were pushed before, in part or whole, since :meth:`settle` was called."""
        names = self._read(_BEFORE).get("runs")
        return [name for name in names if isinstance(name, str)] if isinstance(names, list) else []

    def settle(self) -> None:
        """Record that the store holds no list but those of the run that is pushed now."""
        self.storage.remove([_BEFORE])

    def _remember(self) -> None:
        """Put the run that was begun last to those that were pushed before."""
        run_id = self._read(_BEGUN).get("run_id")
        if isinstance(run_id, str):
            names = list(dict.fromkeys([*self.before(), run_id]))
            self.storage.write(_BEFORE, json.dumps({"runs": names}).encode())

    def _read(self, name: str) -> dict[str, Any]:
        try:
            content = json.loads(self.storage.read(name))
        except (FileNotFoundError, ValueError):
            return {}
        return content if isinstance(content, dict) else {}

    def append(self, record: PartRecord, users: int) -> None:
        """Record a part, of so many users, whose every row is in the store.

        Raises
        ------
        SinkError
            It could not be written; the part counts as not pushed.
        """
        self.storage.write(_entry_name(record), json.dumps({**self._identity(record), "users": users}).encode())

    def pushed(self, records: list[PartRecord]) -> dict[str, int]:
        """Return the users of the parts that are on record, by name of the part; a damaged entry counts as none."""
        there = set(self.storage.names())
        found = {record.name: self._users(record) for record in records if _entry_name(record) in there}
        return {name: users for name, users in found.items() if users is not None}

    def _users(self, record: PartRecord) -> int | None:
        try:
            entry = json.loads(self.storage.read(_entry_name(record)))
            users = entry.pop("users")
        except (FileNotFoundError, AttributeError, KeyError, TypeError, ValueError):
            return None
        return users if entry == self._identity(record) and type(users) is int else None

    def _identity(self, record: PartRecord) -> dict[str, Any]:
        return {"token": self.token, "part": record.name, "sha256": record.sha256}


def _entry_name(record: PartRecord) -> str:
    return f"{record.name.removesuffix('.parquet')}.json"
