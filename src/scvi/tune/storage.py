"""Where a study is kept: a database that workers share, and that may be away for a while."""

from __future__ import annotations

import logging
import os
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import wraps
from importlib.util import find_spec
from typing import Any

from scvi.tune.packages import optuna, quiet

logger = logging.getLogger(__name__)

_CALLS = (
    *("create_new_study", "get_study_id_from_name", "get_study_name_from_id", "get_study_directions"),
    *("get_study_user_attrs", "set_study_user_attr", "get_study_system_attrs", "set_study_system_attr"),
    *("create_new_trial", "_create_new_trial", "get_trial", "get_all_trials", "_get_trials", "get_n_trials"),
    *("set_trial_param", "_set_trial_param", "set_trial_state_values", "set_trial_intermediate_value"),
    *("set_trial_user_attr", "set_trial_system_attr", "get_trial_user_attrs", "get_trial_system_attrs"),
    *("get_best_trial", "_get_best_trial_id", "record_heartbeat", "_get_stale_trial_ids"),
)
"""Of a storage: what waits for a database that is away. All may be asked twice, see `claims`."""

_OPENINGS = 8  # of a new database, where others make its tables at the same time
_LONGEST_PAUSE = 5.0  # seconds between two questions to a database that is away


@dataclass(frozen=True)
class Pace:
    """Seconds: between two signs of life, without one until a worker is taken for dead, and between two looks for work.

    Attributes
    ----------
    patience
        How long a database may be away before a worker gives up.
    """

    beat: int = 10
    grace: int = 60
    poll: float = 1.0
    patience: float = 3600.0


def url_of(storage: str | os.PathLike[str]) -> str:
    """A URL for SQLAlchemy: of a file, SQLite; of PostgreSQL without a driver, with the one of the extra `[tune]`."""
    text = os.fspath(storage)
    if "://" not in text:
        return f"sqlite:///{text}"
    scheme, rest = text.split("://", 1)
    if scheme in ("postgresql", "postgres"):
        driver = "psycopg" if find_spec("psycopg") else "psycopg2"
        return f"postgresql+{driver}://{rest}"
    return text


def shown(url: str) -> str:
    """The URL as it may be written and said: without a password, and without what follows a question mark."""
    from sqlalchemy.engine import make_url
    from sqlalchemy.exc import ArgumentError

    try:
        parsed = make_url(url)
    except (ArgumentError, ValueError):
        return f"{url.split(':', 1)[0]}://..."
    return parsed.set(query={}).render_as_string(hide_password=True)


def open_storage(url: str, pace: Pace) -> Any:
    """An optuna storage whose questions wait for a database that is away, and which knows dead workers.

    Raises
    ------
    ConnectionError
        If the database cannot be used; its password is not in the message.
    """
    from sqlalchemy.exc import SQLAlchemyError

    RDBStorage = optuna().storages.RDBStorage
    errors = (SQLAlchemyError, optuna().exceptions.StorageInternalError, ImportError, ValueError, RuntimeError)
    is_sqlite = url.startswith("sqlite")
    options: dict[str, Any] = {"connect_args": {"timeout": 60}} if is_sqlite else {"pool_pre_ping": True}
    for attempt in range(_OPENINGS):
        try:
            with quiet():
                storage = RDBStorage(url, engine_kwargs=options)
            break
        except errors as error:
            if attempt == _OPENINGS - 1 or not isinstance(error, SQLAlchemyError):
                raise ConnectionError(f"the database {shown(url)} cannot be used: {_said(error, url)}") from None
            time.sleep(0.1 * 2**attempt / 4)
    if is_sqlite:
        _one_writer_at_a_time(storage.engine)
    # set here and not by the constructor, which warns that its own use of them may change
    storage.heartbeat_interval, storage.grace_period = pace.beat, pace.grace
    outages = Outages(shown(url), pace.patience)
    for name in _CALLS:
        setattr(storage, name, outages.outlasting(getattr(storage, name)))
    storage.outages = outages
    return storage


def _said(error: BaseException, url: str) -> str:
    """The first line of an error, without what the URL keeps secret."""
    from sqlalchemy.engine import make_url
    from sqlalchemy.exc import ArgumentError

    text = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
    try:
        parsed = make_url(url)
    except (ArgumentError, ValueError):
        return "it is no URL of a database, such as postgresql://user:password@host/database"
    values = [value for values in parsed.query.values() for value in ([values] if isinstance(values, str) else values)]
    for secret in filter(None, [url, parsed.password, *values]):
        text = text.replace(str(secret), "***")
    return text


def _one_writer_at_a_time(engine: Any) -> None:
    """Lets SQLite begin each transaction with the lock for writing.

    Python's module begins one with the first write: between the look at a trial and the claim of it another process
    could claim it as well.
    """
    from sqlalchemy import event

    event.listen(engine, "connect", lambda connection, record: setattr(connection, "isolation_level", None))
    event.listen(engine, "begin", lambda connection: connection.exec_driver_sql("BEGIN IMMEDIATE"))
    engine.dispose()  # connections that were made without


class Outages:
    """Waits for a database that is away.

    Parameters
    ----------
    place
        What to call it.
    patience
        Seconds until waiting is given up.

    Attributes
    ----------
    over_since
        When the last outage ended, on the monotonic clock.
    """

    def __init__(self, place: str, patience: float) -> None:
        self.place, self.patience, self.over_since = place, patience, float("-inf")

    def outlasting(self, call: Callable[..., Any]) -> Callable[..., Any]:
        """A call that is made again until the database answers."""

        @wraps(call)
        def insist(*args: Any, **kwargs: Any) -> Any:
            began, pause = None, 0.1
            while True:
                try:
                    answer = call(*args, **kwargs)
                except Exception as error:
                    if not _is_away(error):
                        raise
                    now = time.monotonic()
                    if began is None:
                        began = now
                        logger.warning("The database %s does not answer: waiting for it.", self.place)
                    if now - began > self.patience:
                        raise ConnectionError(
                            f"the database {self.place} has not answered for {now - began:.0f} s"
                        ) from None
                    time.sleep(pause)
                    pause = min(2 * pause, _LONGEST_PAUSE)
                else:
                    if began is not None:
                        self.over_since = time.monotonic()
                        logger.warning("The database answers again, after %.0f s.", self.over_since - began)
                    return answer

        return insist


def _is_away(error: BaseException | None) -> bool:
    """Whether an error, or what it comes from, is that a database does not answer, or not in time."""
    from sqlalchemy.exc import DBAPIError, InterfaceError, OperationalError, TimeoutError

    while error is not None:
        if isinstance(error, (OperationalError, InterfaceError, TimeoutError)):
            return True
        if isinstance(error, DBAPIError) and error.connection_invalidated:
            return True
        error = error.__cause__ or error.__context__
    return False
