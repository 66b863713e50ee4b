"""Options that no demo can use are refused when they are made."""

from __future__ import annotations

import pytest

from headrace.demo import DemoOptions
from headrace.errors import ConfigError


@pytest.mark.parametrize("options", [{"seconds": 0.0}, {"seconds": -1.0}, {"prompts": 0}])
def test_a_value_that_no_demo_can_use_is_refused_by_its_name(options):
    (name,) = options
    with pytest.raises(ConfigError, match=f"{name}: got .*, expected"):
        DemoOptions(**options)
