"""Workers that do what a test asks of them, and a queue of tasks; imported by the fork server as well."""

import os
import signal

from headrace.errors import WorkerError


class Echo:
    """Returns its task; some tasks are special."""

    def __init__(self, argument):
        self.argument = argument
        self.tasks = 0

    def run(self, task, notify):
        self.tasks += 1
        if task == "notify":
            notify("half")
        if task == "raise":
            raise ValueError("this task is bad")
        if task == "kill":
            os.kill(os.getpid(), signal.SIGKILL)
        if task == "exit":
            os._exit(3)
        if task == "pid":
            return os.getpid()
        if task == "wait":
            signal.pause()
        return (self.argument, task, self.tasks)

    def close(self):
        pass


def broken(argument):
    raise KeyError(argument)


class Spec:
    """A spec with a pipe to a fork that answers."""

    def __init__(self, argument, run_in_fork, prepared):
        self.pipe = run_in_fork(lambda pipe: pipe.send_bytes(b"from a fork"))
        self.argument = (argument, prepared)

    def pipes(self):
        return [self.pipe]

    def recv(self, pipe):
        return pipe.recv_bytes()

    def make_worker(self):
        return Echo(self.argument)


def prepare(run_in_fork, first, second):
    return first + second


def refuse(argument, run_in_fork, prepared):
    from headrace.errors import ConfigError

    raise ConfigError(f"cannot load {argument}")


class Tasks:
    """A queue of tasks that gives tasks of dead workers out again, changed."""

    def __init__(self, *tasks):
        self.tasks = list(tasks)
        self.running, self.deaths = {}, []
        self.is_done = False

    def next_task(self, worker):
        if not self.tasks:
            return None
        self.running[worker] = self.tasks.pop(0)
        return self.running[worker]

    def finish(self, worker, result):
        del self.running[worker]

    def fail(self, worker, error):
        raise error

    def give_back(self, worker, died):
        self.deaths.append(died)
        if len(self.deaths) == 3:
            raise WorkerError("too many deaths")
        self.tasks.append(f"again {self.running.pop(worker)}")
