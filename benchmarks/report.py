"""The benchmark's figures as a table and as a plot."""

from __future__ import annotations

from html import escape
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from pathlib import Path

ONE_AT_A_TIME = {
    "tuned": "one user at a time, tuned, features in memory",
    "as the script": "one user at a time, Feast's online store and `predict`",
}
STAGES = ("read features", "encode", "query tower", "retrieve and filter", "rank", "sample", "write")
COLOURS = ("#4e79a7", "#a0cbe8", "#f28e2b", "#59a14f", "#e15759", "#b07aa1", "#9c755f")


def write_table(found: dict[str, Any], path: Path) -> None:
    """Write the figures as Markdown."""
    path.write_text("\n".join([*_head(found), *_stages(found), *_ratios(found), ""]))


def _head(found: dict[str, Any]) -> list[str]:
    machine, floor = found["machine"], found["floor"]
    before, after = (", ".join(f"{load:.1f}" for load in found[f"load average {when}"]) for when in ("before", "after"))
    return [
        f"# {found['workload']}: {found['users']:,} users, {found['date']}",
        "",
        f"{machine['cpu']}, {machine['cores']} cores, Python {machine['python']}; "
        + ", ".join(f"{name} {number}" for name, number in found["versions"].items())
        + ".",
        f"Load average before {before}, after {after}. Above {machine['cores']} beforehand, other work shared the",
        "cores, and ratios are to be trusted more than seconds. One run each, ours two.",
        "",
        f"The floor, measured in the same run: {floor['flop/s'] / 1e9:.0f} Gflop/s in float32 matrix products, "
        f"{floor['bytes/s'] / 1e9:.0f} GB/s copied.",
        "",
    ]


def _stages(found: dict[str, Any]) -> list[str]:
    ours, script = found["batchrec"]["seconds"], found["script"]["seconds"]
    total, script_total = sum(ours.get(stage, 0.0) for stage in STAGES), sum(script.get(stage, 0.0) for stage in STAGES)
    lines = [
        "| stage | seconds | users/s | share | the script | ratio | floor / seconds |",
        "|---|---|---|---|---|---|---|",
    ]
    for stage in STAGES:
        seconds, theirs = ours.get(stage, 0.0), script.get(stage, 0.0)
        lines.append(
            f"| {stage} | {seconds:.2f} | {found['users'] / seconds:,.0f} | {seconds / total:.0%} | {theirs:.2f} | "
            f"{theirs / seconds:.1f} | {_floor_share(found, stage, seconds)} |"
        )
    lines += [
        f"| all stages | {total:.2f} | {found['users'] / total:,.0f} | | {script_total:.2f} | "
        f"{script_total / total:.1f} | |",
        "",
        "Seconds are added over partitions, two of which are in work at a time; a stage that waits for its turn on the",
        "cores counts the wait.",
        "",
    ]
    return lines


def _floor_share(found: dict[str, Any], stage: str, seconds: float) -> str:
    needed = found["necessary"].get(stage)
    if needed is None:
        return ""
    least = max(needed["flop"] / found["floor"]["flop/s"], needed["bytes"] / found["floor"]["bytes/s"])
    return f"{least / seconds:.0%}"


