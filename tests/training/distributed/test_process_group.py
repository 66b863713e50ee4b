"""Processes of a run: attempts apart, dead ranks by name, slow disks outside of collectives.

Covers process_group.py, rendezvous.py and liveness.py.
"""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
from datetime import timedelta

import pytest
from torch._C._distributed_c10d import TCPStore

from headrace.errors import ConfigError
from headrace.training.distributed.process_group import ProcessGroup, open_process_group
from headrace.training.distributed.rendezvous import read_launch

PROGRAM = """
import os, signal, sys, time
import torch
from headrace.errors import HeadraceError
from headrace.training.distributed import liveness
from headrace.training.distributed.process_group import open_process_group

rank, what = int(os.environ["RANK"]), sys.argv[1]
torch.set_num_threads(1)

def beats(group, other):
    return group.store.keys.add(f"beat/{other}", 0)

def slow(group, other):
    # As long as the other rank takes for so many signs of life: longer than a collective may wait.
    until = beats(group, other) + 6
    while beats(group, other) < until:
        time.sleep(0.05)
    return "slow"

try:
    with open_process_group(torch.device("cpu"), timeout_s=float(sys.argv[2])) as group:
        print("joined", flush=True)
        if what == "sum":
            print("sum", int(group.gather([rank + 1.0]).sum()), flush=True)
        elif what == "slow":
            print(group.on_rank0(lambda: slow(group, 1)), flush=True)
            group.on_all_ranks(lambda: slow(group, 0) if rank == 1 else None)
            print("sum", int(group.gather([rank + 1.0]).sum()), flush=True)
        elif what == "errors":
            def fail():
                if rank in (1, 2):
                    raise HeadraceError(f"disk of {rank}")
            group.on_all_ranks(fail)
        elif what == "dies while it is waited for":
            # Only the look at its process can end the wait: no collective fails, and silence is never long enough.
            liveness.SILENT_S = 1e9
            if rank == 1:
                os.kill(os.getpid(), signal.SIGKILL)
            group.on_all_ranks(lambda: None)
        elif what == "die":
            sys.stdin.readline()
            if rank == int(sys.argv[3]):
                os.kill(os.getpid(), signal.SIGKILL)
            if rank == 0:
                slow(group, 1)  # rank 0 finds out late
            group.gather([1.0])
except HeadraceError as error:
    print(type(error).__name__, error, "shared" if error.shared else "", flush=True)
    sys.exit(7)
"""


@pytest.fixture
def agent_store():
    """The store that torchrun's agent holds over all attempts of a job."""
    return TCPStore("127.0.0.1", 0, is_master=True, wait_for_workers=False, timeout=timedelta(seconds=30))


def start(store, size, *words, timeout_s=60, ranks=None):
    processes = []
    for rank in ranks or range(size):
        env = os.environ | {
            "RANK": str(rank), "WORLD_SIZE": str(size), "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(store.port),
            "TORCHELASTIC_USE_AGENT_STORE": "True",
        }  # fmt: skip
        command = [sys.executable, "-c", PROGRAM, words[0], str(timeout_s), *map(str, words[1:])]
        processes.append(
            subprocess.Popen(
                command,
                env=env,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                text=True,
            )
        )
    return processes


def finish(processes):
    processes = list(processes)
    for process in processes:  # all at once: they wait for each other
        process.stdin.write("\n")
        process.stdin.flush()
    ends = []
    for process in processes:
        out, err = process.communicate()
        ends.append((process.returncode, out.splitlines(), err))
    return ends


def test_an_attempt_after_a_dead_one_does_not_read_its_keys(agent_store):
    """Torchrun --max-restarts: the agent's store still has the keys of the ranks that were killed."""
    dead = start(agent_store, 2, "die", 9)
    for process in dead:
        assert process.stdout.readline() == "joined\n"
        process.kill()
        process.communicate()
    for _ in range(2):
        for code, lines, err in finish(start(agent_store, 2, "sum")):
            assert (code, lines) == (0, ["joined", "sum 3"]), err


def test_a_rank_that_died_while_it_joined_is_not_waited_for(agent_store):
    (process,) = start(agent_store, 2, "sum", ranks=[1])
    agent_store.wait(["headrace/joining"], timedelta(seconds=100))
    process.kill()
    process.communicate()
    for code, lines, err in finish(start(agent_store, 2, "sum")):
        assert (code, lines) == (0, ["joined", "sum 3"]), err


def test_only_the_dead_rank_is_named_also_by_those_that_find_out_late(agent_store):
    processes = start(agent_store, 4, "die", 2)
    for process in processes:
        assert process.stdout.readline() == "joined\n"
    ends = finish(processes)
    assert ends[2][0] == -signal.SIGKILL
    for rank in (0, 1, 3):
        code, lines, err = ends[rank]
        assert code == 7, err
        assert re.search(rf"rank {rank} of 4: rank 2 no longer answers", lines[-1]), lines


def test_a_rank_of_this_machine_that_dies_is_named_by_those_that_wait_for_a_key(agent_store):
    """As the checkpoint's thread does, and the training thread that waits for it: no collective tells them."""
    dead, alive = finish(reversed(start(agent_store, 2, "dies while it is waited for")))
    assert dead[0] == -signal.SIGKILL
    code, lines, err = alive
    assert code == 7, err
    assert "rank 0 of 2: rank 1 no longer answers (its process is gone)" in lines[-1]


def test_work_may_take_longer_than_a_collective_may_wait(agent_store):
    """Hashing, verifying and uploading gigabytes is waited for by signs of life."""
    for code, lines, err in finish(start(agent_store, 2, "slow", timeout_s=1)):
        assert (code, lines) == (0, ["joined", "slow", "sum 3"]), err


def test_the_first_error_of_any_rank_is_raised_on_all(agent_store):
    ends = finish(start(agent_store, 3, "errors"))
    texts = ["rank 1: disk of 1", "disk of 1 shared", "rank 1: disk of 1 shared"]
    for (code, lines, err), text in zip(ends, texts, strict=True):
        assert code == 7, err
        assert lines[-1].strip() == f"HeadraceError {text}"


@pytest.mark.parametrize(
    ("environment", "message"),
    [
        ({"WORLD_SIZE": "2"}, "WORLD_SIZE is 2, but RANK, MASTER_ADDR, MASTER_PORT is not set"),
        ({"WORLD_SIZE": "two"}, "WORLD_SIZE is 'two'; expected a whole number"),
        (
            {"WORLD_SIZE": "2", "RANK": "2", "MASTER_ADDR": "x", "MASTER_PORT": "1"},
            r"RANK is 2; expected from 0 to WORLD_SIZE - 1 = 1",
        ),
    ],
)
def test_a_part_of_a_launch_is_refused(environment, message, monkeypatch):
    for name in ("WORLD_SIZE", "RANK", "MASTER_ADDR", "MASTER_PORT"):
        monkeypatch.delenv(name, raising=False)
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    with pytest.raises(ConfigError, match=message):
        read_launch()


def test_a_single_process_needs_no_launcher(monkeypatch):
    import torch

    monkeypatch.delenv("WORLD_SIZE", raising=False)
    with open_process_group(torch.device("cpu")) as group:
        assert (group.rank, group.size) == (0, 1)
        assert group.on_rank0(lambda: 5) == group.on_all_ranks(lambda: 5) == 5
        assert group.gather([1.0, 2.0]).tolist() == [[1.0, 2.0]]
    assert ProcessGroup().is_rank0
