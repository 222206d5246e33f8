"""Users who had a row in a run that was pushed before and have none in this one: their old lists must not stay."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from batchrec.errors import ArtifactError
from batchrec.schema import USER_ID

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from batchrec.output.storage import Storage

_IDS_READ = 100_000


def gone_users(
    before: Storage, parts_before: Sequence[str], now: Storage, parts_now: Sequence[str]
) -> Iterator[pa.Array]:
    """Yield the users of one run who have no row in another, ascending, some at a time.

    Of both runs no more is in memory than what covers one stretch of users.

    Parameters
    ----------
    before, parts_before
        Folder and parts of the earlier run; users ascend within and across parts.
    now, parts_now
        Those of the later one.

    Raises
    ------
    ArtifactError
        A part cannot be read.
    SinkError
        The storage does not answer.
    """
    later = _ids(now, parts_now)
    window: list[pa.Array] = []
    for ids in _ids(before, parts_before):
        last = ids[-1].as_py()
        while not window or window[-1][-1].as_py() < last:
            chunk = next(later, None)
            if chunk is None:
                break
            window.append(chunk)
        known = pa.chunked_array(window, ids.type).combine_chunks()
        gone = ids.filter(pc.invert(pc.is_in(ids, value_set=known)))
        if len(gone):
            yield gone
        window = [chunk for chunk in window if chunk[-1].as_py() >= last]


def _ids(folder: Storage, parts: Sequence[str]) -> Iterator[pa.Array]:
    """Yield the users of a run, some at a time; in layout ``long`` one may come again with the next ones."""
    for part in parts:
        try:
            with folder.open(part) as file:
                for batch in pq.ParquetFile(file).iter_batches(_IDS_READ, columns=[USER_ID]):
                    if len(batch):
                        yield batch.column(0).unique()
        except (FileNotFoundError, pa.ArrowException) as error:
            raise ArtifactError(
                f"{folder.shown(part)} cannot be read ({error})", "restore it from a copy, or publish the run anew"
            ) from error
