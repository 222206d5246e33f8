"""Which code computes: the sources of this package and the versions of the libraries under it."""

from __future__ import annotations

import hashlib
import json
import platform
from functools import lru_cache
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import batchrec

_VERSIONS_OF = (
    *("cupy-cuda12x", "cupy-cuda13x", "dask", "faiss-cpu", "faiss-gpu", "feast", "jax", "keras"),
    *("numba", "numpy", "pyarrow", "tensorflow-cpu", "tensorflow"),
)


@lru_cache(maxsize=1)
def code_fingerprint() -> str:
    """SHA-256 over the sources of this package and the versions of what computes, to tell which code made a run."""
    root = Path(batchrec.__file__).parent
    whole = hashlib.sha256()
    for path in sorted(root.rglob("*.py")):
        whole.update(f"{path.relative_to(root).as_posix()}\0".encode())
        whole.update(hashlib.sha256(path.read_bytes()).digest())
    whole.update(json.dumps(versions(), sort_keys=True).encode())
    return whole.hexdigest()


def versions() -> dict[str, str]:
    """Return the versions of batchrec, Python and the libraries that compute, by name; those not installed left out."""
    found = {"batchrec": batchrec.__version__, "python": platform.python_version()}
    for name in _VERSIONS_OF:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            continue
    return found
