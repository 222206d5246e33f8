"""A published run for the eye: a few users' lists with readable items."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any

import pyarrow.parquet as pq

from batchrec.errors import ArtifactError, SchemaError
from batchrec.output.manifest import read_manifest
from batchrec.output.publish import open_run
from batchrec.output.sums import verified_parts
from batchrec.schema import ITEM_ID, USER_ID

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from rich.table import Table

    from batchrec.output.storage import Storage

_INVISIBLE = re.compile(r"[\x00-\x1f\x7f-\x9f\u2028\u2029\u202a-\u202e\u2066-\u2069]")
"""Control characters, line breaks of any kind, and marks that turn the direction of what follows."""


def lists_table(run: str, items: Path | None, users: int) -> Table:
    """Make a table of the first users' lists; ids and titles stand in it as they are, never as markup.

    Parameters
    ----------
    run
        Path or URL of a published run in layout ``list``, or of the pointer to one.
    items
        Parquet file with ``item_id`` and ``title``; None shows ids.
    users
        How many users.

    Raises
    ------
    ArtifactError
        If the folder is not a published run in layout ``list``, or a part is missing or not the one that was published.
    SchemaError
        If the items cannot be read.
    """
    from rich.table import Table
    from rich.text import Text

    folder = open_run(run)
    manifest = read_manifest(folder)
    if "item_ids" not in manifest["schema"]:
        raise ArtifactError(f"{run} was written in layout long", "show a run in layout list")
    parts = verified_parts(folder, manifest)
    titles = _titles(items)
    title = _visible(f"run {manifest['run_id']}, as of {manifest['as_of']}")
    table = Table(title=Text(title, "table.title"), show_lines=True)
    for name in ("user", "status", "list, in its order"):
        table.add_column(name)
    for row in _first_rows(folder, parts, users):
        cells = _visible(row[USER_ID]), _visible(row["status"]), _list(row, titles)
        table.add_row(*map(Text, cells))
    return table


def _first_rows(folder: Storage, parts: list[str], users: int) -> Iterator[dict[str, Any]]:
    for name in parts:
        with folder.open(name) as file:
            rows = pq.read_table(file).slice(0, users).to_pylist()
        yield from rows
        users -= len(rows)
        if users <= 0:
            return


def _list(row: dict[str, Any], titles: dict[Any, str]) -> str:
    places = zip(row["item_ids"], row["scores"], strict=True)
    return "\n".join(
        f"{rank:>2}. {_visible(titles.get(item, item))}  ({score:.2f})" for rank, (item, score) in enumerate(places, 1)
    )


def _visible(value: object) -> str:
    """Write out the characters by which data could move the cursor, break a line or turn its direction."""
    return _INVISIBLE.sub(lambda found: found[0].encode("unicode_escape").decode(), str(value))


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
