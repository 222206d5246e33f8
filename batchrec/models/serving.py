"""Trained models as the pipeline calls them: NumPy in, NumPy out, always the same batch shape.

A fixed shape means one compiled program and, on one device, the same bits for a row whatever stands beside it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np
import numpy.typing as npt

from batchrec.errors import ArtifactError
from batchrec.models import bundle_format
from batchrec.models.backend import import_keras
from batchrec.models.keras_graph import inputs_of
from batchrec.models.tensors import jitted
from batchrec.models.threads import set_up_tensorflow, turn
from batchrec.models.tower_algebra import TowerAlgebra
from batchrec.models.tower_parts import take_tower_apart

if TYPE_CHECKING:
    from pathlib import Path

    from batchrec.models.dlrm import Dlrm

Arrays = Mapping[str, npt.NDArray[np.generic]]
BatchFunction = Callable[[Arrays], npt.NDArray[np.float32]]
"""Named inputs of one fixed batch size, (B, …) each, to the model's one output (B, …)."""

Ranking = TypeVar("Ranking")
Run = Callable[[Arrays], Any]
"""A model as its library runs it."""

QUERY_BATCH = 256
"""Users a call of the query tower: enough to share out, few enough for what lies between layers to stay in cache."""

HISTORY = bundle_format.HISTORY


@dataclass(frozen=True)
class Model:
    """A loaded model; called with named inputs it gives its one output.

    It may be called from several threads and runs one call at a time: Keras keeps a model's state beside its compiled
    function while a call lasts, and a single call uses every core already.

    Parameters
    ----------
    path
        Where it was loaded from.
    run
        Runs it.
    on_tensors
        Runs it on tensors of Keras' backend and leaves the output where it is: named inputs to one output.
    keras
        The Keras model; None for a SavedModel.
    """

    path: Path
    run: Run
    on_tensors: Run
    keras: Any = None

    def __call__(self, arrays: Arrays) -> npt.NDArray[np.float32]:
        """Run one batch.

        Raises
        ------
        ArtifactError
            If the model refuses the shape or type of its inputs.
        """
        with turn, self.refusing(arrays):
            return np.asarray(self.run(arrays))

    @contextmanager
    def refusing(self, arrays: Mapping[str, Any]) -> Iterator[None]:
        """Turn what a library raises where it refuses inputs into one sentence.

        Raises
        ------
        ArtifactError
            If it did.
        """
        try:
            yield
        except (TypeError, ValueError, LookupError) as error:
            shapes = ", ".join(f"{name} {array.dtype}{list(array.shape)}" for name, array in sorted(arrays.items()))
            raise ArtifactError(
                f"model {self.path} cannot be run on {shapes} ({first_line(error)})",
                "describe its inputs in bundle.json as they were when it was trained",
            ) from error


def load_model(path: Path, inputs: set[str]) -> Model:
    """Load a ``.keras`` file (in safe mode) or a TensorFlow SavedModel folder.

    Parameters
    ----------
    path
        The model.
    inputs
        Names of the inputs that the pipeline will give.

    Raises
    ------
    ArtifactError
        If the model cannot be loaded, wants other inputs, or has not exactly one output.
    """
    model, wanted = _load_saved_model(path) if path.is_dir() else _load_keras(path)
    if wanted != inputs:
        raise ArtifactError(
            f"model {path} and bundle.json name different inputs: "
            f"{_listed(wanted - inputs)} stand in the model alone, {_listed(inputs - wanted)} in bundle.json alone",
            "give the inputs in bundle.json the names that they have in the model",
        )
    return model


def ranking_by_parts(
    parts: Dlrm | None, users: set[str], items: Arrays, build: Callable[[Dlrm, Arrays], Ranking]
) -> Ranking | None:
    """Return a ranker that is computed by its parts, or None where pairs must be unrolled.

    Parameters
    ----------
    parts
        Of the ranker; None where it is not the project's own.
    users
        Names of the inputs that depend on the user.
    items
        All other inputs, for every item, (N, …) each.
    build
        Makes it of the parts and the item inputs.
    """
    if parts is None or parts.user.inputs != users or parts.item.inputs != items.keys():
        return None
    return build(parts, items)


def refuse_no_numbers(path: Path, weights: Iterable[npt.NDArray[np.generic]]) -> None:
    """See that all weights of a model are finite: a list made with others would be empty or in no order.

    Raises
    ------
    ArtifactError
        Some are not.
    """
    if not all(np.isfinite(one).all() for one in weights if np.issubdtype(one.dtype, np.floating)):
        raise ArtifactError(
            f"model {path} has weights that are not finite numbers",
            "train it again: its training diverged, or its weights were changed since",
        )


def query_tower(model: Model, dimension: int) -> TowerAlgebra | QueryTower:
    """Return the query tower over any number of users, by its algebra if it is the project's own.

    Parameters
    ----------
    model
        The tower.
    dimension
        d, of query embeddings.
    """
    parts = take_tower_apart(model.keras)
    if parts is None or parts.items.shape[1] != dimension:
        return QueryTower(model, dimension)
    return TowerAlgebra(parts)


