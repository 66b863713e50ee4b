"""A chat template and the roles of a conversation -> the fixed text around its contents, where there is such a text.

Most templates write contents as they are, between texts that depend on the roles alone. Rendering takes a hundred
microseconds a conversation; joining fixed texts and contents takes a few. Whether a template is one of these is found
by rendering it with contents that can be written, joined with `+`, trimmed and tested for being strings, and nothing
else: whatever else it does with one (a comparison, a length, a filter, a method) is noticed, and such a template is
rendered each time. What a rendering does not look at cannot change it: the fixed text is that of every other content.
"""

from __future__ import annotations

import itertools
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final, NoReturn, cast

if TYPE_CHECKING:
    from jinja2 import Environment

# As in chat.py: no input holds a lone surrogate.
_OPEN, _CLOSE = "\udc82", "\udc83"
_PLACE: Final = re.compile(f"{_OPEN}([0-9]+)(t?){_CLOSE}")
_TESTS: Final = {
    "string": True,
    "defined": True,
    "undefined": False,
    "none": False,
    "mapping": False,
    "number": False,
    "boolean": False,
    "sequence": True,
    "iterable": True,
}
"""What Jinja2's tests say of a string."""


class LookedAtError(Exception):
    """The template does more with a content than to write it."""


class Looks:
    """Whether a template looked at a content while it was rendered; kept apart, for templates that swallow errors."""

    any = False


class Content:
    """Stands for the content of a message while a template is rendered."""

    __slots__ = ("_looks", "_parts")

    def __init__(self, parts: tuple[str, ...], looks: Looks) -> None:
        object.__setattr__(self, "_parts", parts)
        object.__setattr__(self, "_looks", looks)

    def __add__(self, other: object) -> Content:
        return _joined(self, self, other)

    def __radd__(self, other: object) -> Content:
        return _joined(self, other, self)

    def __getattribute__(self, name: str) -> Any:
        return _look(self)

    def _refuse(self, *_: object) -> NoReturn:
        _look(self)

    __str__ = __repr__ = __format__ = __bool__ = __len__ = __iter__ = __contains__ = __getitem__ = _refuse
    __eq__ = __ne__ = __lt__ = __le__ = __gt__ = __ge__ = __hash__ = __call__ = __setattr__ = _refuse
    __mul__ = __rmul__ = __mod__ = __rmod__ = __int__ = __float__ = __index__ = __reversed__ = _refuse


def _look(content: Content) -> NoReturn:
    object.__getattribute__(content, "_looks").any = True
    raise LookedAtError


def _parts(value: object) -> tuple[str, ...] | None:
    if type(value) is Content:
        parts: tuple[str, ...] = object.__getattribute__(value, "_parts")
        return parts
    return (value,) if type(value) is str else None


def _joined(content: Content, *both: object) -> Content:
    first, second = map(_parts, both)
    if first is None or second is None:
        _look(content)
    return Content(first + second, object.__getattribute__(content, "_looks"))


def content_of(number: int, looks: Looks) -> Content:
    """The stand-in for the content of a message."""
    return Content((f"{_OPEN}{number}{_CLOSE}",), looks)


def _write(value: Any) -> Any:
    """What is written for a value: of a stand-in its place."""
    parts = _parts(value) if type(value) is Content else None
    return value if parts is None else "".join(parts)


def _trim(value: Content) -> Content:
    parts = _parts(value) or ()
    place = _PLACE.fullmatch(parts[0]) if len(parts) == 1 else None
    if place is None:  # a content joined with other text
        _look(value)
    return Content((f"{_OPEN}{place[1]}t{_CLOSE}",), object.__getattribute__(value, "_looks"))


def observe(environment: Environment) -> None:
    """Make an environment's templates say what they do with stand-ins, in place."""
    environment.finalize = _write
    for name, function in list(environment.filters.items()):
        environment.filters[name] = _observed(cast("Any", function), _trim if name == "trim" else None)
    for name, function in list(environment.tests.items()):
        environment.tests[name] = _observed(
            cast("Any", function), _answering(_TESTS[name]) if name in _TESTS else None
        )


