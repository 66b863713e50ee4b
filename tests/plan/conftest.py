"""Makes the helpers of conftest_plan importable, as test files are no package, and offers its fixture."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))

from conftest_plan import made_table  # noqa: F401 - a fixture is offered by being here
