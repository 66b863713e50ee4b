"""`headrace serve`: a model directory -> a server that speaks OpenAI's API."""

from __future__ import annotations

import dataclasses
import os
import sys
from typing import Annotated

import typer

from headrace.cli.console import facts, print_json, progress_bar, stderr, stdout, warn
from headrace.cli.options import MODEL_HELP, with_options
from headrace.generation import PrefixCacheOptions
from headrace.serve import ServeOptions, ServerInfo
from headrace.serve import serve as run

EXAMPLES = """[bold]Examples[/bold]

headrace serve --model run --port 8000

headrace serve --model hf-model --port 8000 --api-key SECRET --predictions out

headrace serve --model run --prefix-cache ~/.cache/prefixes

curl localhost:8000/v1/completions -H 'content-type: application/json' -d '{"prompt": "The wheel", "stream": true}'

The server and its page at / answer while the model loads; requests wait for it.
SIGTERM or Ctrl-C finishes running requests, then ends; a second one ends at once.
"""
KEY_VARIABLE = "HEADRACE_API_KEY"


@with_options(options=ServeOptions, prefix_cache=PrefixCacheOptions)
def serve(
    *,
    model: Annotated[str, typer.Option(help=MODEL_HELP, show_default=False)],
    options: ServeOptions,
    prefix_cache: PrefixCacheOptions,
    json: Annotated[bool, typer.Option("--json", help="Print the address as JSON on stdout.")] = False,
) -> None:
    """Serve a model: OpenAI's completions, chat, files and batches, metrics, and a page."""

    def ready(info: ServerInfo) -> None:
        if json:
            print_json(info)
        else:
            stdout.print(facts("serving", [("url", info.url), ("model", info.model), ("dtype", info.dtype)]))
        sys.stdout.flush()

    def listening(url: str) -> None:
        if not json and stderr.is_terminal:
            stderr.print(f"listening at {url}; requests wait while the model loads")

    options = dataclasses.replace(options, prefix_cache=prefix_cache)
    key = os.environ.get(KEY_VARIABLE)
    if key:
        options = dataclasses.replace(options, api_keys=[*(options.api_keys or ()), key])
    with progress_bar("load", unit="bytes", quiet=json, lazy=True) as progress:
        run(model, options, ready=ready, listening=listening, progress=progress, warn=warn)
