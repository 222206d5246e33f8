"""Which run is to be gone on with, and whether it may be: its inputs must be the ones that it began with."""

from __future__ import annotations

from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING

from batchrec.engine.device import AUTO, Choice, check_choice, settled_device
from batchrec.errors import ArtifactError, ConfigError, NothingToDo
from batchrec.output.journal import JOURNAL, Begun, read_begun, read_entries
from batchrec.output.location import CURRENT
from batchrec.output.publish import RunFolder, published_manifest
from batchrec.output.storage import is_url
from batchrec.output.sums import is_whole

if TYPE_CHECKING:
    from collections.abc import Mapping

    from batchrec.config import JobConfig
    from batchrec.output.journal import JournalEntry
    from batchrec.output.storage import Storage

_WORDS = {
    "users": "the users",
    "bundle": "the bundle",
    "features": "the files behind the feature views",
    "code": "batchrec itself or a library under it",
}


def settle(config: JobConfig, output: Storage, now: datetime) -> JobConfig:
    """Put in what follows from the clock and from an unfinished run, so that no option is left open.

    Local places are made absolute, so that the manifest tells where they were whoever reads it from wherever.

    The as-of time is the one asked for, otherwise that of the unfinished run of the same name, otherwise `now` to the
    second. The device is the one asked for, otherwise likewise that of the unfinished run, otherwise what there is. The
    name of the run is the one asked for, with ``resume`` otherwise that of the newest unfinished run (of the as-of time
    asked for), otherwise the as-of time.

    Raises
    ------
    ConfigError
        The run is published already, or there is none of this name to resume, or its device cannot be used, or not so.
    NothingToDo
        The run to resume is published already, or no run is unfinished.
    """
    run_id = config.run_id
    if run_id is None and config.resume:
        run_id = _newest_unfinished(output, config.as_of)
    if run_id is None:
        as_of = config.as_of or now.replace(microsecond=0)
        run_id = f"{as_of:%Y%m%dT%H%M%SZ}"
    folder = RunFolder.open(output, run_id)
    _refuse_published(config, folder)
    begun = read_begun(folder.storage)
    if config.resume and begun is None:
        raise ConfigError(f"there is no unfinished run {folder.shown}", "leave out --resume to start it")
    as_of = config.as_of or (now.replace(microsecond=0) if begun is None else begun.as_of)
    asked = begun.options.get("device", AUTO) if begun is not None and config.device == AUTO else config.device
    device = settled_device(str(asked), config.cluster)
    check_choice(device_choice(config, device), config.cluster)
    places = {name: _absolute(getattr(config, name)) for name in ("bundle", "feature_repo")}
    suppress = tuple(
        source if is_url(source) else str(Path(source).expanduser().absolute()) for source in config.suppress
    )
    return config.model_copy(update={"as_of": as_of, "run_id": run_id, "suppress": suppress, "device": device} | places)


def device_choice(config: JobConfig, device: str | None = None) -> Choice:
    """Return the options of a run that tell how its device, or another, is used."""
    return Choice(device or config.device, config.precision, config.index_storage, config.index_gpus)


def _absolute(place: Path | str) -> Path | str:
    return place if isinstance(place, str) else place.expanduser().absolute()


def check_unchanged(begun: Begun, fingerprints: Mapping[str, str], options: Mapping[str, object], shown: str) -> None:
    """See that a run goes on with what it began with.

    Raises
    ------
    ConfigError
        Something is another; the message says what.
    """
    if begun.fingerprints == fingerprints:
        return
    changed = [words for name, words in _WORDS.items() if begun.fingerprints.get(name) != fingerprints.get(name)]
    names = sorted(options.keys() | begun.options.keys())
    changed += [
        f"{name} ({begun.options.get(name)!r} then, {options.get(name)!r} now)"
        for name in names
        if begun.options.get(name) != options.get(name)
    ]
    raise ConfigError(
        f"the unfinished run {shown} was begun with others of these: {', '.join(changed) or 'options'}",
        "give it what it was begun with, or choose another --run-id, or remove its folder to start it anew",
    )


def finished_parts(folder: Storage) -> dict[str, JournalEntry]:
    """Return the parts that need not be made again, by name: in the journal, and there to the last byte."""
    entries = read_entries(folder)
    return {
        name: entry
        for name, entry in entries.items()
        if all(is_whole(folder, record) for record in (entry.part, entry.digests) if record is not None)
    }


def _newest_unfinished(output: Storage, as_of: datetime | None) -> str:
    unfinished, damaged, older = [], [], []
    newest = _as_of_current(output)
    for name in output.folders():
        try:
            begun = read_begun(output.folder(name))
        except ArtifactError as error:
            damaged.append(error)
            continue
        if begun is None or begun.run_id != name or as_of not in {None, begun.as_of}:
            continue
        if published_manifest(output, name) is not None:
            continue
        if as_of is None and newest is not None and begun.as_of < newest:
            older.append(name)  # finished now, it would take readers back to what was true before
        else:
            unfinished.append((begun.began, name))
    if unfinished:
        return max(unfinished)[1]
    if damaged:
        raise damaged[0]
    which = "" if as_of is None else f" as of {as_of:%Y-%m-%d %H:%M:%S}"
    but = f", but for {', '.join(older)}, as of an earlier time than the published one" if older else ""
    raise NothingToDo(
        f"no run in {output.shown()}{which} is unfinished{but}",
        "leave out --resume to start one" + (", or name the older one with --run-id" if older else ""),
    )


def _as_of_current(output: Storage) -> datetime | None:
    """Return the as-of time of the newest published run; None where there is none that tells."""
    run_id = output.pointed(CURRENT)
    try:
        manifest = None if run_id is None else published_manifest(output, run_id)
        return None if manifest is None else datetime.fromisoformat(manifest["as_of"])
    except (ArtifactError, ConfigError, KeyError, TypeError, ValueError):
        return None


def _refuse_published(config: JobConfig, folder: RunFolder) -> None:
    if published_manifest(folder.output, folder.run_id) is None:
        return
    folder.storage.remove(folder.storage.names(JOURNAL))  # left where a run was killed after its publication
    if config.resume:
        remedy = "there is nothing to go on with; another run needs another --run-id, without --resume"
        raise NothingToDo(f"{folder.shown} is published already", remedy)
    raise ConfigError(f"{folder.shown} already holds a published run", "choose another --run-id, or move that run away")
