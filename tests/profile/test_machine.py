"""The facts about the machine are there, and its name is not."""

from __future__ import annotations

import json
import platform
from pathlib import Path

from headrace.profile.machine import describe_machine


def test_the_machine_is_described_without_its_name():
    facts = describe_machine()
    assert {"processor", "cores", "memory_bytes", "system", "python", "torch"} == facts.keys()
    assert facts["cores"] >= 1
    host = platform.node()
    assert not host or host not in json.dumps(facts)


def test_without_proc_and_affinity_the_facts_are_fewer_and_nothing_fails(monkeypatch):
    monkeypatch.setattr("headrace.profile.machine.CPU_INFO", Path("/nothing/there"))
    monkeypatch.delattr("os.sched_getaffinity", raising=False)
    monkeypatch.delattr("os.sysconf", raising=False)
    facts = describe_machine()
    assert facts["cores"] >= 1
    assert facts["memory_bytes"] is None
