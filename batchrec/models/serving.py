"""Trained models as the pipeline calls them: NumPy in, NumPy out, always the same batch shape.

A fixed shape means one compiled program and, on one device, the same bits for a row whatever stands beside it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from batchrec.errors import ArtifactError
from batchrec.models.backend import import_keras

Arrays = Mapping[str, npt.NDArray[np.generic]]
BatchFunction = Callable[[Arrays], npt.NDArray[np.float32]]
"""Named inputs of one fixed batch size, (B, …) each, to the model's one output (B, …)."""

QUERY_BATCH = 1024
HISTORY = "history"


def load_model(path: Path, inputs: set[str]) -> BatchFunction:
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
        If the model cannot be loaded, or wants other inputs.
    """
    function, wanted = _load_saved_model(path) if path.is_dir() else _load_keras(path)
    if wanted != inputs:
        raise ArtifactError(
            f"model {path} reads {_listed(wanted - inputs) or 'nothing'} that bundle.json does not give, "
            f"and bundle.json gives {_listed(inputs - wanted) or 'nothing'} that it does not read",
            "make the input names in bundle.json those of the model",
        )
    return function


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


def _load_keras(path: Path) -> tuple[BatchFunction, set[str]]:
    keras = import_keras()

    try:
        model = keras.saving.load_model(path, compile=False, safe_mode=True)
    except Exception as error:  # Keras raises whatever its layers raise
        raise ArtifactError(
            f"{path} cannot be loaded by Keras in safe mode ({type(error).__name__}: {_first_line(error)})",
            "save the model with `model.save('….keras')`, of layers that need no code of their own",
        ) from error
    names = {tensor.name for tensor in model.inputs}

    def function(inputs: Arrays) -> npt.NDArray[np.float32]:
        return np.asarray(model.predict_on_batch(dict(inputs)))

    return function, names


def _load_saved_model(path: Path) -> tuple[BatchFunction, set[str]]:
    import tensorflow as tf

    try:
        loaded = tf.saved_model.load(str(path))
        signature = loaded.signatures["serving_default"]
    except (OSError, KeyError, ValueError, tf.errors.OpError) as error:
        raise ArtifactError(
            f"{path} cannot be loaded as a TensorFlow SavedModel with a signature 'serving_default' "
            f"({type(error).__name__}: {_first_line(error)})",
            "export it with `model.export(path)`",
        ) from error
    specs: dict[str, Any] = signature.structured_input_signature[1]

    def function(inputs: Arrays) -> npt.NDArray[np.float32]:
        tensors = {name: tf.constant(inputs[name], dtype=spec.dtype) for name, spec in specs.items()}
        # Called through the loaded object, which thereby lives as long as its variables are needed.
        (output,) = loaded.signatures["serving_default"](**tensors).values()
        return np.asarray(output.numpy())

    return function, set(specs)


def _first_line(error: BaseException) -> str:
    return (str(error).strip().splitlines() or [""])[0][:200]


def _listed(names: set[str]) -> str:
    return ", ".join(sorted(names))
