"""Data frames in the memory of a GPU: what cuDF does in another way than pandas."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from batchrec.frames import FrameLibrary, as_int64, read_with_arrow, to_array, values_of_lists

if TYPE_CHECKING:
    from collections.abc import Sequence

    import pyarrow as pa

    from batchrec.frames import FilePart


def cudf_frames() -> FrameLibrary:
    """Return how cuDF makes frames, and let Dask make its own with it from now on in this process."""
    import cudf
    import dask

    dask.config.set({"dataframe.backend": "cudf"})
    to_array.register(cudf.Series, _to_cupy)
    as_int64.register(cudf.Series, _as_int64)
    values_of_lists.register(cudf.Series, _values_of_lists)
    return FrameLibrary(cudf.DataFrame.from_arrow, _read)


def _read(parts: Sequence[FilePart], schema: pa.Schema) -> Any:
    """Let cuDF read and decode files of this machine; of others it would fetch more than the row groups."""
    import cudf

    if any(part.is_remote for part in parts):
        return cudf.DataFrame.from_arrow(read_with_arrow(parts, schema))
    return cudf.read_parquet(
        [part.path for part in parts],
        columns=schema.names,
        row_groups=[part.groups for part in parts],
        use_pandas_metadata=False,
        dataset_kwargs={"partitioning": None},  # folders called a=b are no columns here
        allow_mismatched_pq_schemas=len(parts) > 1,  # other columns may differ from file to file
    )


def _to_cupy(series: Any, dtype: str, null: float) -> Any:
    return series.astype(dtype).to_cupy(na_value=null)


def _as_int64(series: Any) -> Any:
    if series.dtype.kind == "M":
        series = series.astype("datetime64[us]")
    return series.astype("int64")


def _values_of_lists(series: Any) -> Any:
    return series.list.leaves
