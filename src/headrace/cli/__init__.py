"""Words typed in a terminal -> one call into a room, its result as a page or as JSON.

Exit codes: 0 done, 1 failed, 2 bad input, 130 interrupted. With `--json` stdout
holds one JSON object and nothing else; progress goes to stderr, and only when
stderr is a terminal.
"""

from headrace.cli.app import main

__all__ = ["main"]
