"""An evaluation from end to end: read, score every run and the popularity baseline, resample users, compare."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from batchrec.errors import ConfigError
from batchrec.evaluate import metrics
from batchrec.evaluate.bootstrap import interval, resampled_means
from batchrec.evaluate.holdout import Holdout, read_holdout
from batchrec.evaluate.lists import Lists, read_lists
from batchrec.evaluate.popularity import Train, popularity_lists, read_train
from batchrec.evaluate.report import Comparison, Figure, HoldoutSummary, Report, System
from batchrec.evaluate.tables import read_item_ids
from batchrec.output.publish import open_run

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

    from batchrec.evaluate.metrics import Positions, Values

POPULARITY = "popularity"
SEEDS = 1 << 64


class Scores(NamedTuple):
    """The figures of one system, in the order of :data:`~batchrec.evaluate.metrics.METRICS`."""

    estimates: Values
    """``(f,)`` figures over all evaluated users."""
    shares: Values
    """``(n, f)`` each user's share: where a user is drawn w times, the figure moves by (w - 1) share / n."""


def evaluate_runs(
    runs: Sequence[str],
    holdout: Path,
    interactions: Path,
    k: int,
    resamples: int,
    seed: int,
    catalogue: Path | None = None,
) -> Report:
    """Score published runs and the popularity baseline against held-out interactions.

    Every user with at least one held-out item counts, and with the same weight; a user for whom a run has no list
    counts as zeros. A held-out item counts once a user, and also where the user had it in the train interactions
    already, although lists of unseen items cannot hit it. Coverage is that of the evaluated users' lists.

    Parameters
    ----------
    runs
        Paths or URLs of published runs, or of pointers to them such as ``output/current``.
    holdout
        Held-out interactions: ``user_id``, ``item_id``.
    interactions
        Train interactions: ``user_id``, ``item_id``. The baseline counts them, and repeats none of a user's own.
    k
        Number of places of each list that count.
    resamples
        Bootstrap resamples of the users.
    seed
        Seed of the resamples, 0 … 2^64 - 1.
    catalogue
        Table whose ``item_id`` column names every item that can be recommended. None: the items of ``interactions``.

    Returns
    -------
    Report
        The popularity baseline first, then the runs in the order given; each run compared with popularity, and each but
        the first with the first run.

    Raises
    ------
    ConfigError
        Where k, resamples, seed or runs cannot be used, no list of a run is as long as k, or a run has no list of a
        held-out user.
    SchemaError
        Where a table is missing, unreadable, empty, or its ids are of another type than those of the other tables.
    ArtifactError
        Where a folder is not a published run, one of its parts is missing or not the one that was published, or the
        rows contradict each other or the catalogue.
    """
    _check_options(k, resamples, seed)
    items = read_item_ids(catalogue or interactions)
    truth = read_holdout(holdout, items)
    train = read_train(interactions, truth.users, items)
    lists = {POPULARITY: Lists(popularity_lists(train, len(truth.users), k), users_left_out=0)}
    for name, run in _named(runs).items():
        lists[name] = read_lists(run, truth.users, items, k)
        if (lists[name].positions < 0).all():
            raise ConfigError(
                f"none of the {len(truth.users):,} users of {holdout} has an item in run {run}",
                "give the holdout of the data that the run was made of",
            )
    scores = [score(one.positions, truth, len(items)) for one in lists.values()]
    resampled = resample(scores, resamples, seed)
    return Report(
        k=k,
        resamples=resamples,
        seed=seed,
        catalogue_items=len(items),
        holdout=_summary(truth, train),
        systems=_systems(lists, scores, resampled),
        comparisons=_comparisons(list(lists), scores, resampled),
    )


