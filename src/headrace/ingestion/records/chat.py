"""A chat template and messages -> text, and the bytes of it that are learned.

Templates are rendered as transformers renders them: Jinja2, immutable and sandboxed, blocks trimmed, with `tojson`,
`raise_exception`, `break`, `continue` and `{% generation %}`. What would give another text on another day or at
another try is left out: `strftime_now` and the filter `random`.

Which bytes are learned:

1. what the template writes inside `{% generation %}`, where it has that;
2. else what an answer adds to the text of the turns before it with the generation prompt;
3. where the template writes earlier turns otherwise once later ones follow, as those of reasoning models do: the
   answers' contents, each with the special token that follows it.
"""

from __future__ import annotations

import functools
import json
import re
from collections.abc import Mapping, Sequence
from functools import lru_cache
from typing import TYPE_CHECKING, Any, NoReturn

import orjson

from headrace.errors import ConfigError
from headrace.ingestion.options import ChatOptions, FieldOptions, Learn
from headrace.ingestion.records.messages import MessagesError, strings_of_plain
from headrace.ingestion.records.skeleton import (
    LookedAtError,
    Looks,
    Skeleton,
    content_of,
    observe,
    skeleton_of,
    variables_read,
)
from headrace.paths import local_path

if TYPE_CHECKING:
    from jinja2 import Template

    from headrace.tokens import Tokenizer

OWN_TEMPLATE = "chat"
"""The value of `template` that takes the tokenizer's own for records without messages too."""
# No input contains a lone surrogate: it is neither in UTF-8 nor in JSON. So these mark places in a rendered text.
_BEGIN, _END = "\udc80", "\udc81"
_MARK = re.compile(f"[{_BEGIN}{_END}]")
_HAS_GENERATION = re.compile(r"\{%-?\s*generation\s*-?%\}")
_NOT_FOUND = (
    "the chat template writes the first turns otherwise once later ones follow, so the answer cannot be found in the "
    "text. Mark the answers in the template with {% generation %} ... {% endgeneration %}"
)
_NAMED_TOKENS = ("bos_token", "eos_token", "unk_token", "sep_token", "pad_token", "cls_token", "mask_token")

_MAX_SKELETONS, _MAX_TURNS = 4096, 32
_ALWAYS_GIVEN = ("messages", "add_generation_prompt")

Edges = tuple[int, ...]
"""First byte of a learned run, one past its last byte, first byte of the next run, and so on."""


def chat_options(fields: FieldOptions, tokenizer: Tokenizer) -> ChatOptions | None:
    """The template that `fields.template` names, or the tokenizer's own, and the tokens that it can name.

    Returns:
        None where there is no template; records of messages are then refused.

    Raises:
        ConfigError: the file cannot be read, or is no template.
    """
    files = tokenizer.files()
    config = {
        key: value
        for name in ("special_tokens_map.json", "tokenizer_config.json")
        for key, value in (orjson.loads(files[name]) if name in files else {}).items()
    }
    if fields.template is None or fields.template == OWN_TEMPLATE:
        text = _own_template(files, config)
        if text is None and fields.template is not None:
            raise ConfigError(
                f"template {OWN_TEMPLATE!r}: the tokenizer {tokenizer.name} has no chat template; name a file"
            )
    else:
        file = local_path(fields.template, name="ingest: template")
        try:
            text = file.read_text(encoding="utf-8")
        except (OSError, UnicodeDecodeError) as error:
            raise ConfigError(f"template {fields.template!r} cannot be read: {error}") from error
    if text is None:
        return None
    named = {name: config.get(name) for name in _NAMED_TOKENS}
    tokens = {k: v["content"] if isinstance(v, dict) else v for k, v in named.items() if v is not None}
    _compile(text)
    return ChatOptions(
        template=text,
        variables=tuple(sorted(tokens.items())),
        special_tokens=tuple(sorted(tokenizer.special_tokens())),
    )


def _own_template(files: Mapping[str, bytes], config: Mapping[str, Any]) -> str | None:
    if "chat_template.jinja" in files:
        return files["chat_template.jinja"].decode()
    templates = config.get("chat_template")
    if isinstance(templates, list):
        templates = {one["name"]: one["template"] for one in templates}.get("default")
    return templates if isinstance(templates, str) else None


