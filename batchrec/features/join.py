"""One join by Feast's offline store: asked again where that may help, and not believed before it is counted."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from batchrec.errors import FeatureError
from batchrec.features.connection import feast_call, own_connection
from batchrec.features.dtypes import cast_exactly, parse_type, type_name
from batchrec.features.refs import brief, listed
from batchrec.features.retry import retried

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from batchrec.features.asof import ViewRows
    from batchrec.features.refs import FeatureRef

_ROW = "batchrec_row"


def join(feast: Any, repo: Path, entities: pa.Table, refs: Sequence[FeatureRef], waits: Sequence[float]) -> pa.Table:
    """Return features for entity rows.

    Parameters
    ----------
    feast
        Feast's own feature store.
    repo
        Folder it was opened from.
    entities
        (n,) distinct entity rows: the join key and the event timestamp.
    refs
        Features to read.
    waits
        Seconds between tries.

    Returns
    -------
    pa.Table
        (n,) rows in the order of `entities`; one column a feature.

    Raises
    ------
    FeatureError
        If the store fails at every try, or its answer does not fit the question.
    """
    rows = np.arange(entities.num_rows)
    numbered = entities.append_column(_ROW, pa.array(rows))
    names = [ref.ref for ref in refs]

    def ask() -> pa.Table:
        # Full names (view__feature), so that a feature may be called like a join key or like our row.
        with feast_call(), own_connection(repo):
            return feast.get_historical_features(numbered.to_pandas(), names, full_feature_names=True).to_arrow()

    try:
        joined = retried(ask, f"joining {listed(dict.fromkeys(ref.view for ref in refs))}", waits)
    except Exception as error:
        raise FeatureError(
            f"the offline store of {repo} could not join {listed(names)} ({brief(error)})",
            "see that the sources of these views are whole and hold these columns, then try again",
        ) from error
    joined = joined.take(pc.sort_indices(joined[_ROW]))
    if not np.array_equal(joined[_ROW].to_numpy(), rows):
        raise FeatureError(
            f"the offline store of {repo} gave {joined.num_rows} rows for {len(rows)} ids and times while "
            f"joining {listed(names)}",
            "see that the store's join gives exactly one row for each id and time",
        )
    return pa.table({ref.feature: _cast(joined[f"{ref.view}__{ref.feature}"], ref) for ref in refs})


def views_to_join(
    feast: Any, repo: Path, entities: pa.Table, refs: Sequence[FeatureRef]
) -> list[tuple[ViewRows, list[FeatureRef]]] | None:
    """Return which rows our own offline store would join, and the features of each; None where it would not join them.

    Parameters
    ----------
    feast, repo, refs
        As for :func:`join`.
    entities
        Any entity rows: nothing is read.
    """
    from batchrec.features.offline_store import SortedOfflineStoreConfig, views_of

    if not isinstance(feast.config.offline_store, SortedOfflineStoreConfig):
        return None
    names = [ref.ref for ref in refs]
    with feast_call(), own_connection(repo):
        job = feast.get_historical_features(entities.to_pandas(), names, full_feature_names=True)
    by_name = {f"{ref.view}__{ref.feature}": ref for ref in refs}
    views = views_of(job)
    return None if views is None else [(rows, [by_name[name] for name in rows.features]) for rows in views]


def _cast(column: pa.ChunkedArray, ref: FeatureRef) -> pa.ChunkedArray:
    try:
        return cast_exactly(column, parse_type(ref.dtype))
    except (pa.ArrowInvalid, pa.ArrowNotImplementedError) as error:
        raise FeatureError(
            f"feature {ref.ref} is {type_name(column.type)} in its source, expected {ref.dtype} ({brief(error)})",
            "store the feature with the dtype that its view declares",
        ) from error
