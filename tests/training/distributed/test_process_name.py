"""process_name.py: processes that run, have ended, or whose number another one has."""

from __future__ import annotations

import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from headrace.training.distributed.process_name import ProcessName, _state_and_start

pytestmark = pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="Linux")


def test_a_process_that_ended_is_not_running_though_nobody_waited_for_it():
    process = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE)
    assert process.stdin is not None
    name = replace(ProcessName.own(), pid=process.pid, started=_state_and_start(process.pid)[1])
    assert name.is_running()
    assert not replace(name, started="1").is_running()  # another process has the number
    process.stdin.close()
    os.waitid(os.P_PID, process.pid, os.WEXITED | os.WNOWAIT)  # now a zombie
    assert not name.is_running()
    process.wait()
    assert not name.is_running()


def test_a_name_is_one_line_that_is_read_back():
    own = ProcessName.own()
    assert "\n" not in own.text
    assert ProcessName.parse(own.text.encode()) == own
    assert own.is_running()
    nowhere = replace(own, machine=None)
    assert ProcessName.parse(nowhere.text.encode()) == nowhere


def test_only_processes_of_this_machine_can_be_looked_at():
    own = ProcessName.own()
    assert own.is_of_this_machine
    assert not replace(own, machine="another").is_of_this_machine
    assert not replace(own, machine=None).is_of_this_machine