def score(lists: Positions, truth: Holdout, catalogue_size: int) -> Scores:
    """Compute every figure of one system, and each user's share in it.

    Most figures are means over users, so a user's share is the user's own value. Coverage is no mean: a resample of n
    users holds only about 63 % of them, so the union of its lists is smaller for that reason alone, and the plain
    percentile interval lies below the figure that it is meant to surround. A user's share in coverage is therefore what
    would be lost without that user (the jackknife's influence, Efron 1979); by the inequality of Efron and Stein (1981)
    its variance errs on the wide side.

    Parameters
    ----------
    lists
        ``(n, k)`` item positions, -1 where a list has ended.
    truth
        Held-out items of the n users.
    catalogue_size
        Number of items that can be recommended, N.
    """
    hit = metrics.hits(lists, truth.keys, catalogue_size)
    shares = np.column_stack(
        [
            metrics.recall(hit, truth.held_out),
            metrics.ndcg(hit, truth.held_out),
            metrics.hit_rate(hit),
            metrics.mrr(hit),
            metrics.sole_items(lists, catalogue_size) * (len(lists) / catalogue_size),
        ]
    )
    return Scores(np.append(shares[:, :-1].mean(axis=0), metrics.coverage(lists, catalogue_size)), shares)


def resample(scores: Sequence[Scores], resamples: int, seed: int) -> Values:
    """Return the figures of every system in every resample of the users, ``(resamples, systems, f)``."""
    shares = np.stack([one.shares for one in scores], axis=1)
    estimates = np.stack([one.estimates for one in scores])
    means = resampled_means(shares.reshape(len(shares), -1), resamples, seed).reshape(resamples, *estimates.shape)
    figures: Values = means + (estimates - shares.mean(axis=0))
    return figures


def _check_options(k: int, resamples: int, seed: int) -> None:
    if k < 1:
        raise ConfigError(f"k is {k}, expected at least 1", "choose a k of 1 or more")
    if resamples < 1:
        raise ConfigError(f"resamples is {resamples}, expected at least 1", "choose 1000 resamples or more")
    if not 0 <= seed < SEEDS:
        raise ConfigError(f"seed is {seed}, expected 0 to 2^64 - 1", "choose a seed in that range")


def _named(runs: Sequence[str]) -> dict[str, str]:
    """Name each run after its folder, links followed, or by its whole path where two folders share a name."""
    folders = [open_run(run).path() for run in runs]
    for folder in folders:
        if folders.count(folder) > 1:
            raise ConfigError(f"run {folder} is given twice", "name each run once")
    short = {folder: folder.rsplit("/", 1)[-1] for folder in folders}
    names = [POPULARITY, *short.values()]
    return {short[folder] if names.count(short[folder]) == 1 else folder: folder for folder in folders}


def _summary(truth: Holdout, train: Train) -> HoldoutSummary:
    pairs = int(truth.held_out.sum())
    return HoldoutSummary(
        users=len(truth.users),
        pairs=pairs,
        pairs_outside_catalogue=pairs - truth.keys.size,
        pairs_seen_in_train=int(np.isin(truth.keys, train.seen, assume_unique=True).sum()),
        null_rows=truth.null_rows,
        duplicate_rows=truth.duplicate_rows,
    )


def _systems(lists: Mapping[str, Lists], scores: Sequence[Scores], resampled: Values) -> tuple[System, ...]:
    return tuple(
        System(
            name=name,
            users_without_list=int((one.positions < 0).all(axis=1).sum()),
            users_left_out=one.users_left_out,
            figures=_with_intervals(scores[index].estimates, np.clip(resampled[:, index], 0.0, 1.0)),
        )
        for index, (name, one) in enumerate(lists.items())
    )


def _comparisons(names: Sequence[str], scores: Sequence[Scores], resampled: Values) -> tuple[Comparison, ...]:
    against_popularity = [(run, 0) for run in range(1, len(names))]
    against_first_run = [(run, 1) for run in range(2, len(names))]
    return tuple(
        Comparison(
            name=names[run],
            against=names[other],
            differences=_with_intervals(
                scores[run].estimates - scores[other].estimates, resampled[:, run] - resampled[:, other]
            ),
        )
        for run, other in against_popularity + against_first_run
    )


def _with_intervals(estimates: Values, resampled: Values) -> dict[str, Figure]:
    lows, highs = interval(resampled)
    return {
        name: Figure(float(estimate), float(low), float(high))
        for name, estimate, low, high in zip(metrics.METRICS, estimates, lows, highs, strict=True)
    }
