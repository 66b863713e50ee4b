"""A path that the user gave -> a local path; a URL where only a local path can be used -> an error that names it.

`Path("s3://bucket/run")` is the local path `s3:/bucket/run`: without this check a URL becomes a directory named `s3:`.
"""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import Final
from urllib.parse import unquote, urlsplit

from headrace.errors import ConfigError

_URL: Final = re.compile(r"([A-Za-z][A-Za-z0-9+.-]+):/(/?)")
_SCHEMES: Final = {
    "abfs", "abfss", "adl", "az", "azure", "file", "ftp", "gs", "hdfs", "hf", "http", "https", "memory", "s3", "s3a",
}  # fmt: skip
"""Schemes that are recognised even where a Path has removed the second slash."""

REMOTE_SCHEMES: Final = ("s3", "s3a", "gs", "az", "adl", "azure", "abfs", "abfss", "memory")
"""Of object stores, which can be written to."""
HUB_NAME: Final = re.compile(r"hf://([^/@]+/[^/@]+)(?:@(.+))?")
_REMOTE_URL: Final = re.compile(r"([A-Za-z0-9]+):/+(.+)")


def is_url(path: str | os.PathLike[str]) -> bool:
    """Whether a path is a URL, also one that a Path has shortened.

    >>> is_url("s3://bucket/run"), is_url(Path("s3://bucket/run")), is_url("/data/run"), is_url("a:/b")
    (True, True, False, False)
    """
    match = _URL.match(os.fspath(path))
    return match is not None and (bool(match[2]) or match[1].lower() in _SCHEMES)


def remote_url(out: str | os.PathLike[str]) -> str | None:
    """The URL of an object store, also where a Path has shortened it; None of a local path.

    >>> remote_url("s3:/bucket/run/"), remote_url("run"), remote_url("hf://owner/name")
    ('s3://bucket/run', None, None)
    """
    text = os.fspath(out)
    match = _REMOTE_URL.fullmatch(text) if is_url(text) else None
    if match is None or match[1].lower() not in REMOTE_SCHEMES:
        return None
    return f"{match[1].lower()}://{match[2].rstrip('/')}"


def given_path(path: str | os.PathLike[str], *, name: str, expected: str = "a path") -> str:
    """A local path or a URL as the user gave it, with `~` as the home directory: shells leave it in `--out=~/run`.

    >>> given_path("s3://bucket/run", name="out")
    's3://bucket/run'

    Args:
        path: as the user gave it.
        name: of the option or argument, for the message.
        expected: what it must be, for the message.

    Raises:
        ConfigError: it is empty, or begins with `~` and the user has no home directory.
    """
    text = os.fspath(path)
    if not text:  # Path("") is the current directory: an unset variable would fill it, or clear it
        raise ConfigError(
            f'{name} is empty; expected {expected}, "." for the current directory. An unset variable?'
        )
    expanded = os.path.expanduser(text)  # noqa: PTH111  # a name such as "~user" of no user stays
    if expanded.startswith("~") and expanded.partition("/")[0] == "~":
        raise ConfigError(
            f"{name} is {text}: this user has no home directory. Give a path without ~, or set HOME"
        )
    return expanded


def home_directory(*, kept: str, cure: str) -> Path:
    """The user's home directory.

    Args:
        kept: what would be kept there, for the message.
        cure: what to give instead.

    Raises:
        ConfigError: there is none, as in a container with a user id of its own.
    """
    try:
        return Path.home()
    except RuntimeError as error:
        raise ConfigError(
            f"this user has no home directory to keep {kept} in. {cure}, or set HOME."
        ) from error


def local_path(path: str | os.PathLike[str], *, name: str, cure: str = "Give a local path.") -> Path:
    """The path as a Path.

    >>> local_path("file:///data/run", name="train: out")
    PosixPath('/data/run')

    Args:
        path: as the user gave it; file:// is accepted.
        name: of the option or argument, for the message.
        cure: what to give instead.

    Raises:
        ConfigError: it is empty, or the URL of something that is not local.
    """
    text = given_path(path, name=name, expected="a local path")
    if not is_url(text):
        return Path(text)
    scheme, _, rest = text.partition(":/")
    if scheme.lower() == "file":
        return Path(unquote(urlsplit(f"file:///{rest.lstrip('/')}").path))
    raise ConfigError(f"{name} is {scheme}://{rest.lstrip('/')}: a URL, expected a local path. {cure}")


def output_file(path: str | os.PathLike[str], *, name: str, example: str) -> Path:
    """The local path of a file to write, before the work that makes its content; its directory is made.

    Args:
        path: as the user gave it.
        name: of the option or argument, for the message.
        example: a name that such a file has.

    Raises:
        ConfigError: it is empty, a URL or a directory, or its directory cannot be made.
    """
    file = local_path(path, name=name)
    if file.is_dir():
        raise ConfigError(f"{name} is {file}, a directory: name a file in it, such as {example}")
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ConfigError(
            f"{name} is {file}: its directory cannot be made: {error.strerror or error}. "
            "Name a file in a directory that can be written"
        ) from error
    return file


def split_checkpoint_name(name: str | os.PathLike[str]) -> tuple[Path, str | None]:
    """RUN@STEP or RUN@best -> the run's path and the part after "@"; a path that exists is taken whole.

    >>> split_checkpoint_name("run@400")
    (PosixPath('run'), '400')
    """
    text = given_path(name, name="model")
    path = Path(text)
    run, at, which = text.rpartition("@")
    if not at or path.exists() or not (which == "best" or which.isdecimal()):
        return path, None
    return Path(run), which


def model_name(model: str | os.PathLike[str]) -> str:
    """What a model is called: the last part of its path or URL, without a revision.

    >>> model_name("hf://HuggingFaceTB/SmolLM2-135M@main"), model_name("s3://bucket/runs/a/")
    ('SmolLM2-135M', 'a')
    """
    text = os.fspath(model)
    if match := HUB_NAME.fullmatch(text):
        return match[1].rpartition("/")[2]
    return (
        text.rstrip("/").rpartition("/")[2]
        if is_url(text)
        else Path(given_path(text, name="model")).resolve().name
    )
