"""Command line arguments -> one call of the library, its result as text or JSON.

Exit codes: 0 done, 1 failed, 2 bad input, 130 interrupted. With `--json` stdout
holds one JSON object and nothing else; progress goes to stderr, as a bar on a
terminal and as log lines elsewhere.
"""

from headrace.cli.app import main

__all__ = ["main"]
