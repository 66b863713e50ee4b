"""Ray actors as workers: the same pool, the same promises."""

from contextlib import closing
from importlib import import_module

import pytest

from headrace.errors import ConfigError, WorkerError
from headrace.workers import Notice, RayTransport, Result, WorkerPool


@pytest.fixture(scope="module")
def ray(importable):
    """A Ray of two cores on this machine, for all tests of this file."""
    ray = pytest.importorskip("ray")
    ray.init(
        address="local",
        num_cpus=2,
        include_dashboard=False,
        log_to_driver=False,
        logging_level="ERROR",
        configure_logging=False,
    )
    ray.cloudpickle.register_pickle_by_value(import_module("workers_for_tests"))
    yield ray
    ray.shutdown()


def test_actors_run_tasks_are_replaced_when_they_die_and_raise_what_a_task_raises(ray, make_tasks):
    from workers_for_tests import Echo

    with closing(RayTransport(Echo, "x", num_workers=2)) as transport:
        pool = WorkerPool(transport, 2)
        tasks = make_tasks("kill", "notify", "a", "b")
        messages = list(pool.run(tasks))
        results = sorted(message.value[1] for message in messages if isinstance(message, Result))
        assert results == ["a", "again kill", "b", "notify"]
        assert Notice("half") in messages
        assert len(tasks.deaths) == 1
        with pytest.raises(WorkerError, match=r"(?s)a worker failed.*this task is bad"):
            list(pool.run(make_tasks("raise")))
    assert ray.is_initialized()  # a cluster that was joined is not shut down


def test_an_actor_whose_worker_cannot_be_made_is_an_error_of_its_task(ray, make_tasks):
    from workers_for_tests import broken

    with (
        closing(RayTransport(broken, "key", num_workers=1)) as transport,
        pytest.raises(WorkerError, match="KeyError"),
    ):
        list(WorkerPool(transport, 1).run(make_tasks("a")))


def test_ray_that_is_not_installed_is_one_line(monkeypatch):
    import sys

    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(ConfigError, match=r"needs the ray library.*headrace\[ray\]"):
        RayTransport(print, None, num_workers=1)
