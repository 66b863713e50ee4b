"""A record -> its text and which bytes of it are learned, by the names of its fields; or what is wrong with it."""

from __future__ import annotations

import itertools
import re
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Final

from headrace.errors import ConfigError, SourceError
from headrace.ingestion.fields import lookup, too_long
from headrace.ingestion.options import RECORD_FIELDS, FieldOptions
from headrace.ingestion.records.chat import ConversationTemplate
from headrace.ingestion.records.messages import (
    MessagesError,
    from_json,
    messages_of,
    strings_of,
    strings_of_plain,
    without_null,
)
from headrace.tokens import PartMarks

BAD: Final = "bad_conversation"
_MAX_KINDS: Final = 1024
_SEPARATOR: Final = "\n"
"""Between the given and the learned part of pairs that do not say how they are joined."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Fault:
    """Why a record has no text for us."""

    at: int
    """Byte of the fault in the record."""
    reason: str
    detail: str


class RecordRenderer:
    """Renders records of one source."""

    def __init__(self, fields: FieldOptions) -> None:
        self._fields = fields
        self._names = {
            name: (name, *fields.names_of(name)) for names in RECORD_FIELDS.values() for name in names
        }
        self._template = None if fields.chat is None else ConversationTemplate(fields.chat)
        special = () if fields.chat is None else sorted(fields.chat.special_tokens, key=len, reverse=True)
        self._special = re.compile("|".join(map(re.escape, special))) if special else None
        self._kinds: dict[tuple[str, ...], str | None] = {}

    def kind(self, names: Collection[str]) -> str | None:
        """Which kind of record has these fields; None: none.

        Raises:
            MessagesError: more than one.
        """
        kinds = [
            kind
            for kind, needed in RECORD_FIELDS.items()
            if self._fields.record in ("auto", kind) and all(self._name(one, names) for one in needed)
        ]
        if len(kinds) > 1:
            raise MessagesError(
                f"its fields make it a record of {' and of '.join(kinds)}: say which with record (--record)"
            )
        return kinds[0] if kinds else None

    def kind_of_columns(self, names: Collection[str], *, where: str) -> str | None:
        """`kind` of a file whose columns have these names; None for text.

        Raises:
            SourceError: more than one.
        """
        if self._fields.record in ("auto", "text") and self._fields.text_field in names:
            return None
        try:
            return self.kind(names)
        except MessagesError as error:
            raise SourceError(f"{where}: {error}") from None

    def has_columns(self, names: Collection[str]) -> bool:
        """Whether a file whose columns have these names has all that are read."""
        has_text = self._fields.record in ("auto", "text") and self._fields.text_field in names
        return set(self._fields.keep) <= set(names) and (has_text or self.kind(names) is not None)

    def columns(self, kind: str) -> tuple[str, ...]:
        """All names that the fields of a kind may have."""
        optional = {
            "messages": ("tools", "chat_template_kwargs"),
            "question": ("context", "id"),
            "preference": ("prompt", "tools", "chat_template_kwargs"),
        }
        names = [name for field in RECORD_FIELDS[kind] for name in self._names[field]]
        names += [name for field in optional.get(kind, ()) for name in (field, *self._fields.names_of(field))]
        return tuple(dict.fromkeys([*names, "id"]))

    def render(self, record: Any) -> tuple[bytes, PartMarks | None] | Fault:
        """The text, and its marks: None where the whole text is learned, as of a record with a text field."""
        value = lookup(record, self._fields.text_field) if self._fields.record in ("auto", "text") else None
        if isinstance(value, str):
            return self._checked(value.encode(), None)
        if value is not None or not isinstance(record, dict):
            return Fault(at=0, reason="no_text", detail=no_text(record, value, self._fields))
        try:
            names = tuple(record)
            if names not in self._kinds:
                if len(self._kinds) >= _MAX_KINDS:
                    self._kinds.clear()
                self._kinds[names] = self.kind(names)
            kind = self._kinds[names]
            if kind is None:
                return Fault(at=0, reason="no_text", detail=no_text(record, value, self._fields))
            return self._render(kind, record)
        except MessagesError as error:
            name = f"conversation {record['id']!r}: " if isinstance(record.get("id"), str | int) else ""
            return Fault(at=0, reason=BAD, detail=f"{name}{error}")

    def _name(self, field: str, names: Collection[str]) -> str | None:
        """The name under which a record has a field."""
        return next((name for name in reversed(self._names[field]) if name in names), None)

    def _value(self, record: Mapping[str, Any], field: str) -> Any:
        name = self._name(field, record) if field in self._names else None
        if name is None:
            others = [one for one in self._fields.names_of(field) if one in record]
            name = others[0] if others else field
        return record.get(name)

    def _render(self, kind: str, record: dict[str, Any]) -> tuple[bytes, PartMarks | None] | Fault:
        if self._fields.pairs is not None:
            return self._columns(kind, record)
        if kind == "preference":
            raise MessagesError(
                "chosen and rejected are two answers, not a document: ingest them as rows with samples of layout pairs "
                "(--samples --layout pairs)"
            )
        if kind == "messages":
            return self._chat(record, messages_of(self._value(record, "messages")))
        given, learned = (self._value(record, name) for name in RECORD_FIELDS[kind])
        if kind == "question":
            given, learned = _with_context(self._value(record, "context"), given), _first_answer(learned)
        if isinstance(given, list):
            before, after = messages_of(given), messages_of(learned)
            return self._chat(record, [*before, *after], given=len(before))
        _check_strings(zip(RECORD_FIELDS[kind], (given, learned), strict=True))
        if self._fields.template is not None:
            turns = [{"role": "user", "content": given}, {"role": "assistant", "content": learned}]
            return self._chat(record, turns)
        begin = (given if kind == "prompt" else given + _SEPARATOR).encode()
        text = begin + learned.encode()
        edges = (0 if self._fields.learn == "all" else len(begin), len(text))
        # The borders of what is learned are kept where all is, so that the parts are encoded by themselves alike.
        return self._checked(text, PartMarks(edges=edges, cuts=(len(begin),), has_special=False))

    def _columns(self, kind: str, record: dict[str, Any]) -> tuple[bytes, PartMarks | None] | Fault:
        """The texts of a row's columns, one after the other, cut between them."""
        if kind == "messages":
            raise MessagesError("a conversation is no pair: it becomes a document, without layout pairs")
        if kind == "preference":
            texts, has_special = self._preference(record)
        else:
            given, learned = (self._value(record, name) for name in RECORD_FIELDS[kind])
            if kind == "question":
                given, learned = _with_context(self._value(record, "context"), given), _first_answer(learned)
            if isinstance(given, list):
                before, after = messages_of(given), messages_of(learned)
                texts, has_special = self._given_and_learned(record, before, after), True
            else:
                _check_strings(zip(RECORD_FIELDS[kind], (given, learned), strict=True))
                texts, has_special = (given, learned), False
        if not has_special:
            for name in self._fields.pairs.reserved if self._fields.pairs is not None else ():
                if any(name in text for text in texts):
                    raise MessagesError(f"it holds {name!r}, which is a special token of the tokenizer")
        parts = [text.encode() for text in texts]
        ends = tuple(itertools.accumulate(map(len, parts)))
        marks = PartMarks(edges=(ends[-2], ends[-1]), cuts=ends[:-1], has_special=has_special)
        return self._checked(b"".join(parts), marks)

    def _preference(self, record: dict[str, Any]) -> tuple[tuple[str, ...], bool]:
        """Prompt, chosen and rejected answer; the messages that both answers begin with are the prompt."""
        prompt, chosen, rejected = (self._value(record, name) for name in ("prompt", "chosen", "rejected"))
        if not isinstance(chosen, list):
            prompt = "" if prompt is None else prompt
            _check_strings((("prompt", prompt), ("chosen", chosen), ("rejected", rejected)))
            return (prompt, chosen, rejected), False
        answers = [messages_of(chosen), messages_of(rejected)]
        if prompt is None:
            pairs = zip(*answers, strict=False)
            shared = len(list(itertools.takewhile(lambda pair: pair[0] == pair[1], pairs)))
            before, answers = answers[0][:shared], [one[shared:] for one in answers]
        else:
            before = messages_of(prompt)
        if not all(answers):
            raise MessagesError("its chosen and rejected messages do not differ")
        (given, first), (other, second) = (self._given_and_learned(record, before, one) for one in answers)
        if given != other:
            raise MessagesError(
                "the chat template writes the prompt otherwise before each of the two answers"
            )
        return (given, first, second), True

    def _given_and_learned(
        self, record: Mapping[str, Any], before: list[dict[str, Any]], after: list[dict[str, Any]]
    ) -> tuple[str, str]:
        """The text of the first messages with the generation prompt, and what the others add to it."""
        messages = [*before, *after]
        template, values = self._conversation(record, messages)
        text, ((begin, _),) = template.text(messages, learn="answers", given=len(before), values=values)
        return text[:begin], text[begin:]

    def _chat(
        self, record: Mapping[str, Any], messages: list[dict[str, Any]], *, given: int | None = None
    ) -> tuple[bytes, PartMarks | None] | Fault:
        template, values = self._conversation(record, messages)
        text, edges = template.encoded(messages, learn=self._fields.learn, given=given, values=values)
        return self._checked(text, PartMarks(edges=edges, cuts=(), has_special=True))

    def _conversation(
        self, record: Mapping[str, Any], messages: list[dict[str, Any]]
    ) -> tuple[ConversationTemplate, dict[str, Any]]:
        """The template that writes a record's messages, and its other variables."""
        if self._template is None:
            raise ConfigError(
                "a record has messages, and the tokenizer has no chat template to write them by. Name a file with "
                "template (--template FILE), or take the tokenizer of an instruct model"
            )
        if self._special is not None:
            strings = strings_of_plain(messages) or strings_of(messages)
            match = self._special.search("\0".join(strings))  # no special token holds a NUL
            if match is not None:
                raise MessagesError(
                    f"a message holds {match[0]!r}, a special token, with which it could forge a turn"
                )
        values: dict[str, Any] = {}
        tools = from_json(self._value(record, "tools"))
        if tools:
            values["tools"] = without_null(tools)
        values |= record.get("chat_template_kwargs") or {}
        if self._fields.template is not None:
            values = {**record, **values}
        return self._template, values

    def _checked(self, text: bytes, marks: PartMarks | None) -> tuple[bytes, PartMarks | None] | Fault:
        if len(text) > self._fields.max_document_bytes:
            return Fault(at=0, reason="too_long", detail=too_long(len(text), self._fields))
        return text, marks


