"""Values that no layout has: the first that cannot be is named, with what could be."""

import numpy as np
import pytest

from headrace.plan.impossible import impossible

COLUMNS = {"dp": np.array([1, 2, 4, 8]), "tp": np.array([8, 4, 2, 1]), "shard": np.array(["none"] * 4)}
FACTS = {"gpus": 8, "rows": 64, "layers": 24, "kv_heads": 16}


@pytest.mark.parametrize(
    ("requested", "said"),
    [
        ({"dp": "3"}, "dp=3 cannot be; expected dp 1, 2, 4, 8 (dp x tp x pp x cp is the number of GPUs (8)"),
        ({"dp": "4", "tp": "4"}, "tp=4 cannot be with dp=4; expected tp 2 ("),
        ({"shard": "zero2"}, "shard=zero2 cannot be; expected shard none (only data-parallel ranks"),
    ],
)
def test_the_value_that_cannot_be_is_named_with_those_that_can(requested, said):
    assert impossible(COLUMNS, requested, FACTS).startswith(said)


def test_many_values_are_not_all_listed():
    columns = {"dp": np.arange(1, 100)}
    assert impossible(columns, {"dp": "1000"}, FACTS).count(",") < 20
