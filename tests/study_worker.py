"""One worker of a study whose trials cost nothing: a program that tests start several times, and kill.

    python study_worker.py URL LOG N_TRIALS SECONDS

It says in the log that it is ready, and waits for a file LOG.go; then each trial writes "begin" and "end" lines, and
takes some time in between.
"""

from __future__ import annotations

import os
import sys
import time

from scvi import set_verbosity
from scvi.tune.spaces import distributions
from scvi.tune.storage import Pace, url_of
from scvi.tune.studies import agreed
from scvi.tune.worker import Job, Running, work

NAME = "a shared study"
SPACE = {"x": (-5.0, 5.0), "kind": ["a", "b"]}
PACE = Pace(beat=1, grace=10, poll=0.1)


def job_of(url: str, n_trials: int) -> Job:
    return Job(url_of(url), NAME, n_trials, "minimize", distributions(SPACE)[0], "none", pace=PACE)


def say(log: str, *words: object) -> None:
    with open(log, "a") as file:  # one write a line: the lines of several processes do not mix
        file.write(" ".join(map(str, words)) + "\n")


def main(url: str, log: str, n_trials: str, seconds: str) -> None:
    set_verbosity("INFO")
    job = agreed(job_of(url, int(n_trials)), {"it": "a test"}, 0, {})

    def objective(trial: Running) -> float:
        say(log, "begin", trial.number, os.getpid())
        time.sleep(float(seconds))
        say(log, "end", trial.number, os.getpid())
        return trial.params["x"] ** 2 + (trial.params["kind"] == "b")

    say(log, "ready", 0, os.getpid())
    while not os.path.exists(f"{log}.go"):
        time.sleep(0.05)
    work(job, objective)


if __name__ == "__main__":
    main(*sys.argv[1:])
