import io
import logging

import numpy as np
import pytest
import torch

import scvi
from scvi._settings import DispatchingFormatter, Settings, autotune_formatter


@pytest.fixture(autouse=True)
def as_before():
    """Gives back the settings and the state of the global generators."""
    fields, threads = dict(vars(scvi.settings)), torch.get_num_threads()
    numpy_state, torch_state = np.random.get_state(), torch.get_rng_state()
    cudnn = torch.backends.cudnn.deterministic, torch.backends.cudnn.benchmark
    yield
    vars(scvi.settings).update(fields)
    torch.set_num_threads(threads)
    np.random.set_state(numpy_state)
    torch.set_rng_state(torch_state)
    torch.backends.cudnn.deterministic, torch.backends.cudnn.benchmark = cudnn


def test_defaults():
    fresh = Settings()
    assert (fresh.seed, fresh.batch_size, fresh.progress_bar_style) == (None, 128, "tqdm")
    assert fresh.chosen_batch_size is None
    assert fresh.num_threads == torch.get_num_threads()
    assert "seed=None" in repr(fresh)


@pytest.mark.parametrize("seed_by", [scvi.set_seed, lambda seed: setattr(scvi.settings, "seed", seed)])
def test_a_seed_is_remembered_and_seeds_torch_and_numpy(seed_by):
    draws = []
    for _ in range(2):
        seed_by(np.int64(7))
        draws.append((torch.rand(3).tolist(), np.random.rand(3).tolist()))
    assert draws[0] == draws[1]
    assert draws[0][1] == np.random.RandomState(7).rand(3).tolist()
    assert scvi.settings.seed == 7
    assert torch.backends.cudnn.deterministic
    assert not torch.backends.cudnn.benchmark


def test_no_seed_leaves_the_generators_alone():
    scvi.set_seed(7)
    expected = np.random.RandomState(7).rand()
    scvi.settings.seed = None
    assert scvi.settings.seed is None
    assert np.random.rand() == expected


def test_set_seed_defaults_to_zero():
    scvi.set_seed()
    assert scvi.settings.seed == 0


def test_values_are_kept():
    scvi.settings.batch_size = np.int32(64)
    scvi.settings.progress_bar_style = "none"
    scvi.settings.num_threads = 1
    assert (scvi.settings.batch_size, scvi.settings.progress_bar_style, torch.get_num_threads()) == (64, "none", 1)


def test_whether_a_minibatch_size_was_set_is_known():
    scvi.settings.batch_size = 128
    assert scvi.settings.chosen_batch_size == 128
    scvi.settings.batch_size = None
    assert (scvi.settings.batch_size, scvi.settings.chosen_batch_size) == (128, None)


def test_rich_is_read_as_tqdm():
    scvi.settings.progress_bar_style = "none"
    scvi.settings.progress_bar_style = "rich"
    assert scvi.settings.progress_bar_style == "tqdm"


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("seed", -1),
        ("seed", 1.5),
        ("seed", True),
        ("seed", 2**32),
        ("batch_size", 0),
        ("batch_size", 12.0),
        ("num_threads", 0),
        ("num_threads", "2"),
        ("progress_bar_style", "bar"),
        ("progress_bar_style", None),
        ("verbosity", "LOUD"),
        ("verbosity", -1),
        ("verbosity", 1.5),
    ],
)
def test_bad_values_are_refused_by_name_and_change_nothing(name, value):
    before = repr(scvi.settings)
    with pytest.raises(ValueError, match=f"{name}.*{value!r}"):
        setattr(scvi.settings, name, value)
    assert repr(scvi.settings) == before


def test_verbosity_adds_one_handler_on_standard_output(capsys):
    logger = logging.getLogger("scvi")
    scvi.set_verbosity("info")
    logging.getLogger("scvi.models").info("hello")
    logging.getLogger("scvi.models").debug("not shown")
    streams = [handler for handler in logger.handlers if isinstance(handler, logging.StreamHandler)]
    assert len(streams) == 1
    assert streams[0].level == logging.NOTSET
    assert not logger.propagate
    shown = capsys.readouterr().out
    assert "INFO - scvi.models | hello" in shown
    assert "not shown" not in shown

    scvi.settings.verbosity = logging.DEBUG
    assert [handler for handler in logger.handlers if isinstance(handler, logging.StreamHandler)] == streams
    assert streams[0].level == logging.DEBUG == scvi.settings.verbosity


def test_a_log_file_does_not_keep_messages_from_the_screen(capsys, tmp_path):
    logger = logging.getLogger("scvi")
    file = logging.FileHandler(tmp_path / "log.txt")
    logger.addHandler(file)
    for _ in range(2):
        scvi.set_verbosity("INFO")
    logger.info("hello")
    file.close()
    assert capsys.readouterr().out.count("hello") == 1
    assert (tmp_path / "log.txt").read_text().count("hello") == 1
    assert sum(isinstance(handler, logging.StreamHandler) for handler in logger.handlers) == 2


def test_a_handler_of_the_user_is_enough(capsys):
    logger, stream = logging.getLogger("scvi"), io.StringIO()
    logger.addHandler(logging.StreamHandler(stream))
    scvi.set_verbosity("INFO")
    logger.info("hello")
    assert "hello" in stream.getvalue()
    assert capsys.readouterr() == ("", "")


def test_the_formatter_of_the_nearest_ancestor_is_used():
    plain, special = logging.Formatter("plain %(message)s"), logging.Formatter("special %(message)s")
    formatter = DispatchingFormatter(plain, {"scvi.inference.autotune": special})

    def record(name):
        return logging.LogRecord(name, logging.INFO, __file__, 1, "text", None, None)

    assert formatter.format(record("scvi.inference.autotune.worker")) == "special text"
    assert formatter.format(record("scvi.inference")) == "plain text"
    assert autotune_formatter.format(record("x")).endswith("INFO - x\ntext")


@pytest.mark.parametrize("name", ["dl_num_workers", "dl_persistent_workers", "logging_dir", "warnings_stacklevel"])
def test_a_setting_without_a_meaning_is_kept_and_named(name, caplog):
    caplog.set_level("INFO", logger="scvi")
    before = dict(vars(scvi.settings))
    setattr(scvi.settings, name, 4)
    assert getattr(scvi.settings, name) == 4
    assert caplog.messages == [f"settings.{name}: without a meaning here, and not used."]
    delattr(scvi.settings, name)
    assert vars(scvi.settings) == before


def test_a_setting_that_is_not_there_is_refused():
    with pytest.raises(AttributeError, match=r"no setting 'num_thread'; there are 'seed', .*'num_threads'"):
        scvi.settings.num_thread = 1
    assert not hasattr(scvi.settings, "num_thread")
