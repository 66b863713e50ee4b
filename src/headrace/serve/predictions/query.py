"""Parameters of a URL -> which rows of a prediction store a call asks for."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from starlette.datastructures import QueryParams

from headrace.errors import ConfigError

DEFAULT_LIMIT, MAX_LIMIT = 50, 200
MAX_QUERY, MAX_EXCERPT = 1000, 10_000
PARAMETERS = ("offset", "limit", "query", "errors", "excerpt", "compare", "different")


@dataclass(frozen=True, slots=True, kw_only=True)
class RowQuery:
    """Which rows a call asks for."""

    offset: int = 0
    """Position to begin at."""
    limit: int = DEFAULT_LIMIT
    text: str = ""
    """Searched in id, prompt, text and error message; letter case does not matter."""
    errors: bool = False
    """Only rows with an error."""
    excerpt: int | None = None
    """Characters of prompt and text around the first match, without the values per token; None: whole rows."""
    compare: str | None = None
    """Name of another store; each row comes with that store's row of the same key."""
    different: bool = False
    """Only rows whose text is not the other store's."""

    @property
    def filtered(self) -> bool:
        """Whether some rows are left out."""
        return bool(self.text) or self.errors or self.different


class BadParameterError(ConfigError):
    """A parameter of a URL is at fault."""

    def __init__(self, name: str, message: str) -> None:
        super().__init__(f"{name}: {message}")
        self.name = name


def parse_query(params: QueryParams) -> RowQuery:
    """Read the parameters of a URL.

    Raises:
        BadParameterError: a parameter is unknown, repeated, or has a value of the wrong kind.
    """
    values = dict(params.multi_items())
    for name in values:
        if name not in PARAMETERS:
            raise BadParameterError(name, f"not a parameter here; there are {', '.join(PARAMETERS)}.")
    if len(values) != len(params.multi_items()):
        name = next(name for name in values if len(params.getlist(name)) > 1)
        raise BadParameterError(name, "given more than once; give it once.")
    text = values.get("query", "")
    if len(text) > MAX_QUERY:
        raise BadParameterError("query", f"{len(text)} characters; at most {MAX_QUERY}.")
    different = _boolean(values, "different")
    if different and "compare" not in values:
        raise BadParameterError("different", "only together with compare, the store to compare with.")
    return RowQuery(
        offset=_integer(values, "offset", default=0, least=0, most=2**62),
        limit=_integer(values, "limit", default=DEFAULT_LIMIT, least=1, most=MAX_LIMIT),
        text=text,
        errors=_boolean(values, "errors"),
        excerpt=_integer(values, "excerpt", default=0, least=1, most=MAX_EXCERPT)
        if "excerpt" in values
        else None,
        compare=values.get("compare"),
        different=different,
    )


def _boolean(values: Mapping[str, str], name: str) -> bool:
    value = values.get(name, "false").lower()
    if value not in ("true", "false", "1", "0"):
        raise BadParameterError(name, f"{value[:40]!r}; expected true or false.")
    return value in ("true", "1")


def _integer(values: Mapping[str, str], name: str, *, default: int, least: int, most: int) -> int:
    text = values.get(name, str(default))
    # int() alone would accept "1_0", " 7" and other scripts' digits.
    value = int(text) if text.isascii() and text.isdigit() and len(text) < 20 else -1
    if not least <= value <= most:
        raise BadParameterError(name, f"{text[:40]!r}; expected a whole number from {least:,} to {most:,}.")
    return value
