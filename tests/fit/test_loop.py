"""The loop: which hooks run when, how it is stopped, and what it leaves behind."""

from __future__ import annotations

import signal
from collections.abc import Iterator

import pytest
from torch import nn

from scvi.fit.loop import Loop, progress


class Owner:
    """Writes down what the loop asks of it, in words; does as `then` says when it is asked for it."""

    def __init__(self, n_minibatches: int = 2, then: dict[str, object] | None = None) -> None:
        self.loop, self.n_minibatches, self.then = Loop(), n_minibatches, then or {}
        self.model = nn.Linear(1, 1)
        self.said: list[str] = []

    def train(self, n_epochs: int) -> None:
        with self.loop.training(self.model, n_epochs) as epochs:
            assert self.model.training
            self.loop.run(self, progress(epochs, dict, shown=False))

    def say(self, what: str) -> None:
        self.said.append(f"{self.loop.epoch}: {what}")
        action = self.then.get(self.said[-1])
        if callable(action):
            action()

    def on_epoch_begin(self) -> None:
        self.say("begin")

    def data_loaders_loop(self) -> Iterator[int]:
        for i in range(self.n_minibatches):
            self.say(f"load {i}")
            yield i

    def on_iteration_begin(self) -> None:
        self.say("before")

    def on_training_loop(self, minibatch: int) -> None:
        self.say(f"step {minibatch}")

    def on_iteration_end(self) -> None:
        self.say("after")
        self.loop.n_iter += 1

    def on_epoch_end(self) -> bool:
        self.say("end")
        return "stop" not in self.then.values() or self.then.get(self.said[-1]) != "stop"


def press_ctrl_c() -> None:
    signal.raise_signal(signal.SIGINT)


@pytest.fixture
def heard() -> Iterator[None]:
    """Ctrl-C as in a shell, also where whatever started the tests ignores it."""
    previous = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    assert signal.signal(signal.SIGINT, previous) is signal.default_int_handler  # put back


EPOCH = ["begin", "load 0", "before", "step 0", "after", "load 1", "before", "step 1", "after", "end"]


def test_hooks_run_in_order() -> None:
    owner = Owner()
    owner.train(2)
    assert owner.said == [f"{epoch}: {what}" for epoch in range(2) for what in EPOCH]
    assert (owner.loop.epoch, owner.loop.n_epochs, owner.loop.n_iter) == (1, 2, 4)
    assert not owner.model.training


def test_an_epoch_may_be_the_last() -> None:
    owner = Owner(then={"1: end": "stop"})
    owner.train(5)
    assert owner.said[-1] == "1: end"
    assert owner.loop.epoch == 1
    assert not owner.loop.interrupted


def test_no_epoch_at_all() -> None:
    owner = Owner()
    owner.train(0)
    assert owner.said == []
    assert owner.loop.epoch == -1


def test_steps_go_on_and_epochs_begin_anew() -> None:
    owner = Owner()
    owner.train(1)
    owner.loop.first_epoch = 3
    owner.train(5)
    assert owner.loop.n_iter == 6
    assert [said for said in owner.said if said.endswith("end")] == ["0: end", "3: end", "4: end"]


@pytest.mark.parametrize("when", ["1: begin", "1: load 0", "1: before", "1: step 0", "1: after"])
def test_ctrl_c_ends_it_after_the_minibatch(when: str, heard: None, caplog: pytest.LogCaptureFixture) -> None:
    owner = Owner(then={when: press_ctrl_c})
    owner.train(4)
    assert owner.said[-1] == "1: after"
    assert owner.loop.interrupted
    assert owner.loop.n_iter == 3
    assert not owner.model.training
    assert caplog.messages == ["Training was interrupted in epoch 2 of 4."]
    owner.then = {}
    owner.train(1)
    assert not owner.loop.interrupted


def test_ctrl_c_at_the_end_of_an_epoch(heard: None) -> None:
    owner = Owner(then={"0: end": press_ctrl_c})
    owner.train(4)
    assert owner.said[-1] == "0: end"
    assert owner.loop.interrupted


def test_a_second_ctrl_c_raises_at_once(heard: None) -> None:
    owner = Owner(then={"0: before": press_ctrl_c, "0: step 0": press_ctrl_c})
    with pytest.raises(KeyboardInterrupt):
        owner.train(4)
    assert owner.said[-1] == "0: step 0"
    assert not owner.model.training


def test_an_error_leaves_a_model_that_can_be_asked() -> None:
    def fail() -> None:
        raise OSError("no more cells")

    owner = Owner(then={"0: load 1": fail})
    with pytest.raises(OSError, match="no more cells"):
        owner.train(4)
    assert owner.loop.n_iter == 1
    assert not owner.model.training


def test_progress_is_closed_where_it_is_left() -> None:
    owner, closed = Owner(then={"0: end": "stop"}), []

    def epochs() -> Iterator[int]:
        try:
            yield from range(3)
        finally:
            closed.append(True)

    with owner.loop.training(owner.model, 3):
        owner.loop.run(owner, epochs())
        assert closed == [True]
