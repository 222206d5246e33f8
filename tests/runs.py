"""Calling the command line inside the test process, and reading what a run published."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from batchrec import cli
from batchrec.log import VARIABLE

if TYPE_CHECKING:
    from collections.abc import Iterator

ROOT = Path(__file__).parents[1]


@contextmanager
def log_as_before() -> Iterator[None]:
    """Undo what a command did to the form of the log: it is for the whole process."""
    before, stream = os.environ.get(VARIABLE), sys.stderr
    try:
        yield
    finally:
        sys.stderr = stream
        os.environ.pop(VARIABLE, None)
        if before is not None:
            os.environ[VARIABLE] = before


@dataclass(frozen=True)
class Said:
    """How a command ended."""

    code: int
    out: str
    err: str

    @property
    def summary(self) -> dict[str, Any]:
        """The JSON in the last line of standard output."""
        return json.loads(self.out.splitlines()[-1])


class CommandLine:
    """Runs ``batchrec`` with given arguments in this process: importing TensorFlow once is enough."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]) -> None:
        self._monkeypatch, self._capfd = monkeypatch, capfd

    def __call__(self, *args: object) -> Said:
        self._capfd.readouterr()
        self._monkeypatch.setattr(sys, "argv", ["batchrec", *map(str, args)])
        with pytest.raises(SystemExit) as left, log_as_before():
            cli.main()
        out, err = self._capfd.readouterr()
        return Said(int(left.value.code or 0), out, err)


def command(*args: object, **options: Any) -> subprocess.Popen[str]:
    """Start ``batchrec`` as a process of its own; the command line begins with the option `before`, if there is one."""
    before = options.pop("before", [])
    path = os.pathsep.join(filter(None, [str(ROOT), os.environ.get("PYTHONPATH")]))
    environment = os.environ | {"PYTHONPATH": path, **options.pop("env", {})}
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "stdin": subprocess.DEVNULL}
    return subprocess.Popen(
        [*before, sys.executable, "-m", "batchrec", *map(str, args)], env=environment, text=True, **(pipes | options)
    )


def published(run: Path) -> pa.Table:
    """All rows of a run, in the order of its parts."""
    manifest = json.loads((run / "_manifest.json").read_text())
    return pa.concat_tables([pq.read_table(run / part["name"]) for part in manifest["parts"]]).combine_chunks()


def tree(folder: Path) -> dict[str, bytes | str]:
    """Every file below a folder with its content, every link with its target, every folder."""
    found: dict[str, bytes | str] = {}
    for path in sorted(folder.rglob("*")):
        name = str(path.relative_to(folder))
        if path.is_symlink():
            found[name] = f"-> {path.readlink()}"
        else:
            found[name] = path.read_bytes() if path.is_file() else "folder"
    return found