class QueryTower:
    """The query tower over any number of users.

    Parameters
    ----------
    function
        The model over one batch of :data:`QUERY_BATCH` users.
    dimension
        d, checked against the model's output.
    """

    def __init__(self, function: BatchFunction, dimension: int) -> None:
        self._function, self._dimension = function, dimension

    def __call__(self, inputs: Arrays) -> npt.NDArray[np.float32]:
        """Embed users.

        Parameters
        ----------
        inputs
            Feature inputs (n,) each and ``history`` (n, L) int32 item codes, newest last, 0 where there is none.

        Returns
        -------
        (n, d) float32
            Query embeddings.
        """
        n_users = len(inputs[HISTORY])
        queries = np.empty((n_users, self._dimension), np.float32)
        for start in range(0, n_users, QUERY_BATCH):
            rows = np.minimum(np.arange(start, start + QUERY_BATCH), n_users - 1)
            found = self._function({name: column[rows] for name, column in inputs.items()})
            if found.shape != (QUERY_BATCH, self._dimension):
                raise ArtifactError(
                    f"the query tower gives shape {found.shape}, expected {(QUERY_BATCH, self._dimension)}",
                    "give bundle.json the embedding dimension that the model has",
                )
            stop = min(start + QUERY_BATCH, n_users)
            queries[start:stop] = found[: stop - start]
        return queries


def as_pair_scorer(function: BatchFunction) -> BatchFunction:
    """Wrap a ranker so that an output (B, 1) or (B,) becomes (B,) float32."""

    def score(pairs: Arrays) -> npt.NDArray[np.float32]:
        scores = function(pairs)
        if scores.size != len(next(iter(pairs.values()))):
            raise ArtifactError(
                f"the ranker gives shape {scores.shape} for {len(next(iter(pairs.values())))} pairs, "
                "expected one relevance a pair",
                "give the ranker a single output unit",
            )
        return scores.reshape(-1).astype(np.float32, copy=False)

    return score


def _load_keras(path: Path) -> tuple[Model, set[str]]:
    # Keras heeds safe mode for its own format alone; the HDF5 files of older versions may hold code.
    if path.suffix != ".keras":
        raise ArtifactError(
            f"{path} is neither a .keras file nor the folder of a SavedModel",
            "save the model with `model.save('model.keras')` or `model.export(folder)`",
        )
    keras = import_keras()
    on_tensorflow = keras.backend.backend() == "tensorflow"
    if on_tensorflow:
        set_up_tensorflow()
    try:
        model = keras.saving.load_model(path, compile=False, safe_mode=True)
    except Exception as error:  # Keras raises whatever its layers raise
        raise ArtifactError(
            f"{path} cannot be loaded by Keras in safe mode ({type(error).__name__}: {first_line(error)})",
            "save the model with `model.save('model.keras')`, of layers that need no code of their own",
        ) from error
    _refuse_outputs(path, len(model.outputs or ()))
    refuse_no_numbers(path, model.get_weights())
    if not on_tensorflow:
        return Model(path, model.predict_on_batch, jitted(model), model), inputs_of(model)
    on_tensors = _tensorflow_function(model)

    def run(arrays: Arrays) -> Any:
        import tensorflow as tf

        return on_tensors({name: tf.constant(array) for name, array in arrays.items()}).numpy()

    return Model(path, run, on_tensors, model), inputs_of(model)


def _tensorflow_function(model: Any) -> Run:
    """Compile a Keras model to one TensorFlow function, which costs less a call than Keras' own `predict_on_batch`."""
    import tensorflow as tf

    function = tf.function(lambda tensors: model(tensors, training=False))
    return _with_value_errors(function)


def _with_value_errors(function: Run) -> Run:
    """Let TensorFlow refuse values as all others do."""
    import tensorflow as tf

    def run(tensors: Arrays) -> Any:
        try:
            return function(tensors)
        except tf.errors.InvalidArgumentError as error:
            raise ValueError(error.message) from error

    return run


def _load_saved_model(path: Path) -> tuple[Model, set[str]]:
    import_keras()  # without TensorFlow's start-up chatter
    import tensorflow as tf

    set_up_tensorflow()
    try:
        loaded = tf.saved_model.load(str(path))
        signature = loaded.signatures["serving_default"]
    except (OSError, KeyError, ValueError, tf.errors.OpError) as error:
        raise ArtifactError(
            f"{path} cannot be loaded as a TensorFlow SavedModel with a signature 'serving_default' "
            f"({type(error).__name__}: {first_line(error)})",
            "export it with `model.export(folder)`",
        ) from error
    specs: dict[str, Any] = signature.structured_input_signature[1]
    _refuse_outputs(path, len(signature.structured_outputs))
    refuse_no_numbers(path, (variable.numpy() for variable in signature.variables))

    def on_tensors(tensors: Arrays) -> Any:
        cast = {name: tf.cast(tensors[name], spec.dtype) for name, spec in specs.items()}
        # Called through the loaded object, which thereby lives as long as its variables are needed.
        (output,) = loaded.signatures["serving_default"](**cast).values()
        return output

    call = _with_value_errors(on_tensors)

    def run(arrays: Arrays) -> Any:
        return call({name: tf.constant(arrays[name], dtype=spec.dtype) for name, spec in specs.items()}).numpy()

    return Model(path, run, call), set(specs)


def _refuse_outputs(path: Path, outputs: int) -> None:
    if outputs != 1:
        raise ArtifactError(
            f"model {path} has {outputs} outputs, expected one", "save it with its one wanted output alone"
        )


def first_line(error: BaseException) -> str:
    """Return the first line of what an error says that is not empty, or else its type."""
    lines = [line.strip() for line in str(error).splitlines()]
    return next((line for line in lines if line), type(error).__name__)[:200]


def _listed(names: set[str]) -> str:
    return ", ".join(sorted(names)) or "none"
