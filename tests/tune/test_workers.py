"""Workers that share a study, over SQLite and PostgreSQL: one is killed, the database goes away, nothing is lost."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

import scvi
import study_worker
from postgres import PASSWORD, Postgres
from scvi.tune.claims import Queue
from scvi.tune.record import table
from scvi.tune.worker import open_study
from study_worker import SPACE, job_of

pytestmark = pytest.mark.slow
N_TRIALS = 12
PATIENCE = 240  # seconds, on a busy machine


@pytest.fixture(scope="module")
def postgres() -> Iterator[Postgres]:
    server = Postgres()
    yield server
    server.remove()


class Crew:
    """Three workers, and the lines that they write."""

    def __init__(self, url: str, folder: Path) -> None:
        self.url, self.log = url, folder / "log"
        program = Path(study_worker.__file__)
        source = Path(scvi.__file__).parents[1]
        environment = {**os.environ, "PYTHONPATH": str(source), "OMP_NUM_THREADS": "1"}
        command = [sys.executable, "-W", "ignore", program, url, self.log, str(N_TRIALS), "0.5"]
        self.outputs = [folder / f"output{i}" for i in range(3)]
        self.workers = []
        for output in self.outputs:
            with open(output, "wb") as file:
                self.workers.append(subprocess.Popen(command, stdout=file, stderr=file, env=environment))

    def lines(self, word: str) -> list[tuple[int, int]]:
        """Numbers of trials that began or ended, with the process."""
        text = self.log.read_text() if self.log.exists() else ""
        found = [line.split() for line in text.splitlines()]
        return [(int(number), int(process)) for said, number, process in found if said == word]

    def wait_for(self, condition: Callable[[], bool]) -> None:
        deadline = time.monotonic() + PATIENCE
        while not condition():
            assert time.monotonic() < deadline, self.said()
            assert any(worker.poll() is None for worker in self.workers), self.said()
            time.sleep(0.05)

    def kill_one(self) -> tuple[int, int]:
        """Kills a worker in the middle of a trial, when all three work; number of the trial and process."""
        self.wait_for(lambda: len(self.lines("ready")) == 3)
        self.log.with_name("log.go").touch()
        self.wait_for(lambda: len({process for _, process in self.lines("begin")}) == 3)
        seen = len(self.lines("begin"))
        self.wait_for(lambda: len(self.lines("begin")) > seen)
        number, process = self.lines("begin")[-1]
        os.kill(process, signal.SIGKILL)
        return number, process

    def end(self) -> None:
        for worker in self.workers:
            worker.wait(PATIENCE)

    def said(self) -> str:
        return "\n".join(output.read_text() for output in self.outputs)


def check(crew: Crew, number: int, process: int) -> None:
    """Of a study one of whose workers was killed in this trial: each other trial ran once, this one again."""
    assert sorted(worker.returncode for worker in crew.workers) == [-signal.SIGKILL, 0, 0], crew.said()
    job = job_of(crew.url, N_TRIALS)
    study, storage = open_study(job)
    queue = Queue(study, storage, job.pace, N_TRIALS)
    assert queue.is_complete()
    trials = queue.wanted(queue.trials())
    frame = table(trials, list(SPACE))
    assert Counter(frame["state"]) == {"complete": N_TRIALS, "fail": 1}
    assert list(frame.index[frame["state"] == "fail"]) == [number]
    assert frame.loc[number, "why"] == "its worker died"
    (retry,) = frame.index[frame["retry_of"].notna()]
    assert frame.loc[retry, "retry_of"] == number
    assert list(frame.loc[retry, [*SPACE]]) == list(frame.loc[number, [*SPACE]])
    begun, ended = Counter(n for n, _ in crew.lines("begin")), Counter(n for n, _ in crew.lines("end"))
    assert begun == dict.fromkeys(frame.index, 1)
    assert ended == {n: 1 for n in frame.index if n != number}
    assert len({p for _, p in crew.lines("end")}) >= 2
    storage.engine.dispose()


def test_three_workers_over_sqlite_one_of_which_is_killed(tmp_path: Path) -> None:
    crew = Crew(str(tmp_path / "study.db"), tmp_path)
    number, process = crew.kill_one()
    crew.end()
    check(crew, number, process)


def test_three_workers_over_postgresql_one_killed_and_the_database_away(postgres: Postgres, tmp_path: Path) -> None:
    crew = Crew(postgres.url, tmp_path)
    number, process = crew.kill_one()
    postgres.stop()
    time.sleep(10)
    postgres.start()
    crew.end()
    check(crew, number, process)
    said = crew.said()
    assert "does not answer: waiting for it" in said
    assert "answers again" in said
    assert PASSWORD not in said
    assert PASSWORD not in crew.log.read_text()
