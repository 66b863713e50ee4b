"""The pool, worker.py and local.py: every task once, dead workers replaced, errors raised as the queue decides."""

from contextlib import closing

import pytest

from headrace.errors import WorkerError
from headrace.workers import (
    ForkServer,
    LocalTransport,
    Notice,
    Preload,
    Result,
    WorkerDied,
    WorkerPool,
    preload_worker,
)


class FakeTransport:
    """Workers in this process; what each task leads to is in a table."""

    def __init__(self, outcomes):
        self.outcomes, self.started, self.messages = outcomes, [], []

    def start(self, number):
        self.started.append(number)

    def send(self, number, task):
        self.messages += [(number, message) for message in self.outcomes.get(task, [Result(task)])]

    def poll(self):
        return [self.messages.pop(0)]

    def close(self):
        self.messages.clear()


@pytest.fixture
def local():
    from workers_for_tests import Echo

    with closing(ForkServer()) as server:
        server.preload(preload_worker(Echo, "x"))
        yield WorkerPool(LocalTransport(server), 2)


def test_every_task_has_one_result_and_notices_come_before_it(local, make_tasks):
    messages = list(local.run(make_tasks("a", "notify", "b", "c")))
    results = [message.value[1] for message in messages if isinstance(message, Result)]
    assert sorted(results) == ["a", "b", "c", "notify"]
    assert messages.count(Notice("half")) == 1
    assert messages.index(Notice("half")) < results.index("notify") + 1


def test_a_pool_runs_one_queue_after_the_other(local, make_tasks):
    assert [message.value[1] for message in local.run(make_tasks("a"))] == ["a"]
    assert [message.value[1] for message in local.run(make_tasks("b"))] == ["b"]
    assert list(local.run(make_tasks())) == []


def test_a_worker_that_dies_is_replaced_and_its_task_given_out_again(local, make_tasks):
    tasks = make_tasks("kill", "exit", "a", "b")
    results = sorted(message.value[1] for message in local.run(tasks))
    assert results == ["a", "again exit", "again kill", "b"]
    assert sorted(died.reason for died in tasks.deaths) == ["exit code 3", "signal 9 (SIGKILL)"]


def test_deaths_end_the_job_when_the_queue_says_so(local, make_tasks):
    with pytest.raises(WorkerError, match="too many deaths"):
        list(local.run(make_tasks("kill", "kill", "kill")))


def test_an_error_of_a_task_keeps_its_traceback_and_the_worker_goes_on(local, make_tasks):
    with pytest.raises(WorkerError, match=r"(?s)a worker failed.*in run.*ValueError: this task is bad"):
        list(local.run(make_tasks("raise")))
    assert sorted(message.value[1] for message in local.run(make_tasks("a", "b"))) == ["a", "b"]


def test_a_worker_that_cannot_be_made_is_an_error_of_its_first_task(make_tasks):
    from workers_for_tests import broken

    with closing(ForkServer()) as server:
        server.preload(preload_worker(broken, "key"))
        pool = WorkerPool(LocalTransport(server), 1)
        with pytest.raises(WorkerError, match="KeyError: 'key'"):
            list(pool.run(make_tasks("a")))


def test_an_error_of_the_fork_server_is_raised_while_tasks_wait(make_tasks):
    from workers_for_tests import refuse

    with closing(ForkServer()) as server:
        server.preload(Preload(load=refuse, argument="this"))
        pool = WorkerPool(LocalTransport(server), 2)
        with pytest.raises(Exception, match="cannot load this"):
            list(pool.run(make_tasks("a"), notices=1))


def test_notices_of_the_fork_server_are_waited_for_after_the_last_task(make_tasks):
    from workers_for_tests import Spec

    with closing(ForkServer()) as server:
        server.preload(Preload(load=Spec, argument=1))
        pool = WorkerPool(LocalTransport(server), 1)
        assert list(pool.run(make_tasks(), notices=1)) == [Notice(b"from a fork")]


def test_a_queue_that_is_done_is_not_waited_for(make_tasks):
    transport = FakeTransport({"endless": []})
    tasks = make_tasks("endless", "last")

    def finish(worker, result):
        tasks.is_done = True

    tasks.finish = finish
    assert list(WorkerPool(transport, 2).run(tasks)) == [Result("last")]


def test_a_dead_worker_is_started_again_under_its_number(make_tasks):
    transport = FakeTransport({"dies": [WorkerDied("exit code 1")]})
    results = [message.value for message in WorkerPool(transport, 2).run(make_tasks("a", "dies"))]
    assert results == ["a", "again dies"]
    assert transport.started == [0, 1, 1]
