"""Short probes -> what this machine reaches: matrix products, memory, disk, collectives, as hardware of a plan.

In reading order:

    rates        one device -> FLOP/s by dtype, bytes/s of memory and disk, tokens/s that a core decodes
    store_rates  a store -> tokens/s that a core decodes of it, stored bytes of a token
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
from headrace.probe.store_rates import measure_store

__all__ = ["ProbedMachine", "describe_hardware", "measure_store", "probe_group", "probe_machine"]
