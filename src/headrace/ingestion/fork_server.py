"""A tokenizer's name -> a fork server that loads it, while this process plans the job. Imports nothing heavy."""

from __future__ import annotations

from contextlib import AbstractContextManager

from headrace.workers import ForkServer, open_fork_server

_MODULES = ("headrace.ingestion.distribute", "gigatoken.gigatoken_rs", "isal.igzip", "simdjson")
_ENVIRONMENT = {
    "TOKENIZERS_PARALLELISM": "false",
    "OPENBLAS_NUM_THREADS": "1",  # NumPy's threads cost 0.07 s of CPU at each start, and are not used
}


def start_fork_server(tokenizer: str | None = None) -> AbstractContextManager[ForkServer]:
    """A fork server for ingest, stopped at the end of the block with all its workers.

    Args:
        tokenizer: name or path of a tokenizer to load at once; None where the job says which.
    """
    return open_fork_server(
        modules=_MODULES,
        prepare="" if tokenizer is None else "headrace.ingestion.distribute:load_ahead",
        arguments=[] if tokenizer is None else [tokenizer],
        environment=_ENVIRONMENT,
    )
