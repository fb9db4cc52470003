"""Where a study is kept: URLs without their secrets, a queue in which nothing counts twice, a database that is away."""

from __future__ import annotations

import logging
import sqlite3
import threading
from itertools import pairwise

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from scvi.tune import storage as storages
from scvi.tune.claims import ERROR, INTERRUPTED, RETRY_OF, Queue
from scvi.tune.spaces import distributions
from scvi.tune.storage import Pace, open_storage, shown, url_of
from scvi.tune.studies import agreed
from scvi.tune.worker import Job, Pruned, open_study, work

SECRET = "sesame"
PACE = Pace(beat=1, grace=1, poll=0.01, patience=5.0)


def job_of(tmp_path, n_trials=3, **others):
    space = distributions({"x": (0.0, 1.0)})[0]
    job = Job(url_of(tmp_path / "study.db"), "study", n_trials, "minimize", space, pace=PACE, **others)
    return agreed(job, {"it": "a test"}, 0, {})


@pytest.fixture
def queue(tmp_path):
    job = job_of(tmp_path)
    study, storage = open_study(job)
    yield Queue(study, storage, PACE, 3)
    storage.engine.dispose()


def states(queue):
    return [(t.number, t.state.name, t.user_attrs.get(RETRY_OF)) for t in queue.trials()]


# ---- URLs ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("given", "url"),
    [
        ("some/study.db", "sqlite:///some/study.db"),
        ("postgresql://me@host/db", "postgresql+psycopg://me@host/db"),
        ("postgres://me@host/db", "postgresql+psycopg://me@host/db"),
        ("mysql+pymysql://me@host/db", "mysql+pymysql://me@host/db"),
    ],
)
def test_urls(given, url):
    assert url_of(given) == url


@pytest.mark.parametrize(
    "url",
    [
        f"postgresql+psycopg://me:{SECRET}@host/db",
        f"postgresql+psycopg://me@host/db?password={SECRET}&sslpassword={SECRET}",
        f"mysql://me:{SECRET}@[host/db",
        f"no such thing://{SECRET}",
    ],
)
def test_no_password_is_shown(url):
    assert SECRET not in shown(url)


@pytest.mark.parametrize(
    "url",
    [
        f"postgresql+psycopg://me:{SECRET}@127.0.0.1:1/db",
        f"postgresql+psycopg://127.0.0.1:1/db?user=me&password={SECRET}",
        f"postgresql+nodriver://me:{SECRET}@127.0.0.1:1/db",
        f"no such thing://{SECRET}",
    ],
)
def test_a_database_that_cannot_be_used_is_refused_without_its_password(url, monkeypatch, caplog):
    monkeypatch.setattr(storages, "_OPENINGS", 2)
    with caplog.at_level(logging.DEBUG), pytest.raises(ConnectionError) as error:
        open_storage(url, PACE)
    assert error.value.__cause__ is None
    assert SECRET not in f"{error.value}{caplog.text}"
    assert "cannot be used" in str(error.value)


# ---- the queue -------------------------------------------------------------------------------------------------------


def test_trials_are_taken_once_each(queue):
    taken = [queue.take() for _ in range(4)]
    assert [trial and trial.number for trial in taken] == [0, 1, 2, None]
    assert not queue.is_complete()


def test_what_several_workers_queue_beyond_the_end_waits(queue):
    for _ in range(5):
        queue.study.enqueue_trial({})
    numbers = [queue.take().number for _ in range(3)]
    assert numbers == [0, 1, 2]
    assert queue.take() is None
    assert [name for _, name, _ in states(queue)] == ["RUNNING"] * 3 + ["WAITING"] * 2


def test_a_retry_that_two_workers_queue_runs_once(queue):
    first = queue.take()
    queue.storage.set_trial_state_values(first._trial_id, queue._states.FAIL)
    for _ in range(2):
        queue.study.enqueue_trial({"x": 0.5}, user_attrs={RETRY_OF: 0})
    taken = [queue.take() for _ in range(4)]
    assert [trial and trial.number for trial in taken] == [1, 3, 4, None]
    assert states(queue)[2] == (2, "WAITING", 0)


def test_a_trial_is_run_again_if_its_worker_died_but_not_for_ever_and_not_after_an_error(queue):
    numbers = []
    for _ in range(4):
        trial = queue.take()
        numbers.append(trial.number)
        queue.storage.set_trial_state_values(trial._trial_id, queue._states.FAIL)
    assert [states(queue)[n][2] for n in numbers] == [None, 0, 1, 2]
    assert queue.origin(queue.trials()[3], queue.trials()) == 0
    following = queue.take()  # the first was run four times
    assert RETRY_OF not in following.user_attrs
    queue.storage.set_trial_user_attr(following._trial_id, ERROR, "ValueError: no")
    queue.storage.set_trial_state_values(following._trial_id, queue._states.FAIL)
    last = queue.take()
    assert RETRY_OF not in last.user_attrs
    queue.storage.set_trial_user_attr(last._trial_id, INTERRUPTED, True)
    queue.storage.set_trial_state_values(last._trial_id, queue._states.FAIL)
    assert queue.take().user_attrs[RETRY_OF] == last.number


