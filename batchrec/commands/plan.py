"""The command that predicts a run."""

from __future__ import annotations

from typing import Any

from batchrec.commands.common import console, print_summary, when_stopped, with_options_of
from batchrec.commands.run import job_of, run


@with_options_of(run)
def plan(**options: Any) -> None:
    """Predict a run by a pilot on some of its users: rows, time, memory, size, and whether there is room for it."""
    when_stopped("a plan leaves nothing behind")
    job = job_of(options)
    from batchrec.plan import check_room, make_plan

    made = make_plan(job)
    console().print(made.table())
    print_summary(made.as_dict())
    check_room(made)
