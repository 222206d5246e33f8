"""The parts of the project's own models as a bundle stores them, so that a run loads them without Keras.

Importing Keras and TensorFlow, loading a model and telling whether it is the project's own take longer than all else
before a short run computes (docs/decisions/019-models-without-keras.md). So this is done once, where a bundle is
written: a file beside the model says what parts it has and under which names their weights lie in it. The weights
themselves stay where they are.
"""

from __future__ import annotations

import hashlib
import io
import json
import struct
import zipfile
from dataclasses import fields, is_dataclass
from functools import partial
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np

from batchrec.errors import ArtifactError
from batchrec.models.bundle import sha256
from batchrec.models.bundle_format import BUNDLE_FILE
from batchrec.models.dlrm import Dlrm, Side, take_apart
from batchrec.models.keras_graph import inputs_of
from batchrec.models.tower_parts import Attention, Block, Norm, Tower, UserEncoder, take_tower_apart

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping
    from pathlib import Path

    import numpy.typing as npt

    Floats = npt.NDArray[np.float32]

FORMAT = 1

SUFFIX = ".parts.json"
"""Of the file beside ``model.keras`` that names its parts."""

_WEIGHTS = "model.weights.h5"
"""Member of a ``.keras`` file that holds the weights."""

_PARTS = {kind.__name__: kind for kind in (Attention, Block, Dlrm, Norm, Side, Tower, UserEncoder)}

_LOCAL_HEADER = struct.Struct("<26xHH")
"""Of a member of a zip file: lengths of the name and of what stands between it and the data."""

Kind = TypeVar("Kind", Dlrm, Tower)


def store_parts(model: Any, path: Path) -> None:
    """Write the parts of a Keras model that was saved at `path`, if it is the project's own; otherwise nothing.

    Parameters
    ----------
    model
        The model.
    path
        Its ``.keras`` file.
    """
    parts = take_apart(model) or take_tower_apart(model)
    if parts is None:
        return
    with _weights_of(path) as weights:
        names = {_key(array): name for name, array in _arrays(weights)}
        named = _encoded(parts, lambda values: names[_key(values)])
    content = {"format": FORMAT, "model": sha256(path), "inputs": sorted(inputs_of(model)), "parts": named}
    path.with_suffix(SUFFIX).write_text(json.dumps(content, indent=1) + "\n")


def stored_parts(folder: Path, name: str, sums: Mapping[str, str], kind: type[Kind], inputs: set[str]) -> Kind | None:
    """Return the parts of a bundle's model, or None where Keras has to load it.

    Parameters
    ----------
    folder
        The bundle, whose files have been summed.
    name
        Path of the model in it.
    sums
        SHA-256 of the bundle's files.
    kind
        Parts of which kind of model.
    inputs
        Names of the inputs that the pipeline will give; of a model with others Keras' loader says what is wrong.

    Raises
    ------
    ArtifactError
        The file that names the parts is not as :func:`store_parts` writes it.
    """
    path = folder / name
    described = path.with_suffix(SUFFIX)
    if described.relative_to(folder).as_posix() not in sums:
        return None
    try:
        content = json.loads(described.read_text())
        if content["format"] != FORMAT or content["model"] != sums.get(name) or set(content["inputs"]) != inputs:
            return None
        with _weights_of(path) as weights:
            parts = _decoded(content["parts"], partial(_own_weights, weights))
    except (KeyError, TypeError, ValueError, OSError, RecursionError, zipfile.BadZipFile) as error:
        raise ArtifactError(
            f"{described} does not name the parts of {path.name} ({type(error).__name__}: {error})",
            f"take it out of the bundle and out of {BUNDLE_FILE}, or make the bundle again with `batchrec train`",
        ) from error
    return parts if isinstance(parts, kind) else None


def arrays_in(value: Any) -> Iterator[Floats]:
    """Return every array among nested parts, and every number as one."""
    if isinstance(value, (np.ndarray, float, np.floating)):
        yield np.asarray(value)
    elif isinstance(value, dict | tuple):
        for one in value.values() if isinstance(value, dict) else value:
            yield from arrays_in(one)
    elif is_dataclass(value):
        for field in fields(value):
            yield from arrays_in(getattr(value, field.name))


