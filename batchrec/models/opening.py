"""A bundle's query tower and ranker: by the parts that it stores of the project's own models, otherwise by Keras."""

from __future__ import annotations

from contextlib import contextmanager
from functools import cache
from typing import TYPE_CHECKING, Any

from batchrec.errors import ArtifactError
from batchrec.models.bundle_format import HISTORY
from batchrec.models.dlrm import Dlrm, take_apart
from batchrec.models.serving import first_line, load_model, query_tower, ranking_by_parts, refuse_no_numbers
from batchrec.models.stored_parts import arrays_in, stored_parts
from batchrec.models.tower_algebra import TowerAlgebra
from batchrec.models.tower_parts import Tower

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from batchrec.models.bundle import Bundle
    from batchrec.models.serving import Arrays, Model, QueryTower, Ranking


def open_ranker(
    bundle: Bundle, users: set[str], items: Arrays, build: Callable[[Dlrm, Arrays], Ranking]
) -> tuple[Ranking | None, Callable[[], Model]]:
    """Return a bundle's ranker by its parts, or None where it is not the project's own, and the whole of it.

    Parameters
    ----------
    bundle
        The bundle.
    users, items, build
        As :func:`~batchrec.models.serving.ranking_by_parts` takes them.

    Returns
    -------
    by_parts
        What `build` makes of it.
    whole
        Returns the model, which is not loaded before it is asked for where the bundle stores the parts.
    """
    path, inputs = bundle.format.ranker.path, users | set(items)
    whole = cache(lambda: load_model(bundle.folder / path, inputs))
    parts = stored_parts(bundle.folder, path, bundle.format.files, Dlrm, inputs)
    if parts is not None:
        with _fitting(bundle.folder / path, parts):
            return ranking_by_parts(parts, users, items, build), whole
    return ranking_by_parts(take_apart(whole().keras), users, items, build), whole


def when_called(load: Callable[[], Callable[[Any], Any]]) -> Callable[[Any], Any]:
    """Return a function that is loaded when it is called; `load` keeps what it loads."""

    def call(argument: Any) -> Any:
        return load()(argument)

    return call


def open_tower(bundle: Bundle) -> TowerAlgebra | QueryTower:
    """Return a bundle's query tower over any number of users, by its algebra if it is the project's own."""
    tower, dimension = bundle.format.query_tower, bundle.format.embedding_dimension
    inputs = {one.name for one in tower.inputs} | {HISTORY}
    parts = stored_parts(bundle.folder, tower.path, bundle.format.files, Tower, inputs)
    if parts is not None:
        with _fitting(bundle.folder / tower.path, parts):
            if parts.items.shape[1] == dimension:
                return TowerAlgebra(parts)
    return query_tower(load_model(bundle.folder / tower.path, inputs), dimension)


@contextmanager
def _fitting(path: Path, parts: Dlrm | Tower) -> Iterator[None]:
    """See that stored parts are those of a model, and its weights numbers.

    Raises
    ------
    ArtifactError
        They are not.
    """
    try:
        refuse_no_numbers(path, arrays_in(parts))
        yield
    except (AttributeError, IndexError, TypeError, ValueError) as error:
        raise ArtifactError(
            f"the parts stored beside {path} do not fit together ({type(error).__name__}: {first_line(error)})",
            "make the bundle again with `batchrec train`",
        ) from error
