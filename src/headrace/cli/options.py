"""Options dataclasses -> a command's typed options: each option's name, type, default and help are written once."""

from __future__ import annotations

import dataclasses
import functools
import inspect
import os
import types
import typing
from collections.abc import Callable
from typing import Annotated, Any

import typer
from typing_extensions import Doc

from headrace.types import Flag

MODEL_HELP = (
    "A run (RUN, RUN@STEP, RUN@best), a Hugging Face directory or peft's adapter directory: a local path, an s3://, "
    "gs://, az:// or http(s):// URL, or hf://OWNER/NAME[@REVISION]."
)


def with_options(**groups: type) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """Give a typer command one option for each field of the dataclasses.

    The command has a keyword parameter for each group and receives a built dataclass there. A field
    `seq_len: Annotated[int, Doc("Tokens of a row.")] = 2048` becomes `--seq-len INTEGER  Tokens of a row.
    [default: 2048]`, in a help panel named by the first line of the dataclass's docstring. A field whose
    annotation has no Doc is for the API only; one of type tuple[T, ...] becomes an option that may be given several
    times.

    Args:
        groups: parameter of the command -> its dataclass, frozen and with a default for each documented field.
    """

    def decorate(command: Callable[..., Any]) -> Callable[..., Any]:
        signature = inspect.signature(command, eval_str=True)
        own = [
            p.replace(kind=inspect.Parameter.KEYWORD_ONLY)
            for name, p in signature.parameters.items()
            if name not in groups
        ]
        fields = {group: _parameters(kind) for group, kind in groups.items()}

        @functools.wraps(command)
        def call(**given: Any) -> Any:
            built = {
                group: groups[group](**{p.name: _value(given.pop(p.name)) for p in parameters})
                for group, parameters in fields.items()
            }
            return command(**given, **built)

        # --json and the like are declared last by the command, so they stay last in --help.
        parameters = [
            *(p for p in own if p.default is inspect.Parameter.empty),
            *(p for parameters in fields.values() for p in parameters),
            *(p for p in own if p.default is not inspect.Parameter.empty),
        ]
        names = [p.name for p in parameters]
        twice = sorted({name for name in names if names.count(name) > 1})
        assert not twice, f"{command.__name__}: two options named {', '.join(twice)}"
        vars(call)["__signature__"] = inspect.Signature(parameters)
        call.__annotations__ = {p.name: p.annotation for p in parameters}
        return call

    return decorate


def _parameters(kind: type) -> list[inspect.Parameter]:
    panel = (kind.__doc__ or kind.__name__).splitlines()[0].rstrip(".")
    hints = typing.get_type_hints(kind, include_extras=True)
    found = []
    for field in dataclasses.fields(kind):
        base, *extras = typing.get_args(hints[field.name]) if _annotated(hints[field.name]) else (None,)
        doc = next((e.documentation for e in extras if isinstance(e, Doc)), None)
        if doc is None:
            continue
        default: Any = inspect.Parameter.empty
        if field.default is not dataclasses.MISSING:
            default = field.default
        elif field.default_factory is not dataclasses.MISSING:
            default = field.default_factory()
        if typing.get_origin(base) is tuple and typing.get_args(base)[-1] is Ellipsis:
            # An option that may be repeated, which typer knows as a list.
            base, default = types.GenericAlias(list, typing.get_args(base)[:1]), list(default)
        flag = next((e.name for e in extras if isinstance(e, Flag)), "--" + field.name.replace("_", "-"))
        metavar = _metavar(base)
        if os.PathLike[str] in typing.get_args(base):
            # As a Path, "" would be the current directory.
            base, metavar = (str | None if type(None) in typing.get_args(base) else str), "PATH"
        names = [flag] if base is not bool or default is False else [f"{flag}/--no-{flag[2:]}"]
        found.append(
            inspect.Parameter(
                field.name,
                inspect.Parameter.KEYWORD_ONLY,
                default=default,
                annotation=Annotated[
                    base, typer.Option(*names, help=doc, rich_help_panel=panel, metavar=metavar)
                ],
            )
        )
    return found


def _metavar(base: Any) -> str | None:
    """How a value is written, where that is several words: typer's own <float,float>... reads as a list with commas.

    >>> _metavar(tuple[float, float] | None), _metavar(int)
    ('<float> <float>', None)
    """
    for kind in (base, *typing.get_args(base)):
        if typing.get_origin(kind) is tuple:
            return " ".join(f"<{part.__name__}>" for part in typing.get_args(kind))
    return None


def _value(value: Any) -> Any:
    return tuple(value) if isinstance(value, list) else value


def _annotated(hint: Any) -> bool:
    return typing.get_origin(hint) is Annotated
