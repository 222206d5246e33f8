"""Print the BigQuery schema of a published run, as ``bq mk --table`` and ``bq load`` take it.

Lists are REPEATED fields: load with ``--parquet_enable_list_inference``, which reads Parquet's list type as an array.
"""

from __future__ import annotations

import argparse
import json
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from batchrec.output.manifest import read_manifest
from batchrec.output.publish import open_run

TYPES = (
    (lambda dtype: pa.types.is_integer(dtype) and not pa.types.is_uint64(dtype), "INTEGER"),
    (lambda dtype: pa.types.is_float32(dtype) or pa.types.is_float64(dtype), "FLOAT"),
    (pa.types.is_string, "STRING"),
    (pa.types.is_boolean, "BOOLEAN"),
    (pa.types.is_date, "DATE"),
    (lambda dtype: pa.types.is_timestamp(dtype) and dtype.unit != "ns" and dtype.tz is not None, "TIMESTAMP"),
    (lambda dtype: pa.types.is_timestamp(dtype) and dtype.unit != "ns" and dtype.tz is None, "DATETIME"),
    (lambda dtype: _has_digits(dtype, whole=29, fraction=9), "NUMERIC"),
    (lambda dtype: _has_digits(dtype, whole=38, fraction=38), "BIGNUMERIC"),
)
"""What a column's type must be for each type of BigQuery, the first that fits."""


def bigquery_schema(run: str) -> list[dict[str, str]]:
    """Return the fields of a run's rows, one dictionary of name, type and mode a column.

    Parameters
    ----------
    run
        Path or URL of its folder, or of ``current``.

    Raises
    ------
    ValueError
        BigQuery has no type for a kept column, or the run has no part to tell its columns.
    """
    folder = open_run(run)
    parts = read_manifest(folder)["parts"]
    if not parts:
        raise ValueError(f"{folder.shown()} has no part, so its columns are not known: give a run with users")
    with folder.open(parts[0]["name"]) as file:
        return [_field(field) for field in pq.read_schema(file)]


def _field(field: pa.Field) -> dict[str, str]:
    repeated = pa.types.is_list(field.type)
    dtype = field.type.value_type if repeated else field.type
    mode = "REPEATED" if repeated else "NULLABLE" if field.nullable else "REQUIRED"
    found = next((name for fits, name in TYPES if fits(dtype)), None)
    if found is None:
        raise ValueError(f"column {field.name} is {dtype}, which BigQuery has no type for: cast it in the users file")
    return {"name": field.name, "type": found, "mode": mode}


def _has_digits(dtype: Any, whole: int, fraction: int) -> bool:
    """Tell whether a decimal has at most so many digits before and after its point."""
    return pa.types.is_decimal(dtype) and 0 <= dtype.scale <= fraction and dtype.precision - dtype.scale <= whole


def main() -> None:
    """Print the schema."""
    parser = argparse.ArgumentParser(description="Print the BigQuery schema of a published run.")
    parser.add_argument("run", help="path or URL of the run's folder, or of output/current")
    print(json.dumps(bigquery_schema(parser.parse_args().run), indent=2))


if __name__ == "__main__":
    main()
