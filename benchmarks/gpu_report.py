"""The figures of the benchmark on a GPU as tables; what is not measured yet is left out."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from pathlib import Path

IN_PRECISION = ("query tower", "rank")
"""Stages whose products follow the precision; those of retrieval are float32."""


def write_table(found: dict[str, Any], path: Path) -> None:
    """Write the figures as Markdown."""
    runs = {name: one for name, one in found["runs"].items() if "run" in one}
    parts = [_head(found), _floor(found), _runs(found, runs), _stages(found, runs), _changes(runs)]
    path.write_text("\n".join([line for part in parts for line in part] + [""]))


def _head(found: dict[str, Any]) -> list[str]:
    described, machine = found.get("workload", {}), found.get("machine", {})
    lines = [f"# {described.get('name', '')} on a GPU, {found['date']}", ""]
    if machine:
        lines += [
            f"{'; '.join(machine['gpus'])} (name, driver, memory, highest clock, power limit). {machine['cpu']}, "
            f"{machine['cores']} cores, kernel {machine['kernel']}. Keras on {machine['keras backend']}; "
            + ", ".join(f"{name} {number}" for name, number in machine["versions"].items())
            + ".",
            "",
        ]
    if described:
        lines += [f"{described['users']:,} users, {described['items']:,} items. One run each.", ""]
    if "parity" in found:
        lines += [
            f"Tests of both devices, [as printed]({found['parity']['output']}): {found['parity']['last line']}",
            "",
        ]
    return lines


def _floor(found: dict[str, Any]) -> list[str]:
    if "floor" not in found:
        return []
    floor = found["floor"]
    rates = ", ".join(f"{rate / 1e12:.3g} Tflop/s in {name}" for name, rate in floor["flop/s"].items())
    moved = (
        f"; {floor['bytes/s to it'] / 1e9:.1f} GB/s to it and {floor['bytes/s from it'] / 1e9:.1f} GB/s from it, "
        "ordinary host memory"
        if "bytes/s to it" in floor
        else ""
    )
    return [
        f"The floor, measured in the same run: matrix products {rates}; {floor['bytes/s'] / 1e9:.0f} GB/s copied on "
        f"the device, read and written{moved}.",
        "",
    ]


def _runs(found: dict[str, Any], runs: dict[str, Any]) -> list[str]:
    if not runs:
        return []
    users = found["workload"]["users"]
    lines = [
        "| run | seconds, all | computing | users/s computing | users/s, steady | device memory | host memory |",
        "|---|---|---|---|---|---|---|",
    ]
    for name, one in runs.items():
        ran = one["run"]
        compute, steady = ran["seconds"]["compute"], ran["steady users/s"]
        lines.append(
            f"| {name} | {ran['wall']:.1f} | {compute:.1f} | {users / compute:,.0f} | "
            f"{'too few parts' if steady is None else f'{steady:,.0f}'} | "
            f"{ran['peak bytes of the device'] / 2**30:.2f} GiB | {ran['peak bytes'] / 2**30:.2f} GiB |"
        )
    return [
        *lines,
        "",
        "Steady: from the end of the first part to that of the last. Device memory: the most seen in use.",
        "",
    ]


def _stages(found: dict[str, Any], runs: dict[str, Any]) -> list[str]:
    measured = {name: one["stages"] for name, one in runs.items() if "stages" in one}
    if not measured:
        return []
    stages = list(next(iter(measured.values()))["seconds"])
    lines = [
        "One partition, stage by stage with nothing beside it, the best of several rounds: milliseconds, and the",
        "floor's share of them.",
        "",
        f"| stage | {' | '.join(measured)} |",
        f"|---|{'---|' * len(measured)}",
    ]
    for stage in stages:
        cells = [
            f"{one['seconds'][stage] * 1e3:.1f}{_share(found, stage, name, one)}" for name, one in measured.items()
        ]
        lines.append(f"| {stage} | {' | '.join(cells)} |")
    totals = [f"{one['users'] / sum(one['seconds'].values()):,.0f}" for one in measured.values()]
    return [*lines, f"| users/s, one after another | {' | '.join(totals)} |", ""]


def _share(found: dict[str, Any], stage: str, name: str, one: dict[str, Any]) -> str:
    """Return what the floor takes of a stage; of the device whose floor was measured alone."""
    device, precision = name.split("-")
    needed = found["necessary"].get(stage)
    if needed is None or not next(iter(found["runs"])).startswith(device):
        return ""
    rate = found["floor"]["flop/s"][precision if stage in IN_PRECISION else "fp32"]
    least = max(needed["flop"] / rate, needed["bytes"] / found["floor"]["bytes/s"])
    return f" ({least / one['seconds'][stage]:.1%})"


def _changes(runs: dict[str, Any]) -> list[str]:
    changed = {name: one["change"] for name, one in runs.items() if "change" in one}
    if not changed:
        return []
    lines = [
        "| lists of | held against | equal | first item equal | overlap | largest score difference |",
        "|---|---|---|---|---|---|",
    ]
    for name, one in changed.items():
        lines.append(
            f"| {name} | {one['from']} | {one['equal']:.2%} | {one['first_equal']:.2%} | {one['overlap']:.2%} | "
            f"{one['score']:.2g} |"
        )
    return [*lines, ""]
