"""The facts about the machine are there, and its name is not."""

from __future__ import annotations

import json
import platform

from headrace.profile.machine import describe_machine


def test_the_machine_is_described_without_its_name():
    facts = describe_machine()
    assert {"processor", "cores", "memory_bytes", "system", "python", "torch"} == facts.keys()
    assert facts["cores"] >= 1
    host = platform.node()
    assert not host or host not in json.dumps(facts)
