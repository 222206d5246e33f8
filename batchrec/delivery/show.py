"""A published run for the eye: a few users' lists with readable items."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pyarrow.dataset as ds
import pyarrow.parquet as pq

from batchrec.errors import ArtifactError, SchemaError
from batchrec.output.manifest import read_manifest
from batchrec.schema import ITEM_ID, USER_ID

if TYPE_CHECKING:
    from pathlib import Path

    from rich.table import Table


def lists_table(run: Path, items: Path | None, users: int) -> Table:
    """Make a table of the first users' lists.

    Parameters
    ----------
    run
        Folder of a published run in layout ``list``, or a link to one.
    items
        Parquet file with ``item_id`` and ``title``; None shows ids.
    users
        How many users.

    Raises
    ------
    ArtifactError
        If the folder is not a published run in layout ``list``.
    SchemaError
        If the items cannot be read.
    """
    from rich.table import Table

    folder = run.resolve()
    manifest = read_manifest(folder)
    if "item_ids" not in manifest["schema"]:
        raise ArtifactError(f"{run} was written in layout long", "show a run in layout list")
    titles = _titles(items)
    table = Table(title=f"run {manifest['run_id']}, as of {manifest['as_of']}", show_lines=True)
    for name in ("user", "status", "list, best first"):
        table.add_column(name)
    for row in _first_rows(folder, manifest, users):
        places = zip(row["item_ids"], row["scores"], strict=True)
        lines = [f"{rank:>2}. {titles.get(item, item)}  ({score:.2f})" for rank, (item, score) in enumerate(places, 1)]
        table.add_row(str(row[USER_ID]), row["status"], "\n".join(lines))
    return table


def _first_rows(folder: Path, manifest: dict[str, Any], users: int) -> list[dict[str, Any]]:
    paths = [str(folder / part["name"]) for part in manifest["parts"]]
    return list(ds.dataset(paths, format="parquet").head(users).to_pylist())


def _titles(items: Path | None) -> dict[Any, str]:
    """Map raw item ids to what a reader can make sense of."""
    if items is None:
        return {}
    try:
        table = pq.read_table(items, columns=[ITEM_ID, "title"])
    except (OSError, ValueError, KeyError) as error:
        raise SchemaError(
            f"{items} cannot be read as Parquet with {ITEM_ID} and title ({error})", "name another"
        ) from error
    return dict(zip(table[ITEM_ID].to_pylist(), table["title"].to_pylist(), strict=True))
