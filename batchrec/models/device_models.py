"""Query tower, and rankers that know only pairs, over device arrays in batches of one size."""

from __future__ import annotations

from typing import TYPE_CHECKING

from array_api_compat import array_namespace

from batchrec.arrays import gather, whole_batches
from batchrec.errors import ArtifactError
from batchrec.models import bundle_format

if TYPE_CHECKING:
    from batchrec.arrays import Array
    from batchrec.models.tensors import Arrays, DeviceFunction

USERS_A_BATCH = 8192
"""Users a call of the query tower: a GPU is idle during small ones, and every partition computes whole batches."""


class DeviceTower:
    """The query tower over any number of users.

    Parameters
    ----------
    function
        The model over one batch of :data:`USERS_A_BATCH` users.
    dimension
        d, checked against the model's output.
    """

    def __init__(self, function: DeviceFunction, dimension: int) -> None:
        self._function, self._dimension = function, dimension

    def __call__(self, inputs: Arrays) -> Array:
        """Embed n users, at least 1.

        Parameters
        ----------
        inputs
            Feature inputs (n,) each and ``history`` (n, L) int32 item codes, newest last, 0 where there is none.

        Returns
        -------
        (n, d) float32
            Query embeddings, on the device of the inputs.

        Raises
        ------
        ArtifactError
            If the model's output has another shape.
        """
        history = inputs[bundle_format.HISTORY]
        xp = array_namespace(history)
        n_users = history.shape[0]
        batches = [
            self._batch({name: gather(column, rows) for name, column in inputs.items()})
            for rows in whole_batches(n_users, USERS_A_BATCH, history)
        ]
        return xp.concat(batches)[:n_users, :]

    def _batch(self, inputs: Arrays) -> Array:
        found = self._function(inputs)
        if tuple(found.shape) != (USERS_A_BATCH, self._dimension):
            raise ArtifactError(
                f"the query tower gives shape {tuple(found.shape)}, expected {(USERS_A_BATCH, self._dimension)}",
                "give bundle.json the embedding dimension that the model has",
            )
        return found


def device_pair_scorer(function: DeviceFunction) -> DeviceFunction:
    """Wrap a ranker so that an output (B, 1) or (B,) becomes (B,) float32."""

    def score(pairs: Arrays) -> Array:
        n_pairs = next(iter(pairs.values())).shape[0]
        scores = function(pairs)
        if scores.size != n_pairs:
            raise ArtifactError(
                f"the ranker gives shape {tuple(scores.shape)} for {n_pairs} pairs, expected one relevance a pair",
                "give the ranker a single output unit",
            )
        xp = array_namespace(scores)
        return xp.astype(xp.reshape(scores, (-1,)), xp.float32)

    return score
