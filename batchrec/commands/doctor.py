"""The command that says what this machine can compute on."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from batchrec.commands.common import Debug, console, print_summary
from batchrec.commands.run import Device

if TYPE_CHECKING:
    from rich.table import Table

    from batchrec.engine.inventory import Finding


def doctor(
    device: Annotated[
        Device, typer.Option(help="What a run is to compute on; the exit code says whether it can.")
    ] = Device.AUTO,
    debug: Debug = False,  # noqa: ARG001 - read from the command line before parsing
) -> None:
    """Show what a run would find on this machine, what is missing for a GPU, and why."""
    from dataclasses import asdict

    from batchrec.engine.inventory import inventory

    found = inventory()
    missing = {need: [one for one in found if one.need == need and one.problem] for need in {one.need for one in found}}
    chosen = "gpu" if device is Device.GPU or (device is Device.AUTO and not missing["--device gpu"]) else "cpu"
    needed = missing["every run"] + (missing["--device gpu"] if chosen == "gpu" else [])
    console().print(_table(found))
    print_summary(
        {
            "asked": device.value,
            "device": chosen,
            "usable": not needed,
            "cluster_cuda_usable": not (missing["--device gpu"] or missing["--cluster cuda"]),
            "found": [asdict(one) for one in found],
        }
    )
    if needed:
        from batchrec.errors import ConfigError

        raise ConfigError(f"{needed[0].name}: {needed[0].problem}", needed[0].remedy)


def _table(found: list[Finding]) -> Table:
    from rich.markup import escape
    from rich.table import Table

    table = Table("", "needed by", "found", "why it cannot be used, and what to do", title="batchrec doctor")
    for one in found:
        why = f"{one.problem}: {one.remedy}" if one.problem else ""
        table.add_row(*map(escape, (one.name, one.need, one.found or "-", why)))
    return table
