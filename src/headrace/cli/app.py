"""Command line arguments -> exit code: the commands by name, and how errors are reported."""

from __future__ import annotations

import errno
import itertools
import os
import sys
from collections.abc import Sequence
from typing import Annotated

import typer

from headrace.cli import (
    demo,
    diagnose,
    export,
    generate,
    import_,
    ingest,
    inspect,
    plan,
    report,
    serve,
    tokenizer,
    train,
)
from headrace.errors import ConfigError, HeadraceError
from headrace.logs import LogLevel, configure_logging

app = typer.Typer(
    name="headrace",
    help="Input and output of large language models: text to stores, training, predictions and a server.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode="rich",
    context_settings={"help_option_names": ["-h", "--help"]},
)
tokenizer_app = typer.Typer(help="Tokenizers: train one on your own text.", no_args_is_help=True)
tokenizer_app.command("train", epilog=tokenizer.TRAIN_EXAMPLES)(tokenizer.train)

app.command("demo", epilog=demo.EXAMPLES)(demo.demo)
app.command("ingest", epilog=ingest.EXAMPLES)(ingest.ingest)
app.add_typer(tokenizer_app, name="tokenizer")
app.command("inspect", epilog=inspect.EXAMPLES)(inspect.inspect)
app.command("train", epilog=train.EXAMPLES)(train.train)
app.command("generate", epilog=generate.EXAMPLES)(generate.generate)
app.command("serve", epilog=serve.EXAMPLES)(serve.serve)
app.add_typer(plan.plan_app, name="plan")
app.command("diagnose", epilog=diagnose.EXAMPLES)(diagnose.diagnose)
app.command("report", epilog=report.EXAMPLES)(report.report)
app.command("export", epilog=export.EXAMPLES)(export.export)
app.command("import", epilog=import_.EXAMPLES)(import_.import_)


@app.callback(invoke_without_command=True)
def _root(
    *,
    version: bool = typer.Option(False, "--version", help="Print the version and exit.", is_eager=True),
    log_level: Annotated[
        LogLevel | None,
        typer.Option(
            help="Least level of the log lines on stderr; default info, on a terminal warning.",
            show_default=False,
        ),
    ] = None,
    log_file: Annotated[
        str | None, typer.Option(help="Append the same lines to this file.", show_default=False)
    ] = None,
) -> None:
    try:
        configure_logging(log_level, path=log_file)
    except OSError as error:
        raise ConfigError(
            f"--log-file {log_file}: {error.strerror}. Give a file that can be written."
        ) from None
    if version:
        from headrace.version import VERSION

        print(VERSION)
        raise typer.Exit


_INTERRUPTED = 130


def main(argv: Sequence[str] | None = None) -> int:  # noqa: PLR0911 - one return for each kind of end
    """Run one command and return its exit code.

    Args:
        argv: arguments after `headrace`; None takes them from sys.argv.
    """
    try:
        result = app(args=None if argv is None else list(argv), standalone_mode=False)
        if result == _INTERRUPTED:  # typer has caught Ctrl-C and printed nothing
            _print_error("interrupted; run the same command again to continue")
    except (KeyboardInterrupt, typer.Abort):
        _print_error("interrupted; run the same command again to continue")
        return _INTERRUPTED
    except HeadraceError as error:
        _print_error(str(error))
        return error.exit_code
    except BrokenPipeError:
        # The reader of stdout has closed it (`| head`). Python would report it again at exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            _print_error(
                f"{error.filename or 'the output device'}: no space left; "
                "complete files are kept. Free some space and run the same command again"
            )
            return 2
        if error.errno in (
            errno.ENOENT,
            errno.EACCES,
            errno.EEXIST,
            errno.EISDIR,
            errno.ENOTDIR,
            errno.EROFS,
        ):
            _print_error(f"{error.filename or 'a path'}: {error.strerror}")
            return 2
        raise
    except ModuleNotFoundError as error:
        extra = {
            "torch": "train",
            "transformers": "hf",
            "ray": "ray",
            "starlette": "serve",
            "uvicorn": "serve",
            "msgspec": "serve",
            "prometheus_client": "serve",
        }.get((error.name or "").partition(".")[0])
        if extra is None:
            raise
        _print_error(
            f"this command needs {error.name}, which is not installed. Run: pip install 'headrace[{extra}]'"
        )
        return 2
    except Exception as error:
        # Typer has a copy of click whose usage errors have no public name; they can print themselves.
        show, code = getattr(error, "show", None), getattr(error, "exit_code", None)
        if show is None or not isinstance(code, int):
            raise
        _simplify(error, sys.argv[1:] if argv is None else argv)
        show()
        return code
    return result if isinstance(result, int) else 0


_EXPECTED = {
    "Input should be a valid integer, unable to parse string as an integer": "a whole number",
    "Input should be a valid number, unable to parse string as a number": "a number",
}


def _simplify(error: Exception, words: Sequence[str]) -> None:
    """Replace the message of a usage error: what was got and what was expected, without the validator's wording."""
    message = getattr(error, "message", None)
    if not isinstance(message, str):
        return
    message = message.removeprefix("Value error, ")
    if message in _EXPECTED:
        names = getattr(getattr(error, "param", None), "opts", [])
        got = [after for word, after in itertools.pairwise(words) if word in names]
        got += [word.partition("=")[2] for word in words if word.partition("=")[0] in names and "=" in word]
        message = (
            f"got {got[-1]!r}, expected {_EXPECTED[message]}." if got else f"expected {_EXPECTED[message]}."
        )
    vars(error)["message"] = message


def _print_error(message: str) -> None:
    """Print one line on stderr without wrapping and markup, so that it can be searched and copied."""
    print(f"headrace: {message}", file=sys.stderr)
