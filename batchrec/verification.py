"""``batchrec verify``: a published run proven again, from what lies on disk and from the feature store."""

from __future__ import annotations

from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from batchrec.errors import ArtifactError
from batchrec.features.store import FeatureRef, FeatureStore
from batchrec.models.bundle import Bundle
from batchrec.output.manifest import MANIFEST, read_manifest
from batchrec.output.publish import open_published
from batchrec.output.storage import is_url
from batchrec.remote_bundle import local_bundle, named_by
from batchrec.suppression import read_suppression
from batchrec.verify.proof import Evidence, prove

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    import pyarrow as pa

    from batchrec.output.storage import Storage


_UNPROVEN = "do not use this run; restore its files from a copy, or make it again under another --run-id"


@dataclass(frozen=True)
class _Made:
    """What the manifest says of how the run was made."""

    run_id: str
    as_of: datetime
    bundle: str
    feature_repo: Path
    bundle_fingerprint: str
    suppress: tuple[str, ...]


def verify_published(
    run: str, bundle: str | None, feature_repo: Path | None, suppress: Sequence[str]
) -> dict[str, Any]:
    """Read a published run again and prove it.

    Parameters
    ----------
    run
        Path or URL of its folder, or of the pointer ``current``.
    bundle, feature_repo
        Where these lie now; None for where the run found them.
    suppress
        Suppression lists that the rows must honour beside those that the run was given.

    Returns
    -------
    dict
        ``run_id`` and what :func:`~batchrec.verify.proof.prove` returns.

    Raises
    ------
    GateError
        Something does not hold.
    BatchrecError
        The run is not published, or bundle, features or suppression lists cannot be read, or the bundle is another.
    """
    folder = open_published(run)
    manifest = read_manifest(folder)
    made = _made(folder, manifest)
    with _bundle(made, bundle or made.bundle) as opened:
        evidence = _evidence(made, opened, feature_repo or made.feature_repo, (*made.suppress, *suppress))
    return {"run_id": made.run_id, **prove(folder, manifest, evidence, _UNPROVEN)}


@contextmanager
def _bundle(made: _Made, place: str) -> Iterator[Bundle]:
    """Open the bundle, and see that it is the one that the run was made with."""
    if not is_url(place):
        _refuse_missing(made, Path(place), "--bundle")
    with local_bundle(place) as folder, named_by(place, folder):
        bundle = Bundle.open(folder)
        if bundle.fingerprint != made.bundle_fingerprint:
            raise ArtifactError(
                f"{folder} is not the bundle that run {made.run_id} was made with (its {MANIFEST} names another sum)",
                "name that bundle with --bundle",
            )
        yield bundle


def _refuse_missing(made: _Made, place: Path, option: str) -> None:
    if not place.is_dir():
        raise ArtifactError(
            f"run {made.run_id} was made with {place}, which is not there", f"say with {option} where it is now"
        )


def _evidence(made: _Made, bundle: Bundle, feature_repo: Path, suppress: Sequence[str]) -> Evidence:
    _refuse_missing(made, feature_repo, "--feature-repo")
    described, store = bundle.format, FeatureStore.open(feature_repo)
    seen = FeatureRef(described.seen.view, described.seen.feature, described.seen.dtype)

    def seen_of(ids: pa.Array) -> pa.Array:
        return store.point_in_time(ids, made.as_of, [seen])[seen.feature].combine_chunks()

    lists = read_suppression(suppress, _arrow(described.user_id_type), bundle.item_ids.type)
    return Evidence(
        bundle.item_ids, seen_of, None if lists is None else lists.items, None if lists is None else lists.users
    )


def _arrow(name: str) -> pa.DataType:
    import pyarrow as pa

    return pa.type_for_alias(name)


def _made(folder: Storage, manifest: Mapping[str, Any]) -> _Made:
    try:
        options = manifest["options"]
        return _Made(
            run_id=str(manifest["run_id"]),
            as_of=datetime.fromisoformat(manifest["as_of"]),
            bundle=str(options["bundle"]),
            feature_repo=Path(options["feature_repo"]),
            bundle_fingerprint=manifest["fingerprints"]["bundle"],
            suppress=tuple(map(str, options["suppress"])),
        )
    except (KeyError, TypeError, ValueError) as error:
        raise ArtifactError(
            f"{folder.shown(MANIFEST)} does not say how the run was made ({type(error).__name__}: {error})",
            "give a run that this version of batchrec published",
        ) from error
