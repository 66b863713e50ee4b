"""The fork server and fork_server_main.py: loads once, forks workers, and never outlives its job."""

import os
import signal
import subprocess
import sys
from contextlib import closing

import psutil
import pytest

from headrace.errors import ConfigError, WorkerError
from headrace.workers import ForkServer, Notice, Preload, Result, open_fork_server, preload_worker
from headrace.workers.messages import recv, send


def test_a_forked_worker_runs_tasks_with_the_state_that_was_loaded():
    from workers_for_tests import Echo

    with open_fork_server() as server:
        server.preload(preload_worker(Echo, "loaded"))
        first, second = server.fork(), server.fork()
        send(first.pipe, "a")
        send(first.pipe, "b")
        send(second.pipe, "c")
        assert [recv(first.pipe), recv(first.pipe)] == [
            Result(("loaded", "a", 1)),
            Result(("loaded", "b", 2)),
        ]
        assert recv(second.pipe) == Result(("loaded", "c", 1))


def test_what_is_prepared_before_the_preload_is_known_reaches_it_and_pipes_are_read():
    from workers_for_tests import Spec

    with open_fork_server(prepare="workers_for_tests:prepare", arguments=["x", "y"]) as server:
        server.preload(Preload(load=Spec, argument=7))
        assert server.recv() == Notice(b"from a fork")
        worker = server.fork()
        send(worker.pipe, "task")
        assert recv(worker.pipe) == Result(((7, "xy"), "task", 1))


def test_an_error_in_prepare_is_left_to_the_preload():
    from workers_for_tests import Spec

    with open_fork_server(prepare="workers_for_tests:missing") as server:
        server.preload(Preload(load=Spec, argument=7))
        worker = server.fork()
        send(worker.pipe, "task")
        assert recv(worker.pipe) == Result(((7, None), "task", 1))


def test_an_error_while_loading_is_the_first_message():
    from workers_for_tests import refuse

    with open_fork_server() as server:
        server.preload(Preload(load=refuse, argument="this"))
        server.fork()
        with pytest.raises(ConfigError, match="cannot load this"):
            server.recv()


@pytest.mark.parametrize(("task", "code"), [("kill", -9), ("exit", 3)])
def test_the_exit_code_of_a_dead_worker_is_its_own(task, code):
    from workers_for_tests import Echo

    with open_fork_server() as server:
        server.preload(preload_worker(Echo, None))
        workers = [server.fork() for _ in range(3)]
        send(workers[2].pipe, "kill")
        send(workers[1].pipe, task)
        with pytest.raises(EOFError):
            recv(workers[1].pipe)
        assert server.reap(workers[1], lambda message: None) == code


def test_an_error_while_loading_is_raised_where_a_worker_is_reaped():
    """Workers that were never forked have closed pipes as well: their death is not waited for."""
    from workers_for_tests import refuse

    with open_fork_server() as server:
        server.preload(Preload(load=refuse, argument="this"))
        worker = server.fork()
        with pytest.raises(ConfigError, match="cannot load this"):
            server.reap(worker, print)


def test_a_dead_fork_server_is_one_clear_error():
    from workers_for_tests import Echo

    with closing(ForkServer()) as server:
        server.preload(preload_worker(Echo, None))
        os.kill(server.pid, signal.SIGKILL)
        server.fork()
        with pytest.raises(WorkerError, match=r"died with signal 9 \(SIGKILL\).*run the same command again"):
            server.recv()


def test_closing_stops_workers_that_are_running_a_task():
    from workers_for_tests import Echo

    server = ForkServer()
    server.preload(preload_worker(Echo, None))
    worker = server.fork()
    send(worker.pipe, "pid")
    pid = recv(worker.pipe).value
    send(worker.pipe, "wait")
    server.close()
    assert not psutil.pid_exists(pid)
    assert not psutil.pid_exists(server.pid)


JOB = """
import sys
from headrace.workers import ForkServer, preload_worker
from headrace.workers.messages import recv, send
from workers_for_tests import Echo
server = ForkServer()
server.preload(preload_worker(Echo, None))
worker = server.fork()
send(worker.pipe, "pid")
print(server.pid, recv(worker.pipe).value, flush=True)
send(worker.pipe, "wait")
sys.stdin.read()
"""


def start_job():
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    job = subprocess.Popen(
        [sys.executable, "-c", JOB],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        env=environment,
        process_group=0,
    )
    return job, [int(pid) for pid in job.stdout.readline().split()]


def test_no_process_is_left_of_a_killed_job():
    job, pids = start_job()
    processes = [psutil.Process(pid) for pid in pids]
    with job:
        job.kill()
    assert not psutil.wait_procs(processes, timeout=60)[1]


def test_ctrl_c_reaches_the_job_alone():
    """The terminal sends it to the job's process group: workers get no KeyboardInterrupt, and print nothing."""
    job, pids = start_job()
    processes = [psutil.Process(pid) for pid in pids]
    assert [os.getpgid(pid) == job.pid for pid in pids] == [False, False]
    with job:
        os.killpg(job.pid, signal.SIGINT)
        _, stderr = job.communicate()
    assert stderr.count(b"Traceback") == 1  # the job's own
    assert not psutil.wait_procs(processes, timeout=60)[1]