def test_a_trial_whose_worker_died_at_once_is_run_again_with_what_was_queued(queue):
    queue.study.enqueue_trial({"x": 0.25})
    for _ in range(3):
        trial = queue.take()
        queue.storage.set_trial_state_values(trial._trial_id, queue._states.FAIL)
    assert queue.origin(trial, queue.trials()) == 0
    assert trial.system_attrs["fixed_params"] == {"x": 0.25}


@settings(max_examples=8, deadline=None)
@given(ends=st.lists(st.sampled_from(["complete", "error", "dead", "interrupted"]), min_size=3, max_size=14))
def test_whatever_becomes_of_trials_none_is_lost_and_none_counts_twice(tmp_path_factory, ends):
    job = job_of(tmp_path_factory.mktemp("queue"))
    study, storage = open_study(job)
    queue = Queue(study, storage, PACE, 3)
    for end in ends:
        trial = queue.take()
        if trial is None:
            break
        if end in ("error", "interrupted"):
            storage.set_trial_user_attr(trial._trial_id, {"error": ERROR, "interrupted": INTERRUPTED}[end], "yes")
        values = [1.0] if end == "complete" else None
        state = queue._states.COMPLETE if end == "complete" else queue._states.FAIL
        storage.set_trial_state_values(trial._trial_id, state, values)
    trials = queue.trials()
    retried = [t.user_attrs[RETRY_OF] for t in trials if RETRY_OF in t.user_attrs]
    assert len(retried) == len(set(retried))
    assert all(trials[n].state.name == "FAIL" and ERROR not in trials[n].user_attrs for n in retried)
    assert all(origin < t.number for t in trials for origin in [t.user_attrs.get(RETRY_OF, -1)])
    ended = sum(t.state.name == "COMPLETE" or ERROR in t.user_attrs for t in trials)
    assert ended <= 3
    assert [t.number for t in trials] == list(range(len(trials)))
    storage.engine.dispose()


# ---- a database that is away, and workers in one process -------------------------------------------------------------


def test_a_locked_database_is_waited_for(tmp_path, caplog, monkeypatch):
    job = job_of(tmp_path)
    study, storage = open_study(job)
    queue = Queue(study, storage, PACE, 3)
    monkeypatch.setattr(storages, "_LONGEST_PAUSE", 0.2)
    holder = sqlite3.connect(tmp_path / "study.db", check_same_thread=False, isolation_level=None)
    holder.execute("BEGIN EXCLUSIVE")
    storage.engine.dispose()
    threading.Timer(1.0, holder.rollback).start()
    assert queue.take().number == 0
    storage.engine.dispose()
    holder.close()


def test_a_worker_gives_up_after_its_patience(tmp_path):
    outages = storages.Outages("a place", 0.3)

    def away():
        raise sqlite_error()

    with pytest.raises(ConnectionError, match=r"a place has not answered"):
        outages.outlasting(away)()


def sqlite_error():
    from sqlalchemy.exc import OperationalError

    return OperationalError("SELECT 1", {}, Exception("no"))


def test_other_errors_are_not_waited_for():
    def wrong():
        raise ValueError("wrong")

    with pytest.raises(ValueError, match="wrong"):
        storages.Outages("a place", 60).outlasting(wrong)()


def test_a_worker_whose_trial_was_given_to_another_leaves_its_result(tmp_path, caplog):
    job = job_of(tmp_path, n_trials=1)
    study, storage = open_study(job)
    seen = []

    def objective(trial):
        seen.append(trial.number)
        if len(seen) == 1:  # as another worker does that sees no sign of life
            storage.set_trial_state_values(trial._trial._trial_id, Queue(study, storage, PACE, 1)._states.FAIL)
        return float(len(seen))

    assert work(job, objective)
    trials = study.get_trials()
    assert [(t.state.name, t.value) for t in trials] == [("FAIL", None), ("COMPLETE", 2.0)]
    assert trials[1].params == trials[0].params
    assert "taken for dead" in caplog.text
    storage.engine.dispose()


def test_hopeless_trials_end_early_whichever_way_the_metric_goes(tmp_path):
    for direction in ("minimize", "maximize"):
        folder = tmp_path / direction
        folder.mkdir()
        space = distributions({"x": (0.0, 1.0)})[0]
        job = Job(url_of(folder / "study.db"), "study", 8, direction, space, pace=PACE)
        job = agreed(job, {}, 0, {})

        def objective(trial):
            loss = 100.0 if trial.number >= 6 else float(trial.number)  # the last two are hopeless
            for epoch in range(10):
                if not trial.goes_on((epoch + 1) / 10, loss):
                    assert trial.was_pruned
                    raise Pruned
            return loss

        work(job, objective)
        study, storage = open_study(job)
        names = [trial.state.name for trial in study.get_trials()]
        assert names[6:] == ["PRUNED", "PRUNED"]
        assert names[:5] == ["COMPLETE"] * 5
        last = study.get_trials()[6].intermediate_values
        assert min(last) == 10
        assert max(last) == 30  # nothing is judged before
        storage.engine.dispose()


def test_steps_of_a_curve_rise(tmp_path):
    job = job_of(tmp_path, n_trials=1)

    def objective(trial):
        for epoch in range(300):
            trial.goes_on((epoch + 1) / 300, 1.0)
        return 1.0

    work(job, objective)
    study, storage = open_study(job)
    steps = list(study.get_trials()[0].intermediate_values)
    assert len(steps) == 101
    assert all(a < b for a, b in pairwise(steps))
    storage.engine.dispose()
