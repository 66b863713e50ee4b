"""Options of a server, for the API and the command line; and what a running server says about itself."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Annotated, Literal

from typing_extensions import Doc

from headrace.errors import ConfigError
from headrace.generation import PrefixCacheOptions
from headrace.paths import given_path
from headrace.types import Flag

BACKLOG = 2048
"""Connections that wait to be accepted."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ServeOptions:
    """Server options."""

    port: Annotated[int, Doc("Port to listen on; 0 takes a free one.")] = 8000
    host: Annotated[str, Doc("Address to listen on; 0.0.0.0 is reached from other machines.")] = "127.0.0.1"
    name: Annotated[str | None, Doc("What clients call the model; default the directory's name.")] = None
    api_keys: Annotated[
        list[str] | None,
        Flag("--api-key"),
        Doc("Clients must send one of these keys; may be repeated; also $HEADRACE_API_KEY."),
    ] = None
    max_queue: Annotated[int, Doc("Samples that may wait; more are refused with status 429.")] = 1024
    batch_size: Annotated[int, Doc("Samples that decode at once.")] = 32
    dtype: Annotated[Literal["auto", "float32", "bfloat16", "float16"], Doc("Type of the weights.")] = "auto"
    device: Annotated[str, Doc("auto, cpu or cuda.")] = "auto"
    state: Annotated[
        str | os.PathLike[str] | None,
        Doc("Directory of files and batches; default one for each model in the home directory."),
    ] = None
    predictions: Annotated[
        list[str] | None,
        Doc(
            "A directory of predictions to show on the page, or NAME=DIR; may be repeated; may be empty yet."
        ),
    ] = None
    allow_hosts: Annotated[
        list[str] | None,
        Flag("--allow-host"),
        Doc(
            "A name by which clients reach this server (Host header), *.DOMAIN, or * for any; may be repeated."
        ),
    ] = None
    allow_origins: Annotated[
        list[str] | None,
        Flag("--allow-origin"),
        Doc("An origin whose pages may call this server (CORS), or * for any; may be repeated."),
    ] = None
    max_body_bytes: Annotated[int, Doc("Largest JSON body.")] = 16 << 20
    max_upload_bytes: Annotated[int, Doc("Largest total of uploaded files.")] = 10 << 30
    max_connections: Annotated[int, Doc("Open connections; more are refused with status 503.")] = 1000
    drain_s: Annotated[float, Doc("Seconds that running requests have after SIGTERM.")] = 30.0
    share_prefixes: Annotated[
        bool,
        Doc(
            "Let API keys use prefixes that were computed for other keys; a fast answer then tells that somebody "
            "has sent the same text."
        ),
    ] = False
    prefix_cache: PrefixCacheOptions = field(default_factory=PrefixCacheOptions)
    """What is kept of prompts that have been computed."""

    def __post_init__(self) -> None:
        """Refuse values that have no meaning.

        Raises:
            ConfigError: names the option, the value and what was expected.
        """
        for option, least in (
            ("max_queue", 0),
            ("batch_size", 1),
            ("max_body_bytes", 1),
            ("max_upload_bytes", 0),
            ("max_connections", 1),
            ("drain_s", 0),
        ):
            value = getattr(self, option)
            if not value >= least:
                raise ConfigError(f"serve: {option} is {value}; expected at least {least}.")
        if not 0 <= self.port <= 65535:
            raise ConfigError(f"serve: port is {self.port}; expected 0 (a free one) to 65535.")
        if any(not key for key in self.api_keys or ()):
            raise ConfigError(
                "serve: api_key is empty, which would let everybody in. Give a key, or leave the option out."
            )
        for origin in self.allow_origins or ():
            if origin not in ("*", "null") and ("://" not in origin or origin.count("/") != 2):
                raise ConfigError(
                    f"serve: allow_origin is {origin!r}; expected scheme://host[:port] without a path, for example "
                    "https://example.com"
                )
        for host in self.allow_hosts or ():
            if not host or "/" in host or " " in host:
                raise ConfigError(
                    f"serve: allow_host is {host!r}; expected a name without scheme or path, for example example.com"
                )
        _ = self.stores

    @property
    def stores(self) -> Mapping[str, str]:
        """Prediction stores to show: name -> directory or URL."""
        stores: dict[str, str] = {}
        for item in self.predictions or ():
            name, equals, out = item.partition("=")
            if not equals:
                name, out = item.rstrip("/").rpartition("/")[2], item
            if not name or "/" in name or name in stores:
                raise ConfigError(
                    f"serve: predictions {item}: the name {name!r} is empty, given twice or holds a slash. "
                    f"Give it as NAME=DIR."
                )
            stores[name] = given_path(out, name=f"serve: predictions {name}")
        return stores


@dataclass(frozen=True, slots=True, kw_only=True)
class ServerInfo:
    """A server that accepts requests."""

    url: str
    model: str
    pid: int
    dtype: str
    context: int
    chat: bool
    """Whether the model has a chat template."""
    state: str
    """Directory of its files and batches."""
    predictions: list[str] = field(default_factory=list)