def _ratios(found: dict[str, Any]) -> list[str]:
    ours, script, beside = found["batchrec"], found["script"], found["side by side"]
    pair, query = beside["ranking"]["microseconds a pair"], beside["retrieval"]["microseconds a query"]
    predict = min((way for name, way in pair.items() if name.startswith("predict")), key=lambda way: way["median"])
    compute, loaded = ours["seconds"]["compute"], _without_loading(script)
    return [
        "| against | ratio | measured |",
        "|---|---|---|",
        f"| the script, whole processes | {script['wall'] / ours['wall']:.1f} | {script['wall']:.1f} s and "
        f"{ours['wall']:.1f} s, start-up included{_both(found)} |",
        f"| the script, whole processes, processor time | {script['processor'] / ours['processor']:.1f} | "
        f"{script['processor']:.1f} s and {ours['processor']:.1f} s: what a busy machine bends least |",
        f"| the script, models loaded | {loaded / compute:.1f} | {loaded:.1f} s and {compute:.1f} s |",
        f"| the script's peak memory | {script['peak bytes'] / ours['peak bytes']:.1f} | "
        f"{script['peak bytes'] / 2**30:.2f} GiB and {ours['peak bytes'] / 2**30:.2f} GiB |",
        *(_one_at_a_time(found, way, called) for way, called in ONE_AT_A_TIME.items()),
        f"| `model.predict`, by algebra | {predict['median'] / pair['algebra']['median']:.1f} | "
        f"{predict['median']:.2f} and {pair['algebra']['median']:.2f} µs a pair, medians, in turns |",
        f"| `model.predict`, general unroll | {predict['median'] / pair['general unroll']['median']:.1f} | "
        f"{predict['median']:.2f} and {pair['general unroll']['median']:.2f} µs a pair |",
        f"| raw Faiss, {beside['retrieval']['kind']}, recall {beside['retrieval']['recall']:.3f} | "
        f"{query['raw Faiss']['median'] / query['ours']['median']:.2f} | {query['raw Faiss']['median']:.0f} and "
        f"{query['ours']['median']:.0f} µs a query |",
        *(_peer(name, peer, found["users"] / compute) for name, peer in found["peers"].items()),
        "",
        "implicit is one stage: factors of 64 numbers, no features, no ranker. RecTools ranks 100 candidates of these",
        "factors by CatBoost. Both recommend without reading features or writing files, and fitting is not counted.",
        "",
        f"Scores by algebra differ from Keras' by at most {beside['ranking']['largest difference from Keras']:.1e}.",
    ]


def _both(found: dict[str, Any]) -> str:
    before, after = (run["wall"] for run in found["batchrec runs"])
    return f"; before and after the script {before:.1f} and {after:.1f} s"


def _one_at_a_time(found: dict[str, Any], way: str, called: str) -> str:
    one, compute = found["one at a time"][way], found["batchrec"]["seconds"]["compute"]
    seconds, parts = one["seconds a user"], one["parts"]
    spent = ", ".join(
        f"{part} {parts[part] * 1e3:.1f}" for part in ("read", "query tower", "retrieve and filter", "rank")
    )
    return (
        f"| {called} | {seconds * found['users'] / compute:.0f} | {seconds * 1e3:.1f} ms a user over {one['users']} "
        f"users, of which {spent} |"
    )


def _peer(name: str, peer: dict[str, Any], ours: float) -> str:
    theirs = peer["seconds"]["users"] / peer["seconds"]["recommend"]
    return (
        f"| {name}, recommending alone | {ours / theirs:.2f} | {theirs:,.0f} and {ours:,.0f} users/s, "
        f"its peak {peer['peak bytes'] / 2**30:.2f} GiB |"
    )


def _without_loading(script: dict[str, Any]) -> float:
    return sum(seconds for stage, seconds in script["seconds"].items() if stage != "load models")


def write_plot(found: dict[str, Any], path: Path) -> None:
    """Write a bar of stages each for this project and for the script, as SVG."""
    bars = {"batchrec": found["batchrec"]["seconds"], "script": found["script"]["seconds"]}
    longest = max(sum(seconds.get(stage, 0.0) for stage in STAGES) for seconds in bars.values())
    parts = [
        '<svg xmlns="http://www.w3.org/2000/svg" width="860" height="190" font-family="sans-serif" font-size="13">'
    ]
    for row, (name, seconds) in enumerate(bars.items()):
        left, top = 90.0, 20 + 55 * row
        parts.append(f'<text x="10" y="{top + 24}">{escape(name)}</text>')
        for stage, colour in zip(STAGES, COLOURS, strict=True):
            width = 680 * seconds.get(stage, 0.0) / longest
            parts.append(f'<rect x="{left:.1f}" y="{top}" width="{width:.1f}" height="38" fill="{colour}"/>')
            left += width
        total = sum(seconds.get(stage, 0.0) for stage in STAGES)
        parts.append(f'<text x="{left + 6:.1f}" y="{top + 24}">{total:.1f} s</text>')
    for place, (stage, colour) in enumerate(zip(STAGES, COLOURS, strict=True)):
        x, y = 90 + 190 * (place % 4), 140 + 22 * (place // 4)
        parts.append(f'<rect x="{x}" y="{y}" width="12" height="12" fill="{colour}"/>')
        parts.append(f'<text x="{x + 18}" y="{y + 11}">{escape(stage)}</text>')
    path.write_text("\n".join([*parts, "</svg>", ""]))