def _check_strings(values: Iterable[tuple[str, Any]]) -> None:
    for field, value in values:
        if not isinstance(value, str):
            raise MessagesError(f"its {field} is no string but {type(value).__name__}")


def _with_context(context: Any, question: Any) -> Any:
    if context is None or not isinstance(question, str):
        return question
    if not isinstance(context, str):
        raise MessagesError(f"its context is no string but {type(context).__name__}")
    return f"{context}\n\n{question}"


def _first_answer(answers: Any) -> Any:
    """The first answer, as SQuAD has them: {"text": [...]}, [{"text": ...}], a list of strings, or a string.

    A question without an answer has the empty one: the model learns to end there.
    """
    if isinstance(answers, dict):
        answers = answers.get("text")
    if isinstance(answers, list):
        answers = answers[0] if answers else ""
    return answers.get("text") if isinstance(answers, dict) else answers


def no_text(record: Any, value: Any, fields: FieldOptions) -> str:
    """The detail of a reject of a record without a text."""
    kinds = {list: "a list", dict: "an object", str: "a string", bool: "a boolean", type(None): "null"}
    name = fields.text_field
    if not isinstance(record, dict):
        return f"no text field {name!r}: the record is no object but {kinds.get(type(record), 'a number')}"
    if value is not None:
        return f"the text field {name!r} is no string but {kinds.get(type(value), 'a number')}"
    names = ", ".join(sorted(map(str, record))[:12]) or "none"
    return (
        f"no text field {name!r}; the fields are: {names}. Name the right one with text_field (--text-field), or "
        "those of a conversation or a pair with names (--field prompt=...)"
    )
