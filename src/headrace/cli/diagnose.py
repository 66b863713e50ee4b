"""`headrace diagnose`: a store or a run -> is data the limit or the model, by how much, and what helps."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from headrace.cli.console import print_json, stdout
from headrace.cli.options import with_options
from headrace.diagnosis import StoreOptions
from headrace.errors import ConfigError
from headrace.paths import given_path, local_path

EXAMPLES = """[bold]Examples[/bold]

headrace diagnose store

headrace diagnose store --model gpt3-125m --gpu a100-80gb --try

headrace diagnose run --out diagnosis

In a training loop of your own: for batch in headrace.diagnose(loader): ...
"""


@with_options(options=StoreOptions)
def diagnose(
    *,
    source: Annotated[
        str, typer.Argument(help="A store (path or URL) or a run directory.", show_default=False)
    ],
    options: StoreOptions,
    try_it: Annotated[
        bool, typer.Option("--try", help="Of a store: measure the change that should help most.")
    ] = False,
    out: Annotated[
        str | None, typer.Option(help="Write a page, its picture and the figures here.", show_default=False)
    ] = None,
    json: Annotated[bool, typer.Option("--json", help="Print the result as JSON on stdout.")] = False,
) -> None:
    """Is it I/O or the model? Of a store, the loader alone and each stage's ceiling; of a run, its steps."""
    source = given_path(source, name="diagnose: source")
    is_run = (Path(source) / "metrics.jsonl").is_file()
    if is_run and try_it:
        raise ConfigError(
            f"--try measures the loader of a store, and {source} is a run. Give the run's store"
        )
    if is_run and options.model is not None:
        raise ConfigError(f"--model is of a store: {source} is a run, which has measured its own model")
    text, values, parts = _run(source) if is_run else _store(source, options, try_it=try_it)
    if out is not None:
        from headrace.diagnosis import write_page

        first, *details = text.splitlines()
        page = write_page(
            local_path(out, name="diagnose: out"),
            title=source,
            sentence=first,
            parts=parts,
            details=details,
            values=values,
        )
        values = {**values, "page": page}
        text += f"\npage: {page}"
    if json:
        print_json(values)
    else:
        stdout.print(text, soft_wrap=True, markup=False, highlight=False)


_NOTHING_TO_TRY = "tried: nothing; no change of threads, shuffle or cache promises more."


def _run(source: str) -> tuple[str, dict[str, Any], Any]:
    from headrace.diagnosis import diagnose_run

    found = diagnose_run(source)
    return found.to_text(), found.to_json(), found.balance.parts


def _store(source: str, options: StoreOptions, *, try_it: bool) -> tuple[str, dict[str, Any], Any]:
    from headrace.diagnosis import diagnose_store, needed_tokens_per_s, try_change
    from headrace.plan import gpu_by_name
    from headrace.store import Store

    gpu_by_name(options.gpu)
    needed, needed_by = (None, "") if options.model is None else needed_tokens_per_s(options.model, options)
    with Store.open(source, cache_dir=options.cache_dir) as store:
        found = diagnose_store(store, options, needed=needed, needed_by=needed_by)
        text, values = found.to_text(), found.to_json()
        if try_it:
            trial = try_change(store, found, options)
            text += f"\n  {_NOTHING_TO_TRY if trial is None else trial.to_text()}"
            values["trial"] = None if trial is None else trial.to_json()
    return text, values, ()