class ConversationTemplate:
    """A compiled template."""

    def __init__(self, options: ChatOptions, *, observed: bool = False) -> None:
        self._options = options
        self._template = _compile(options.template, observed=observed)
        self._variables = dict(options.variables)
        special = sorted(options.special_tokens, key=len, reverse=True)
        self._special = re.compile("|".join(map(re.escape, special))) if special else None
        self._has_generation = _HAS_GENERATION.search(options.template) is not None
        self._skeletons: dict[tuple[tuple[str, ...], Learn, int | None], Skeleton | None] = {}

    @functools.cached_property
    def _observed(self) -> tuple[ConversationTemplate, frozenset[str]] | None:
        """The template that says what it does with contents, and the variables that it reads."""
        observed = ConversationTemplate(self._options, observed=True)
        variables = variables_read(self._options.template, observed._template.environment)
        return None if variables is None else (observed, variables.difference(_ALWAYS_GIVEN))

    def encoded(
        self,
        messages: list[dict[str, Any]],
        *,
        learn: Learn,
        given: int | None = None,
        values: Mapping[str, Any],
    ) -> tuple[bytes, Edges]:
        """`text` in UTF-8, and the edges of its learned runs in bytes; a template that allows it is not rendered.

        Raises:
            MessagesError: see `text`.
        """
        strings = strings_of_plain(messages)
        if strings is None or len(messages) > _MAX_TURNS or not self._reads_messages_alone(values):
            return edges_in_bytes(*self.text(messages, learn=learn, given=given, values=values))
        roles, contents = tuple(strings[::2]), strings[1::2]
        key = (roles, learn, given)
        skeleton = self._skeletons.get(key)
        if skeleton is not None:
            return skeleton.fill(contents)
        found = edges_in_bytes(*self.text(messages, learn=learn, given=given, values=values))
        if key not in self._skeletons and len(self._skeletons) < _MAX_SKELETONS:
            skeleton = self._skeleton(roles, learn, given, values)
            # Followed wrongly, it would be a silent error: the first conversation of these roles tells.
            is_right = skeleton is not None and skeleton.fill(contents) == found
            self._skeletons[key] = skeleton if is_right else None
        return found

    def _reads_messages_alone(self, values: Mapping[str, Any]) -> bool:
        """Whether the template reads the messages alone."""
        if self._observed is None:
            return False
        reads = self._observed[1]
        return not any(
            name in reads and value is not None for name, value in values.items() if name not in _ALWAYS_GIVEN
        )

    def _skeleton(
        self, roles: tuple[str, ...], learn: Learn, given: int | None, values: Mapping[str, Any]
    ) -> Skeleton | None:
        """The fixed texts for these roles; None where the template looks at contents."""
        assert self._observed is not None
        looks = Looks()
        messages = [{"role": role, "content": content_of(i, looks)} for i, role in enumerate(roles)]
        try:
            text, runs = self._observed[0].text(messages, learn=learn, given=given, values=values)
            return None if looks.any else skeleton_of(text, runs)
        except (MessagesError, LookedAtError):
            return None

    def text(
        self,
        messages: Sequence[Mapping[str, Any]],
        *,
        learn: Learn,
        given: int | None = None,
        values: Mapping[str, Any],
    ) -> tuple[str, list[tuple[int, int]]]:
        """The text of a conversation, and its learned runs of characters.

        Args:
            messages: from `messages_of`.
            learn: all, the answers, or the last one.
            given: messages that are given; those after them are learned, of any role. None: answers are learned.
            values: further variables of the template, such as tools.

        Raises:
            MessagesError: the template refuses the messages, or there is no answer.
        """
        marked = self._render(messages, values)
        whole = _MARK.sub("", marked) if self._has_generation else marked
        if learn == "all":
            return whole, [(0, len(whole))]
        if given is not None:
            return whole, [(self._prefix(messages[:given], whole, values, prompt=True), len(whole))]
        answers = [i for i, message in enumerate(messages) if message["role"] == "assistant"]
        if not answers:
            raise MessagesError("no message is of role 'assistant', so there is nothing to learn")
        if learn == "last":
            answers = answers[-1:]
        if self._has_generation:
            runs = _runs(marked)
            if learn == "last":
                runs = runs[len(_runs(self._render(messages[: answers[0]], values))) :]
            return whole, runs
        try:
            return whole, self._added_runs(messages, whole, values, answers)
        except MessagesError:
            return whole, self._content_runs(messages, whole, values, answers)

    def _added_runs(
        self,
        messages: Sequence[Mapping[str, Any]],
        whole: str,
        values: Mapping[str, Any],
        answers: Sequence[int],
    ) -> list[tuple[int, int]]:
        """What each answer adds to the text before it with the generation prompt."""
        runs = []
        for i in answers:
            begin = self._prefix(messages[:i], whole, values, prompt=True)
            is_last = i == len(messages) - 1
            end = len(whole) if is_last else self._prefix(messages[: i + 1], whole, values, prompt=False)
            runs.append((begin, end))
        return runs

    def _content_runs(
        self,
        messages: Sequence[Mapping[str, Any]],
        whole: str,
        values: Mapping[str, Any],
        answers: Sequence[int],
    ) -> list[tuple[int, int]]:
        """The content of each answer where it is in the text, and a special token that follows at once."""
        contents = {i: messages[i]["content"] for i in answers}
        if all(isinstance(content, str) and content for content in contents.values()):
            marked = self._render(
                [
                    {**message, "content": f"{_BEGIN}{contents[i]}{_END}"} if i in contents else message
                    for i, message in enumerate(messages)
                ],
                values,
            )
            runs = _runs(marked)
            if _MARK.sub("", marked) == whole and len(runs) == len(answers):
                ends = [self._special.match(whole, end) if self._special else None for _, end in runs]
                return [
                    (begin, end if token is None else token.end())
                    for (begin, end), token in zip(runs, ends, strict=True)
                ]
        raise MessagesError(_NOT_FOUND)

    def _prefix(
        self, messages: Sequence[Mapping[str, Any]], whole: str, values: Mapping[str, Any], *, prompt: bool
    ) -> int:
        """Characters of the first messages, which the whole text begins with."""
        text = _MARK.sub("", self._render(messages, values, prompt=prompt)) if messages or prompt else ""
        if not whole.startswith(text):
            raise MessagesError(_NOT_FOUND)
        return len(text)

    def _render(
        self, messages: Sequence[Mapping[str, Any]], values: Mapping[str, Any], *, prompt: bool = False
    ) -> str:
        variables = {**self._variables, "tools": None, "documents": None, **values}
        try:
            return str(self._template.render(variables, messages=messages, add_generation_prompt=prompt))
        except Exception as error:  # a template raises whatever its author chose
            raise MessagesError(f"the chat template refuses it: {error}") from error


