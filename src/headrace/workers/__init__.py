"""Tasks -> results, computed by worker processes on this machine or by Ray actors.

messages        what a worker and its job send each other
worker          the loop of a worker process: receive a task, run it, send the result
fork_server     a process that loads once what all workers need, and forks them; fork_server_main is its side
local, ray      a Transport each: starts workers, sends tasks, receives messages
pool            WorkerPool: gives tasks to idle workers, and replaces workers that died

Used by ingestion (units of work) and generation (batches of requests). Nothing heavy is imported here: the fork
server's process starts with this package.
"""

from headrace.workers.fork_server import (
    ForkServer,
    Preload,
    RunInFork,
    WorkerSpec,
    open_fork_server,
    preload_worker,
)
from headrace.workers.local import LocalTransport
from headrace.workers.messages import (
    Message,
    Notice,
    Result,
    TaskFailed,
    WorkerDied,
    describe_exit,
    recv,
    send,
)
from headrace.workers.pool import TaskQueue, Transport, WorkerPool
from headrace.workers.ray import RayTransport
from headrace.workers.worker import Worker

__all__ = [
    "ForkServer",
    "LocalTransport",
    "Message",
    "Notice",
    "Preload",
    "RayTransport",
    "Result",
    "RunInFork",
    "TaskFailed",
    "TaskQueue",
    "Transport",
    "Worker",
    "WorkerDied",
    "WorkerPool",
    "WorkerSpec",
    "describe_exit",
    "open_fork_server",
    "preload_worker",
    "recv",
    "send",
]