def _answering(answer: bool) -> Callable[[Content], bool]:
    return lambda _: answer


def _observed(function: Callable[..., Any], instead: Callable[[Content], Any] | None) -> Callable[..., Any]:
    """A filter or test that notices stand-ins among its arguments; `instead` is done with one that is alone."""

    def observed(*arguments: Any, **options: Any) -> Any:
        given = [one for one in (*arguments, *options.values()) if type(one) is Content]
        if not given:
            return function(*arguments, **options)
        if instead is None or len(arguments) > 1 or options:
            _look(given[0])
        return instead(given[0])

    for name, value in getattr(function, "__dict__", {}).items():  # jinja2's marks of what it passes first
        setattr(observed, name, value)
    return observed


def variables_read(template: str, environment: Environment) -> frozenset[str] | None:
    """The variables that a template reads; None where what it writes cannot be followed.

    A text that a block of `set`, a macro or a filter has caught is a string like any other: what becomes of the
    contents in it would not be noticed.
    """
    from jinja2 import meta, nodes

    tree = environment.parse(template)
    caught = (
        nodes.AssignBlock,
        nodes.Macro,
        nodes.FilterBlock,
        nodes.Include,
        nodes.Import,
        nodes.FromImport,
    )
    if next(tree.find_all(caught), None) is not None:
        return None
    if not all(isinstance(one.call.node, nodes.ExtensionAttribute) for one in tree.find_all(nodes.CallBlock)):
        return None  # a call of something else than {% generation %}
    return frozenset(meta.find_undeclared_variables(tree))


@dataclass(frozen=True, slots=True)
class Skeleton:
    """Fixed texts and places of contents, by turns: text, place, text, ..., text."""

    texts: tuple[bytes, ...]
    places: tuple[tuple[int, bool], ...]
    """Message, and whether its content is trimmed."""
    edges: tuple[tuple[int, int], ...]
    """Of learned runs: number of a text, and byte in it."""

    def fill(self, contents: Sequence[str]) -> tuple[bytes, tuple[int, ...]]:
        """The text of a conversation, and the edges of its learned runs in bytes, as `edges_in_bytes` has them."""
        parts = [self.texts[0]]
        starts = [0]
        at = len(parts[0])
        for (message, trimmed), text in zip(self.places, self.texts[1:], strict=True):
            content = contents[message].strip() if trimmed else contents[message]
            encoded = content.encode()
            parts += (encoded, text)
            at += len(encoded)
            starts.append(at)
            at += len(text)
        edges: list[int] = []
        for begin, end in zip(self.edges[::2], self.edges[1::2], strict=True):
            first, last = starts[begin[0]] + begin[1], starts[end[0]] + end[1]
            if first == last:
                continue
            if edges and edges[-1] == first:
                edges[-1] = last
            else:
                edges += (first, last)
        return b"".join(parts), tuple(edges)


def skeleton_of(text: str, runs: Sequence[tuple[int, int]]) -> Skeleton:
    """The skeleton of a text with places of contents, and learned runs of its characters."""
    texts, places, starts, at = [], [], [], 0
    for match in [*_PLACE.finditer(text), None]:
        end = len(text) if match is None else match.start()
        texts.append(text[at:end])
        starts.append(at)
        if match is not None:
            places.append((int(match[1]), match[2] == "t"))
            at = match.end()
    edges = []
    for edge in itertools.chain.from_iterable(runs):
        number = max(i for i, start in enumerate(starts) if start <= edge)
        before = texts[number][: edge - starts[number]]
        if edge - starts[number] > len(texts[number]):  # within the place of a content
            raise LookedAtError
        edges.append((number, len(before.encode())))
    return Skeleton(tuple(one.encode() for one in texts), tuple(places), tuple(edges))