def _runs(marked: str) -> list[tuple[int, int]]:
    """Learned runs of a text with marks, counted without the marks."""
    at, runs = 0, []
    for number, part in enumerate(_MARK.split(marked)):
        if number % 2:
            runs.append((at, at + len(part)))
        at += len(part)
    return runs


def edges_in_bytes(text: str, runs: Sequence[tuple[int, int]]) -> tuple[bytes, Edges]:
    """A text and runs of its characters -> UTF-8 and edges in it; empty runs are left out, and neighbours joined."""
    edges: list[int] = []
    ascii_only = text.isascii()
    at = position = 0
    for begin, end in runs:
        if begin == end:
            continue
        for place in (begin, end):
            position = place if ascii_only else position + len(text[at:place].encode())
            at = place
            edges.append(position)
        if len(edges) > 2 and edges[-3] == edges[-2]:
            del edges[-3:-1]
    return text.encode(), tuple(edges)


@lru_cache(maxsize=16)
def _compile(text: str, *, observed: bool = False) -> Template:
    """Compile a template; an observed one says what it does with contents.

    Raises:
        ConfigError: it is no Jinja2 template.
    """
    import jinja2
    from jinja2.ext import Extension, loopcontrols
    from jinja2.nodes import CallBlock, Node
    from jinja2.sandbox import ImmutableSandboxedEnvironment

    class Generation(Extension):
        """`{% generation %}`: marks what is inside."""

        tags = {"generation"}  # noqa: RUF012  # jinja2's own protocol

        def parse(self, parser: Any) -> Node:
            line = next(parser.stream).lineno
            body = parser.parse_statements(("name:endgeneration",), drop_needle=True)
            return CallBlock(self.call_method("_mark"), [], [], body).set_lineno(line)

        def _mark(self, caller: Any) -> str:
            return f"{_BEGIN}{caller()}{_END}"

    environment = ImmutableSandboxedEnvironment(
        trim_blocks=True, lstrip_blocks=True, extensions=[Generation, loopcontrols]
    )
    environment.filters["tojson"] = _tojson
    del environment.filters["random"]
    environment.globals["raise_exception"] = _raise
    del environment.globals["lipsum"]
    if observed:
        observe(environment)
    try:
        return environment.from_string(text)
    except jinja2.TemplateSyntaxError as error:
        raise ConfigError(f"chat template: line {error.lineno}: {error.message}") from error


def _tojson(
    value: Any,
    ensure_ascii: bool = False,  # as in transformers
    indent: int | None = None,
    separators: tuple[str, str] | None = None,
    sort_keys: bool = False,
) -> str:
    """As in transformers: without the escapes of HTML that Jinja2's own filter writes."""
    return json.dumps(
        value, ensure_ascii=ensure_ascii, indent=indent, separators=separators, sort_keys=sort_keys
    )


def _raise(message: str) -> NoReturn:
    raise MessagesError(message)
