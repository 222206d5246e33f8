"""Building a bundle's index: what ``batchrec index`` does."""

from __future__ import annotations

import os
import secrets
from contextlib import suppress
from typing import TYPE_CHECKING, Any, Literal

from batchrec.errors import ConfigError, SinkError
from batchrec.models.bundle import Bundle, save_format, sha256
from batchrec.models.bundle_format import BUNDLE_FILE, IndexFormat
from batchrec.models.index import FLAT_UP_TO, Tuned, build_index, write_index
from batchrec.output.storage import is_url, local_path, open_storage
from batchrec.progress import say
from batchrec.remote_bundle import fetch, format_at, named_by

if TYPE_CHECKING:
    from pathlib import Path

Kind = Literal["auto", "flat", "ivf"]


def build(place: Path | str, recall_at: int = 100, target: float = 0.99, kind: Kind = "auto") -> dict[str, Any]:
    """Build the index of a bundle's item embeddings, measure it, and put both into the bundle.

    Whatever happens, a bundle that opens lies there: the index is written under a name of its own before
    ``bundle.json`` names it, and the one before goes last.

    Parameters
    ----------
    place
        Folder or URL of the bundle. A damaged index in it does no harm, any other damage does.
    recall_at
        Depth, in items, at which recall is measured.
    target
        Recall to reach against exact search, as a share, 0 to 1.
    kind
        Exact (``flat``), inverted file (``ivf``), or by catalogue size (``auto``).

    Returns
    -------
    dict
        Summary: the bundle, its items, and what ``bundle.json`` says of the index.

    Raises
    ------
    ConfigError
        If a number is out of its range.
    ArtifactError
        If the bundle cannot be used.
    SinkError
        If the object store does not answer.
    """
    if recall_at < 1 or not 0 <= target <= 1:
        raise ConfigError(
            f"recall_at is {recall_at}, target is {target}; expected at least 1, and a share from 0 to 1",
            "correct the one that is out of range",
        )
    if not is_url(str(place)):
        return _built(Bundle.open(local_path(str(place)), check_index=False), str(place), recall_at, target, kind)
    storage = open_storage(place)
    before = format_at(place).index
    with storage.scratch("index") as folder, named_by(place, folder):
        fetch(storage, folder, leave_out=None if before is None else before.path)
        summary = _built(Bundle.open(folder, check_index=False), storage.shown(), recall_at, target, kind)
        storage.put(folder / summary["index"]["path"], summary["index"]["path"])
        storage.put(folder / BUNDLE_FILE, BUNDLE_FILE)
    if before is not None and before.path != summary["index"]["path"]:
        storage.remove([before.path])
    return summary


def _built(bundle: Bundle, shown: str, recall_at: int, target: float, kind: Kind) -> dict[str, Any]:
    flat_up_to = {"auto": FLAT_UP_TO, "flat": bundle.format.catalogue_size, "ivf": 0}[kind]
    say(f"Building the index of {bundle.format.catalogue_size:,} items")
    tuned = build_index(bundle.item_embeddings, bundle.query_sample, recall_at, target, flat_up_to)
    if tuned.kind != "Flat" and tuned.queries == 0:
        say(f"bundle {shown} has no sample of queries: recall is measured on item embeddings instead")
    index = _store(bundle, tuned)
    return {"bundle": shown, "items": bundle.format.catalogue_size, "index": index.model_dump()}


def _store(bundle: Bundle, tuned: Tuned) -> IndexFormat:
    temporary = bundle.folder / f".index.{secrets.token_hex(8)}.tmp"
    try:
        write_index(tuned.index, temporary)
        _sync(temporary)
        sum_ = sha256(temporary)
        name = f"index-{sum_[:12]}.faiss"
        temporary.replace(bundle.folder / name)
    except (OSError, RuntimeError) as error:  # Faiss raises the latter
        raise SinkError(
            f"the index cannot be written into {bundle.folder} ({str(error).strip().splitlines()[-1]})",
            "let this user write there and see that the disk has room, or build it on a copy of the bundle",
        ) from error
    finally:
        with suppress(OSError):
            temporary.unlink(missing_ok=True)
    index = IndexFormat(
        path=name,
        kind=tuned.kind,
        nprobe=tuned.nprobe,
        recall=tuned.recall,
        recall_at=tuned.recall_at,
        deeper=tuned.deeper,
        queries=tuned.queries,
    )
    before = bundle.format.index
    kept = {file: known for file, known in bundle.format.files.items() if before is None or file != before.path}
    save_format(bundle.folder, bundle.format.model_copy(update={"index": index, "files": kept | {name: sum_}}))
    if before is not None and before.path != name:
        with suppress(OSError):  # the new index is in place; a stray file does no harm
            (bundle.folder / before.path).unlink()
    return index


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
