import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from batchrec.models.tower_training import WindowBatches, cut_windows, log_chance_of
from tests.models.support import make_events, make_items, small_shape


@given(st.lists(st.integers(1, 30), min_size=1, max_size=20), st.integers(1, 9), st.integers(0, 99))
def test_windows_cover_every_event_once_and_stay_within_one_user(counts, length, seed):
    counts = np.array(counts)
    windows = cut_windows(counts, length, np.random.default_rng(seed))
    covered = np.concatenate([np.arange(start, stop) for start, stop in windows])
    assert sorted(covered.tolist()) == list(range(counts.sum()))
    user = np.repeat(np.arange(len(counts)), counts)
    for start, stop in windows:
        assert 0 < stop - start <= length
        assert len(set(user[start:stop].tolist())) == 1


def batches_of(histories, n_items, *, history, batch, seed=0):
    number = np.arange(sum(map(len, histories)), dtype=np.float32)
    events = make_events(histories, user_features={"number": number})
    return events, WindowBatches(events, make_items(n_items), small_shape(n_items, history=history), batch, seed)


@settings(max_examples=30, deadline=None)
@given(
    st.lists(st.lists(st.integers(0, 14), min_size=1, max_size=20, unique=True), min_size=1, max_size=9),
    st.integers(1, 6),
    st.integers(1, 4),
    st.integers(0, 99),
)
def test_a_place_is_asked_for_its_own_event_and_sees_only_what_came_before(histories, length, batch, seed):
    events, batches = batches_of(histories, 15, history=length, batch=batch, seed=seed)
    rank, _ = events.ranks()
    asked = []
    for index in range(len(batches)):
        inputs, target, weight = batches[index]
        item = inputs["pool_code"] - 1
        for place, wanted, number, counts in zip(
            inputs["place"], target, inputs["user"]["number"], weight, strict=True
        ):
            if not counts:
                continue
            event = int(number)
            asked.append(event)
            assert item[wanted] == events.item[event]
            row, column = divmod(int(place), length)
            visible = inputs["history"][row, : column + 1]
            visible = item[visible[visible > 0]].tolist()
            before = events.item[event - rank[event] : event].tolist()
            assert visible == before[len(before) - len(visible) :]
            assert bool(visible) == bool(before)
    assert len(asked) == len(set(asked))


def test_every_batch_of_an_epoch_has_one_shape():
    _, batches = batches_of([list(range(n)) for n in (1, 5, 9, 14, 2)], 15, history=4, batch=3)
    shapes = {
        (inputs["history"].shape, inputs["place"].shape, inputs["pool_code"].shape, target.shape, weight.shape)
        for inputs, target, weight in (batches[index] for index in range(len(batches)))
    }
    assert len(shapes) == 1


def test_padding_of_the_pool_can_never_be_drawn():
    _, batches = batches_of([[0, 1, 2], [3]], 15, history=4, batch=2)
    inputs, target, weight = batches[0]
    real = inputs["pool_code"] > 0
    assert np.all(inputs["pool_log_chance"][~real] > 1e8)
    assert np.all(inputs["pool_log_chance"][real] <= 0)
    assert np.all(real[target[weight > 0]])


def test_the_chance_to_be_in_the_pool_is_that_of_a_simulation():
    share = np.array([0.6, 0.3, 0.09, 0.01])
    draws = np.random.default_rng(0).choice(4, size=(40_000, 20), p=share)
    simulated = [(draws == item).any(axis=1).mean() for item in range(4)]
    assert np.exp(log_chance_of(share, 20)) == pytest.approx(simulated, abs=0.01)


def test_an_item_that_never_occurs_has_a_finite_log_chance():
    assert np.all(np.isfinite(log_chance_of(np.array([0.0, 1.0]), 100)))
