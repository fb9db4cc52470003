"""Ctrl-C as a wish to stop, not as an exception in the middle of a step."""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Any

__all__ = ["ctrl_c_sets"]


@contextmanager
def ctrl_c_sets(target: Any, flag: str) -> Iterator[None]:
    """Inside, Ctrl-C sets ``target.flag`` to True, and a second one raises KeyboardInterrupt.

    Python allows this in the main thread only; elsewhere, and where Ctrl-C is ignored, nothing changes.
    """
    in_main_thread = threading.current_thread() is threading.main_thread()
    previous = signal.getsignal(signal.SIGINT) if in_main_thread else None
    if previous is None or previous is signal.SIG_IGN:
        yield
        return

    def stop(signum: int, frame: FrameType | None) -> None:
        if getattr(target, flag):
            raise KeyboardInterrupt
        setattr(target, flag, True)

    signal.signal(signal.SIGINT, stop)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, previous)
