"""A run's work as workers elsewhere can reach it."""

from __future__ import annotations

from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from batchrec.output.publish import WORK
from batchrec.output.storage import is_url, local_path
from batchrec.users import USERS

if TYPE_CHECKING:
    from collections.abc import Iterator

    from batchrec.worker import Work


@contextmanager
def within_reach(work: Work) -> Iterator[Work]:
    """Name every place by a path that does not depend on the working directory, or by a URL.

    The prepared users lie where the parts go: in the scratch folder of a run on a disk, as a copy in an object store.

    Raises
    ------
    SinkError
        The object store did not take the prepared users.
    """
    output = work.output if is_url(work.output) else str(local_path(work.output).absolute())
    with work.folder.lend(Path(work.users), f"{WORK}/{USERS}") as users:
        yield replace(
            work,
            bundle=work.bundle if isinstance(work.bundle, str) else work.bundle.absolute(),
            feature_repo=work.feature_repo.absolute(),
            users=users,
            output=output,
        )
