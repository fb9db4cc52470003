"""The training loop of both doors: epochs, minibatches, hooks, Ctrl-C and a progress bar."""

from __future__ import annotations

import logging
import signal
import sys
import threading
from collections.abc import Callable, Generator, Iterable, Iterator, Mapping
from contextlib import closing, contextmanager
from types import FrameType
from typing import Any, Protocol, TextIO

from torch import nn
from tqdm import tqdm

from scvi._settings import settings

logger = logging.getLogger(__name__)


class Hooks(Protocol):
    """What the owner of a loop does when the loop comes to it."""

    def on_epoch_begin(self) -> None: ...

    def data_loaders_loop(self) -> Iterable[Any]:
        """The minibatches of an epoch."""

    def on_iteration_begin(self) -> None: ...

    def on_training_loop(self, minibatch: Any, /) -> None:
        """One step."""

    def on_iteration_end(self) -> None:
        """Has to count the step."""

    def on_epoch_end(self) -> bool:
        """False to stop."""


class Loop:
    """Epochs of minibatches, and where training is.

    Attributes
    ----------
    epoch, first_epoch, n_epochs
        Number of the current epoch, that of the first one to run, from 0, and of the epochs there are.
    n_iter
        Steps so far.
    interrupted
        Whether the last training was ended with Ctrl-C.
    asked
        Whether this process was asked to end it, which is what `interrupted` says unless there are others.

    Parameters
    ----------
    are_several
        Whether this is one of several processes, which end together: their owner sets `interrupted`. They heed SIGTERM
        as they heed Ctrl-C, for it is how a job is ended.
    """

    def __init__(self, are_several: bool = False) -> None:
        self.epoch, self.first_epoch, self.n_iter = -1, 0, 0
        self.n_epochs: int | None = None
        self.interrupted = self.asked = False
        self.are_several = are_several

    @contextmanager
    def training(self, model: nn.Module, n_epochs: int) -> Iterator[range]:
        """Gives the epochs to run. Inside, the model is in training mode and Ctrl-C ends `run` after its minibatch.

        A second Ctrl-C raises KeyboardInterrupt at once. Afterwards the model is in evaluation mode, whatever happened.
        """
        self.epoch, self.n_epochs = self.first_epoch - 1, n_epochs
        self.interrupted = self.asked = False
        try:
            model.train()
            with self._heeding_ctrl_c():
                yield range(self.first_epoch, n_epochs)
        finally:
            model.eval()
        if self.interrupted:
            logger.warning("Training was interrupted in epoch %d of %d.", self.epoch + 1, n_epochs)

    def run(self, hooks: Hooks, epochs: Generator[int]) -> None:
        """Runs epochs until there are no more of them, a hook says so or Ctrl-C was pressed."""
        with closing(epochs):  # a generator that is left early is told so now, not when it is collected
            for self.epoch in epochs:
                hooks.on_epoch_begin()
                for minibatch in hooks.data_loaders_loop():
                    hooks.on_iteration_begin()
                    hooks.on_training_loop(minibatch)
                    hooks.on_iteration_end()
                    if self.interrupted:
                        return
                if not hooks.on_epoch_end() or self.interrupted:
                    return

    @contextmanager
    def _heeding_ctrl_c(self) -> Iterator[None]:
        """Python allows this in the main thread only; elsewhere, and where Ctrl-C is ignored, nothing changes."""
        in_main_thread = threading.current_thread() is threading.main_thread()
        heeded = (signal.SIGINT, signal.SIGTERM) if self.are_several else (signal.SIGINT,)
        previous = {number: signal.getsignal(number) for number in heeded} if in_main_thread else {}
        previous = {number: handler for number, handler in previous.items() if handler not in (None, signal.SIG_IGN)}

        def stop(signum: int, frame: FrameType | None) -> None:
            if self.asked:
                raise KeyboardInterrupt
            self.asked, self.interrupted = True, not self.are_several

        for number in previous:
            signal.signal(number, stop)
        try:
            yield
        finally:
            for number, handler in previous.items():
                signal.signal(number, handler)


def progress(epochs: range, values: Callable[[], Mapping[str, str]], shown: bool) -> Generator[int]:
    """Yields the epochs to run while a progress bar shows them.

    The bar is for a terminal or a notebook: in a file or a pipe each of its states would be a line.

    Parameters
    ----------
    values
        What to show beside the epoch, asked after each.
    """
    hidden = not shown or settings.progress_bar_style == "none" or not is_live(sys.stdout)
    with tqdm(epochs, "training", epochs.stop, initial=epochs.start, file=sys.stdout, disable=hidden) as bar:
        for epoch in bar:
            yield epoch  # here the loop runs the epoch: what follows comes after its last hook
            bar.set_postfix(values(), refresh=False)


def is_live(stream: TextIO | None) -> bool:
    """Whether what is written can be written over: in a terminal, and in a notebook, which says it is none."""
    return stream is not None and (stream.isatty() or type(stream).__module__.startswith("ipykernel"))