class _Member(io.RawIOBase):
    """A member of a zip file that is stored as it is, read in place.

    Parameters
    ----------
    path
        The zip file.
    name
        The member.
    """

    def __init__(self, path: Path, name: str) -> None:
        with zipfile.ZipFile(path) as whole:
            member = whole.getinfo(name)
        self._file: io.FileIO = io.FileIO(path)
        self._size = member.file_size
        self._file.seek(member.header_offset)
        before, between = _LOCAL_HEADER.unpack(self._file.read(_LOCAL_HEADER.size))
        self._start: int = member.header_offset + _LOCAL_HEADER.size + before + between
        self._file.seek(self._start)

    def readable(self) -> bool:
        """Say that it can be read."""
        return True

    def seekable(self) -> bool:
        """Say that it can be read in any order."""
        return True

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        """Go to a place in the member."""
        origin: int = {io.SEEK_SET: 0, io.SEEK_CUR: self.tell(), io.SEEK_END: self._size}[whence]
        return self._file.seek(self._start + origin + offset) - self._start

    def tell(self) -> int:
        """Return the place in the member."""
        return self._file.tell() - self._start

    def readinto(self, buffer: Any) -> int:
        """Read what fits, up to the member's end."""
        view = memoryview(buffer).cast("B")
        return self._file.readinto(view[: max(0, min(len(view), self._size - self.tell()))])

    def close(self) -> None:
        """Close the zip file."""
        self._file.close()
        super().close()


def _weights_of(path: Path) -> Any:
    """Open the weights of a ``.keras`` file as h5py does."""
    import h5py

    return h5py.File(_Member(path, _WEIGHTS), "r")


def _own_weights(weights: Any, name: str) -> Floats:
    """Read weights that lie in the file itself: HDF5 can name other files, of which nobody has the sum.

    Raises
    ------
    KeyError
        There are none of this name.
    ValueError
        They lie elsewhere.
    """
    import h5py

    node, is_own = weights, True
    for step in name.split("/"):
        is_own &= isinstance(node.get(step, h5py.HardLink(), getlink=True), h5py.HardLink)
        node = node[step] if is_own else node
    if not is_own or node.external or node.is_virtual:
        raise ValueError(f"{name} lies in another file")
    return np.ascontiguousarray(node[...], np.float32)


def _arrays(weights: Any) -> Iterator[tuple[str, Floats]]:
    found: dict[str, Any] = {}
    weights.visititems(lambda name, node: found.update({name: node}) if hasattr(node, "shape") else None)
    return ((name, node[...]) for name, node in found.items())


def _key(array: Floats) -> tuple[tuple[int, ...], bytes]:
    """Tell weights apart; which of several equal ones a part is read from makes no difference."""
    return array.shape, hashlib.sha256(np.ascontiguousarray(array, np.float32).data).digest()


def _encoded(value: Any, name_of: Callable[[Floats], str]) -> Any:
    """Return nested parts as JSON holds them, arrays by name."""
    if isinstance(value, np.ndarray):
        return {"weights": name_of(value)}
    if isinstance(value, np.float32):
        return {"number": name_of(np.full((1, 1), value))}
    if isinstance(value, tuple):
        return [_encoded(one, name_of) for one in value]
    if isinstance(value, dict):
        return {"named": [[name, _encoded(one, name_of)] for name, one in value.items()]}
    if is_dataclass(value):
        inner = {field.name: _encoded(getattr(value, field.name), name_of) for field in fields(value)}
        return {"part": type(value).__name__, "of": inner}
    return value


def _decoded(value: Any, array_of: Callable[[str], Floats]) -> Any:
    if isinstance(value, list):
        return tuple(_decoded(one, array_of) for one in value)
    if not isinstance(value, dict):
        return value
    if "weights" in value:
        return array_of(value["weights"])
    if "number" in value:
        return array_of(value["number"]).reshape(())[()]
    if "named" in value:
        return {name: _decoded(one, array_of) for name, one in value["named"]}
    inner = {name: _decoded(one, array_of) for name, one in value["of"].items()}
    if not isinstance(inner.get("epsilon", 0.0), float):
        raise TypeError(f"epsilon is {inner['epsilon']!r}, expected a number")
    return _PARTS[value["part"]](**inner)
