"""Parts that stand in for partitions whose features were not read: they failed, or there was no time."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from batchrec.output.part import count_by_status
from batchrec.resources import resources
from batchrec.schema import Source, Status
from batchrec.stages.sample import Sampled
from batchrec.users import read_partition
from batchrec.worker import with_fallback, write_lists

if TYPE_CHECKING:
    import numpy.typing as npt

    from batchrec.output.record import PartRecord
    from batchrec.worker import Work


def write_failed(work: Work, number: int) -> PartRecord:
    """Write the part of a partition that failed: a row a user, with an empty list and status ``failed``.

    Raises
    ------
    SinkError
        It could not be written.
    """
    rows = read_partition(work.users, number)
    lists = _empty(rows.num_rows, work.options.top_k)
    loaded = resources(work.bundle, work.feature_repo, work.as_of, work.device)
    return write_lists(rows, lists, *_all(rows.num_rows, Status.FAILED, Source.NONE), loaded, work, number)


def write_popular(work: Work, number: int) -> tuple[PartRecord, dict[str, int]]:
    """Write the part of a partition that there was no time for: the most popular items for all, status ``degraded``.

    What the users have seen is not known here, so it may be among the items. With ``--fallback none``, or a bundle
    that knows no popularity, the lists are empty.

    Returns
    -------
    PartRecord
        The file.
    dict
        The users, counted by status.

    Raises
    ------
    SinkError
        It could not be written.
    """
    rows = read_partition(work.users, number)
    users = rows.num_rows
    loaded = resources(work.bundle, work.feature_repo, work.as_of, work.device)
    popular = loaded.popular if work.fallback == "popularity" else loaded.popular[:0]
    nobody = np.zeros(users, bool)
    lists = with_fallback(_empty(users, work.options.top_k), nobody, popular, loaded.bundle.popularity)
    source = Source.POPULARITY if len(popular) else Source.NONE
    words = _all(users, Status.DEGRADED, source)
    return write_lists(rows, lists, *words, loaded, work, number), count_by_status(words[0])


def _all(users: int, status: Status, source: Source) -> tuple[npt.NDArray[np.str_], npt.NDArray[np.str_]]:
    return np.full(users, status), np.full(users, source)


def _empty(users: int, k: int) -> Sampled:
    shape = (users, k)
    return Sampled(np.full(shape, -1), np.full(shape, -np.inf, np.float32), np.zeros(shape, np.float32))
