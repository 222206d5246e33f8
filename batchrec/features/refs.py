"""Features and join keys by name and type, as a registry describes them, and the words for them in messages."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from batchrec.errors import FeatureError
from batchrec.features.dtypes import parse_type, type_name

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence


@dataclass(frozen=True)
class FeatureRef:
    """One feature of one view, with the type its values have.

    Parameters
    ----------
    view
        Name of the feature view.
    feature
        Name of the feature in that view; also the column name in results.
    dtype
        Arrow type name, such as ``int64``, ``string``, ``float``, ``double`` or ``list<int64>``.
    """

    view: str
    feature: str
    dtype: str

    @property
    def ref(self) -> str:
        """Feast's own way to write the reference, ``view:feature``."""
        return f"{self.view}:{self.feature}"


@dataclass(frozen=True)
class JoinKey:
    """The one column by which a view is joined, and its Arrow type name."""

    name: str
    dtype: str


def feature_ref(view: str, field: Any) -> FeatureRef:
    """Return the reference to a field of a view.

    Raises
    ------
    FeatureError
        If features cannot have the field's type.
    """
    return FeatureRef(view, field.name, dtype_of(view, field))


def dtype_of(view: str, field: Any) -> str:
    """Return the Arrow type name of a field of a view.

    Raises
    ------
    FeatureError
        If features cannot have the field's type.
    """
    from feast.types import from_feast_to_pyarrow_type

    try:
        name = type_name(from_feast_to_pyarrow_type(field.dtype))
        parse_type(name)
    except (ValueError, FeatureError) as error:
        raise FeatureError(
            f"feature {view}:{field.name} has the Feast type {field.dtype}, which features cannot have here",
            "use Int32, Int64, Float32, Float64, Bool, String, UnixTimestamp or an Array of one of these",
        ) from error
    return name


def key_of(view: Any) -> JoinKey:
    """Return the column by which a view of the registry is joined.

    Raises
    ------
    FeatureError
        If the view has no entity, or several.
    """
    from feast.feature_view import DUMMY_ENTITY_ID

    columns = view.entity_columns
    if len(columns) != 1 or columns[0].name == DUMMY_ENTITY_ID:
        keys = [] if len(columns) == 1 else [column.name for column in columns]
        raise FeatureError(
            f"feature view {view.name!r} has {len(keys)} join keys ({listed(keys)}), expected exactly one",
            "define the view with one entity, and that entity with one join key",
        )
    return JoinKey(columns[0].name, dtype_of(view.name, columns[0]))


def check_names(refs: Sequence[FeatureRef]) -> None:
    """See that features can be the columns of one table, and that Feast gives them all.

    Raises
    ------
    FeatureError
        If two have one name, or Feast would drop one.
    """
    names = [ref.feature for ref in refs]
    if len(set(names)) < len(names):
        twice = [ref.ref for ref in refs if names.count(ref.feature) > 1]
        raise FeatureError(f"features {listed(twice)} would fall into one column", "ask for one, or rename one")
    lost = [ref.ref for ref in refs if ref.feature.endswith("_y")]
    if lost:
        raise FeatureError(
            f"feature names end in _y ({listed(lost)}), and Feast's duckdb join drops such columns",
            "rename the features, in the source or by the source's field_mapping",
        )


def listed(names: Iterable[str]) -> str:
    """Return names for a message, or "none"."""
    return ", ".join(names) or "none"


def brief(error: Exception) -> str:
    """Return the kind of an error and the first line of what it says; of a traceback that it quotes, the last."""
    lines = str(error).strip().splitlines()
    if lines and lines[0].startswith("Traceback "):  # DuckDB's words for what fails in Python
        return lines[-1]
    return f"{type(error).__name__}: {lines[0]}" if lines else type(error).__name__
