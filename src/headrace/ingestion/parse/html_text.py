"""Bytes of an HTML page -> the text of its main content, as Unicode, by resiliparse (optional: headrace[web]).

Source of the order in which encodings are believed: the WHATWG's HTML standard, section 13.2.3.
"""

from __future__ import annotations

import codecs
import re
from importlib import import_module, metadata
from typing import Any

from headrace.errors import ConfigError

_MARKS = ((codecs.BOM_UTF8, "utf-8"), (codecs.BOM_UTF16_LE, "utf-16-le"), (codecs.BOM_UTF16_BE, "utf-16-be"))
_META = re.compile(rb"""<meta\s[^>]*?charset\s*=\s*["']?\s*([\w:.+-]+)""", re.IGNORECASE)
_COMMENT = re.compile(rb"<!--.*?-->", re.DOTALL)
_PRESCAN_BYTES = 4096
_SUPERSETS = {
    # what Python's codec of the name lacks, and browsers read
    "shift_jis": "cp932",
    "big5": "big5hkscs",
    "euc_kr": "cp949",
    "gbk": "gb18030",
    "iso8859-11": "cp874",
}
_CHARSET = re.compile(r"""charset\s*=\s*["']?\s*([^\s"';,]+)""", re.IGNORECASE)


MAX_DEPTH = 3000
"""Elements inside one another; browsers nest no deeper than 512. The parser's time grows with the square."""
MAX_TAG_WORDS = 10_000
"""Words in one tag, about its attributes; here, too, time grows with the square."""
_MAX_TAG_CHARS = 20_000
_VOID = "area base br col embed hr img input link meta param source track wbr"
_CLOSED_BY_NEXT = "p li dt dd option optgroup tr td th thead tbody tfoot colgroup rp rt html head body"
_NEVER_NESTED = frozenset(f"{_VOID} {_CLOSED_BY_NEXT}".split())
_TAG = re.compile(r"<(/?)([a-zA-Z][^\s/>]*)")


class PageError(Exception):
    """A page that cannot be read; says why."""


def missing(library: str) -> ConfigError:
    """The error where a library of the extra is not installed."""
    return ConfigError(
        f"pages of a web archive (.warc) need the library {library}. Run: pip install 'headrace[web]'. Archives of "
        f"texts (.wet) need none"
    )


def extractor_version() -> str | None:
    """Name and version of the library that extracts text; None where it is not installed.

    Another version may extract other text, so a half-done job is not continued with it.
    """
    try:
        return f"resiliparse {metadata.version('resiliparse')}"
    except metadata.PackageNotFoundError:
        return None


def main_text(html: str) -> bytes:
    """The main content of a page: paragraphs, headings, lists and tables, without menus, headers and footers.

    Raises:
        ConfigError: resiliparse is not installed.
        PageError: the page cannot be parsed, or would take the parser minutes.
    """
    _check_shape(html)
    extract: Any = _module("resiliparse.extract.html2text").extract_plain_text
    try:
        text: str = extract(html, main_content=True, alt_texts=False)
    except Exception as error:
        raise PageError(f"its HTML cannot be parsed ({type(error).__name__}: {error})") from error
    return text.strip().encode("utf-8", "replace")


def _check_shape(html: str) -> None:
    """Refuse pages on which the parser's time grows with the square of their size."""
    if html.count("<") <= MAX_DEPTH and len(max(html.split(">"), key=len)) <= _MAX_TAG_CHARS:
        return
    depth = inside_svg = 0
    end = -1
    for tag in _TAG.finditer(html):
        if end < tag.end():
            end = html.find(">", tag.end())
            end = len(html) if end < 0 else end
        if end - tag.end() > _MAX_TAG_CHARS and len(html[tag.end() : end].split()) > MAX_TAG_WORDS:
            raise PageError(f"a tag of more than {MAX_TAG_WORDS:,} words")
        name = tag[2].lower()
        if name == "svg":
            inside_svg = max(0, inside_svg + (-1 if tag[1] else 1))
        if name in _NEVER_NESTED or (inside_svg and html[end - 1] == "/"):
            continue
        depth = max(0, depth + (-1 if tag[1] else 1))
        if depth > MAX_DEPTH:
            raise PageError(f"elements nested more than {MAX_DEPTH:,} deep")


def decode_html(body: bytes, content_type: str) -> str:
    """The page as Unicode; what is no character in its encoding becomes U+FFFD, as in browsers.

    Args:
        body: the page.
        content_type: the HTTP header's value.

    Raises:
        ConfigError: resiliparse is not installed.
    """
    for mark, name in _MARKS:
        if body.startswith(mark):
            return body[len(mark) :].decode(name, "replace")
    declared = _CHARSET.search(content_type)
    encoding = _python_name(declared[1]) if declared else None
    if encoding is None:
        meta = _META.search(_COMMENT.sub(b"", body[:_PRESCAN_BYTES]))
        encoding = _python_name(meta[1].decode()) if meta else None
        if encoding in ("utf-16-le", "utf-16-be"):
            encoding = "utf-8"  # a page in UTF-16 could not have been read as far as this
    if encoding is not None:
        return body.decode(encoding, "replace")
    try:
        return body.decode()
    except UnicodeDecodeError:
        detected: str = _module("resiliparse.parse.encoding").detect_encoding(body)
        return body.decode(_python_name(detected) or "cp1252", "replace")


def _python_name(label: str) -> str | None:
    """The encoding that a label means on the web: iso-8859-1 is windows-1252; None for one that is not known."""
    mapped: str | None = _module("resiliparse.parse.encoding").map_encoding_to_html5(
        label.strip(), fallback_utf8=False
    )
    try:
        name = codecs.lookup(mapped).name if mapped else None
    except LookupError:
        return None
    return None if name is None else _SUPERSETS.get(name, name)


def _module(name: str) -> Any:
    try:
        return import_module(name)
    except ModuleNotFoundError as error:
        raise missing("resiliparse") from error
