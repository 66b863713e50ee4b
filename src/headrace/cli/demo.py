"""`headrace demo`: nothing but Python in, the main job from end to end out."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from headrace.cli.console import print_json

EXAMPLES = """[bold]Examples[/bold]

headrace demo

headrace demo my-text.jsonl.gz notes.txt.gz --out my-demo

Interrupted? The same command goes on where it stopped.
"""
