"""Short probes -> what this machine reaches: matrix products, memory, disk, collectives, as hardware of a plan.

In reading order:

    rates        one device -> FLOP/s by dtype, bytes/s of memory and disk, tokens/s that a core decodes
    collective   the processes of a group -> bytes/s and latency of an all-reduce
    machine      all of them -> `Hardware`, cached as a TOML file
    worker       one of several processes that probe at the same time
"""

from headrace.probe.machine import (
    ProbedMachine,
    describe_hardware,
    probe_group,
    probe_machine,
)

__all__ = ["ProbedMachine", "describe_hardware", "probe_group", "probe_machine"]
