"""Values that no layout of a job has -> which of them cannot be, and what could be in its place."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

_RULES: Final = {
    "dp": "dp x tp x pp x cp is the number of GPUs ({gpus}), and dp divides the {rows} rows of a step",
    "tp": "dp x tp x pp x cp is the number of GPUs ({gpus}); tp divides the {kv_heads} key/value heads, within a node",
    "pp": "dp x tp x pp x cp is the number of GPUs ({gpus}); pp is at most the {layers} layers",
    "cp": "cp divides the {gpus} GPUs",
    "micro_batch": "micro_batch x dp divides the {rows} rows of a step",
    "interleave": "above 1 only where pp is, pp x interleave divides {layers} layers and pp the micro-batches",
    "shard": "only data-parallel ranks (dp above 1) share anything",
    "recompute": "",
}
_SHOWN: Final = 16


def impossible(
    columns: Mapping[str, NDArray[Any]], requested: Mapping[str, str], facts: Mapping[str, int]
) -> str:
    """The first requested value that no layout has with those before it, and the values that it could have.

    Args:
        columns: values of all layouts by name, arrays [N].
        requested: values by name, of which no layout has all.
        facts: gpus, rows, layers and kv_heads of the job.

    >>> columns = {"dp": np.array([4, 8]), "recompute": np.array(["full", "none"])}
    >>> impossible(columns, {"dp": "8", "recompute": "full"}, {"gpus": 8, "rows": 64})
    'recompute=full cannot be with dp=8; expected recompute none'
    """
    rows = np.ones(len(next(iter(columns.values()))), dtype=bool)
    before: list[str] = []
    for name, value in requested.items():
        here = rows & np.array([str(one) == value for one in columns[name]], dtype=bool)
        if not here.any():
            values = np.unique(columns[name][rows])
            shown = ", ".join(str(one) for one in values[:_SHOWN]) + (", ..." if len(values) > _SHOWN else "")
            rule = _RULES[name].format(**facts)
            among = f" with {', '.join(before)}" if before else ""
            return f"{name}={value} cannot be{among}; expected {name} {shown}" + (
                f" ({rule})" if rule else ""
            )
        rows = here
        before.append(f"{name}={value}")
    return "these values cannot be together"
