"""`headrace serve`: a model directory -> a server that speaks OpenAI's protocol."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Annotated

import typer

from headrace.cli.console import facts, print_json, share_cores, stdout, warn
from headrace.errors import ConfigError

EXAMPLES = """[bold]Examples[/bold]

headrace serve --model run --port 8000

headrace serve --model hf-model --port 8000 --api-key SECRET --predictions out

curl localhost:8000/v1/completions -H 'content-type: application/json' -d '{"prompt": "The wheel", "stream": true}'

The page is at /. SIGTERM or Ctrl-C finishes what runs, then ends; a second one ends at once.
"""
KEY_VARIABLE = "HEADRACE_API_KEY"


def serve(
    *,
    model: Annotated[
        str, typer.Option(help="A run directory or a Hugging Face directory.", show_default=False)
    ],
    port: Annotated[int, typer.Option(help="0 takes a free one.")] = 8000,
    host: Annotated[str, typer.Option(help="0.0.0.0 is reached from other machines.")] = "127.0.0.1",
    name: Annotated[
        str | None,
        typer.Option(help="What clients call the model; the directory's name.", show_default=False),
    ] = None,
    api_key: Annotated[
        list[str] | None,
        typer.Option(help=f"Clients must send one of these; also ${KEY_VARIABLE}.", show_default=False),
    ] = None,
    max_queue: Annotated[int, typer.Option(help="Samples that may wait; more get status 429.")] = 1024,
    batch_size: Annotated[int, typer.Option(help="Samples that decode at once.")] = 32,
    dtype: Annotated[str, typer.Option(help="auto | float32 | bfloat16 | float16.")] = "auto",
    device: Annotated[str, typer.Option(help="auto | cpu | cuda.")] = "auto",
    state: Annotated[
        Path | None,
        typer.Option(help="Directory of files and batches; one for each model.", show_default=False),
    ] = None,
    predictions: Annotated[
        list[str] | None,
        typer.Option(
            help="A directory of predictions to show on the page, or NAME=DIR; it may be empty yet.",
            show_default=False,
        ),
    ] = None,
    allow_origin: Annotated[
        list[str] | None,
        typer.Option(help="An origin whose pages may call this server (CORS).", show_default=False),
    ] = None,
    drain_s: Annotated[float, typer.Option(help="Seconds that running requests have after SIGTERM.")] = 30.0,
    json: Annotated[bool, typer.Option("--json", help="Print the address as JSON on stdout.")] = False,
) -> None:
    """Serve a model: OpenAI's completions, chat, files and batches, metrics, and a page."""
    share_cores()
    from headrace.serve import Ready
    from headrace.serve import serve as run

    def ready(about: Ready) -> None:
        if json:
            print_json(about)
        else:
            stdout.print(
                facts("serving", [("url", about.url), ("model", about.model), ("dtype", about.dtype)])
            )
        import sys

        sys.stdout.flush()

    keys = [*(api_key or ()), *filter(None, [os.environ.get(KEY_VARIABLE)])]
    if any(not key for key in keys):
        raise ConfigError(
            "serve: an empty --api-key opens the door to everyone. Give a key, or leave it out."
        )
    run(
        model,
        host=host,
        port=port,
        name=name,
        api_keys=keys,
        max_queue=max_queue,
        batch_size=batch_size,
        dtype=dtype,
        device=device,
        state=state,
        predictions=_named(predictions or []),
        allow_origins=allow_origin or (),
        drain_s=drain_s,
        ready=ready,
        warn=warn,
    )


def _named(given: list[str]) -> dict[str, str]:
    """Stores by the name before =, or their directory's."""
    found: dict[str, str] = {}
    for one in given:
        name, equals, out = one.partition("=")
        if not equals:
            name, out = one.rstrip("/").rpartition("/")[2], one
        if not name or "/" in name or name in found:
            raise ConfigError(
                f"serve: --predictions {one}: the name {name!r} is empty, given twice or holds a slash. "
                f"Give it as NAME=DIR."
            )
        found[name] = out
    return found
