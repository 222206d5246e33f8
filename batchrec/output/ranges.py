"""From which user id to which the files of a run reach."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import pyarrow as pa
import pyarrow.parquet as pq

from batchrec.errors import ArtifactError
from batchrec.schema import USER_ID

if TYPE_CHECKING:
    from collections.abc import Iterable

    from batchrec.output.record import PartRecord
    from batchrec.output.storage import Storage

    Id = int | str


@dataclass(frozen=True, slots=True)
class IdRange:
    """A file whose rows are those of users from `first` to `last`, both included.

    Parameters
    ----------
    record
        The file.
    first, last
        Raw user ids; strings compare by their UTF-8 bytes, as Python's own do by code point.
    """

    record: PartRecord
    first: Id
    last: Id

    def reaches(self, lower: Id | None, upper: Id | None) -> bool:
        """Tell whether there can be ids from `lower` on and below `upper` in it; None is no bound."""
        return (upper is None or self.first < upper) and (lower is None or self.last >= lower)  # type: ignore[operator]


def id_ranges(folder: Storage, records: Iterable[PartRecord]) -> tuple[IdRange, ...]:
    """Look up where each file begins and ends; files without rows are left out.

    Raises
    ------
    ArtifactError
        A file cannot be read, or has no users.
    """
    return tuple(IdRange(record, *_bounds(folder, record.name)) for record in records if record.rows)


def _bounds(folder: Storage, name: str) -> tuple[Id, Id]:
    try:
        # Statistics in the footer would do, but there are none of very long strings.
        with folder.open(name) as file:
            ids = pq.read_table(file, columns=[USER_ID])[USER_ID]
        return ids[0].as_py(), ids[-1].as_py()
    except (FileNotFoundError, IndexError, KeyError, pa.ArrowException) as error:
        raise ArtifactError(
            f"{folder.shown(name)} does not tell which users it holds ({error})", "publish that run anew"
        ) from error
