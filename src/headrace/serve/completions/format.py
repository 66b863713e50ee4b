"""Tokens of a request -> OpenAI's response: frames of an event stream, or one JSON object.

A frame is put together from constant parts and the two that change, the text and the finish reason; building an
object for each token would cost ten times as much.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import orjson

from headrace.generation import Token
from headrace.serve.completions.model import ServedModel
from headrace.serve.completions.offsets import TextOffsets
from headrace.serve.completions.parse import ParsedRequest
from headrace.serve.protocol import APIError
from headrace.sink import LOWEST_LOGPROB
from headrace.types import Prediction

DONE = b"data: [DONE]\n\n"


@dataclass(frozen=True, slots=True)
class TokenLogprob:
    """A token, its log-probability (None for a prompt's first), the likeliest tokens, its offset in the text."""

    token_id: int
    logprob: float | None
    top: Sequence[tuple[int, float]]
    offset: int


class ResponseFormatter:
    """Formats what has been generated for one request.

    Args:
        request: the request.
        model: gives tokens their names.
    """

    def __init__(self, request: ParsedRequest, model: ServedModel) -> None:
        self._request, self._model = request, model
        count = len(request.tokens.requests)
        self._texts: list[list[str]] = [[] for _ in range(count)]
        self._logprobs: list[list[TokenLogprob]] = [[] for _ in range(count)]
        self._reasons: list[str | None] = [None] * count
        self._completion_tokens = [0] * count
        self._cached_tokens = [0] * count
        self._started = [False] * count
        self._offsets = [TextOffsets(self._echoed(i)) for i in range(count)]
        self._head = b'data: {"id":%b,"object":%b,"created":%d,"model":%b,"choices":[' % (
            orjson.dumps(request.id),
            b'"chat.completion.chunk"' if request.chat else b'"text_completion"',
            request.created,
            orjson.dumps(model.name),
        )
        self._tail = b'],"usage":null}\n\n' if request.include_usage else b"]}\n\n"

    # ---- streaming ----

    def opening(self) -> bytes:
        """Frames before the first token: the role of a chat message."""
        if not self._request.chat:
            return b""
        return b"".join(
            b'%b{"index":%d,"delta":{"role":"assistant","content":""},"logprobs":null,"finish_reason":null}%b'
            % (self._head, i, self._tail)
            for i in range(len(self._reasons))
        )

    def frames(self, tokens: Iterable[tuple[int, Token]]) -> bytes:
        """Frames for tokens that arrived together, at most one for each choice.

        Args:
            tokens: (choice, token) in the order of generation.

        Raises:
            APIError: a sample failed.
        """
        by_choice: dict[int, list[Token]] = {}
        for choice, token in tokens:
            by_choice.setdefault(choice, []).append(token)
        return b"".join(self._frame(choice, group) for choice, group in by_choice.items())

    def closing(self) -> bytes:
        """Frames after the last token."""
        if not self._request.include_usage:
            return DONE
        return self._head + b'],"usage":' + orjson.dumps(self.usage()) + b"}\n\n" + DONE

    def _frame(self, choice: int, tokens: Sequence[Token]) -> bytes:
        request = self._request
        text = tokens[0].text if len(tokens) == 1 else "".join(token.text for token in tokens)
        entries: list[TokenLogprob] = []
        reason = None
        for token in tokens:
            self._cached_tokens[choice] = token.cached_tokens
            self._completion_tokens[choice] += token.token_id is not None
            if request.logprobs:
                entries += self._entries(choice, token)
            if token.prediction is not None:
                reason = _finish_reason(token.prediction)
        if not self._started[choice]:
            self._started[choice] = True
            text = self._echoed(choice) + text
        if not text and not entries and reason is None:
            return b""
        finish = b"null" if reason is None else b'"%b"' % reason.encode()
        logprobs = orjson.dumps(self._logprobs_object(entries)) if entries else b"null"
        content = orjson.dumps(text)
        tail = self._tail
        if request.usage_always:
            tail = b'],"usage":' + orjson.dumps(self.usage()) + b"}\n\n"
        if request.chat:
            return b'%b{"index":%d,"delta":{"content":%b},"logprobs":%b,"finish_reason":%b}%b' % (
                self._head, choice, content, logprobs, finish, tail,
            )  # fmt: skip
        return b'%b{"index":%d,"text":%b,"logprobs":%b,"finish_reason":%b}%b' % (
            self._head, choice, content, logprobs, finish, tail,
        )  # fmt: skip

    # ---- one object ----

    def add(self, tokens: Iterable[tuple[int, Token]]) -> None:
        """Keep tokens for `response`.

        Raises:
            APIError: a sample failed.
        """
        for choice, token in tokens:
            self._cached_tokens[choice] = token.cached_tokens
            self._completion_tokens[choice] += token.token_id is not None
            self._texts[choice].append(token.text)
            if self._request.logprobs:
                self._logprobs[choice] += self._entries(choice, token)
            if token.prediction is not None:
                self._reasons[choice] = _finish_reason(token.prediction)

    def response(self) -> dict[str, Any]:
        """The response, after all samples have ended."""
        request = self._request
        choices = []
        for i, reason in enumerate(self._reasons):
            text = self._echoed(i) + "".join(self._texts[i])
            logprobs = None
            if request.logprobs:
                # Tokens of a stop string were generated, but their text is cut off.
                logprobs = self._logprobs_object(self._logprobs[i], last_offset=len(text))
            choice: dict[str, Any] = {"index": i, "logprobs": logprobs, "finish_reason": reason}
            if request.chat:
                choice["message"] = {"role": "assistant", "content": text, "refusal": None}
            else:
                choice["text"] = text
            choices.append(choice)
        return {
            "id": request.id,
            "object": "chat.completion" if request.chat else "text_completion",
            "created": request.created,
            "model": self._model.name,
            "choices": choices,
            "usage": self.usage(),
        }

    def usage(self) -> dict[str, Any]:
        """Tokens so far; a prompt counts once, however many samples it has."""
        prompt = sum(len(ids) for ids, _ in self._request.prompts)
        completion = sum(self._completion_tokens)
        return {
            "prompt_tokens": prompt,
            "completion_tokens": completion,
            "total_tokens": prompt + completion,
            # Of a prompt's samples the first one: the others find what it has computed.
            "prompt_tokens_details": {"cached_tokens": sum(self._cached_tokens[:: self._request.n])},
        }

    # ---- both ----

    def _echoed(self, choice: int) -> str:
        """The prompt that a choice's text begins with."""
        return self._request.prompts[choice // self._request.n][1] if self._request.echo else ""

    def _entries(self, choice: int, token: Token) -> list[TokenLogprob]:
        """Log-probabilities of a token, and of the prompt before the first one."""
        entries: list[TokenLogprob] = []
        offsets, model = self._offsets[choice], self._model
        if token.prompt_logprobs is not None and self._request.echo:
            ids = token.request.token_ids
            tops: Sequence[Sequence[tuple[int, float]]] = token.prompt_top or [()] * len(ids)
            for one, logprob, top in zip(ids, token.prompt_logprobs, tops, strict=True):
                offset = offsets.next(model.token_bytes(one), model.token_name(one))
                entries.append(TokenLogprob(one, logprob, top, offset))
            offsets.end_prompt()
        if token.token_id is not None and token.logprob is not None:
            offset = offsets.next(model.token_bytes(token.token_id), "")
            entries.append(TokenLogprob(token.token_id, token.logprob, token.top, offset))
        return entries

    def _logprobs_object(
        self, entries: Sequence[TokenLogprob], *, last_offset: int | None = None
    ) -> dict[str, Any]:
        name = self._model.token_name
        if self._request.chat:
            return {
                "content": [
                    self._chat_logprob(entry.token_id, entry.logprob)
                    | {"top_logprobs": [self._chat_logprob(other, value) for other, value in entry.top]}
                    for entry in entries
                ],
                "refusal": None,
            }
        tops: list[dict[str, float] | None] = []
        for entry in entries:
            if entry.logprob is None:
                tops.append(None)
                continue
            top: dict[str, float] = {}
            for other, value in (*entry.top, (entry.token_id, entry.logprob)):
                top.setdefault(name(other), max(value, LOWEST_LOGPROB))
            tops.append(top)
        offsets = [entry.offset for entry in entries]
        return {
            "tokens": [name(entry.token_id) for entry in entries],
            "token_logprobs": [
                None if entry.logprob is None else max(entry.logprob, LOWEST_LOGPROB) for entry in entries
            ],
            "top_logprobs": tops,
            "text_offset": offsets if last_offset is None else [min(one, last_offset) for one in offsets],
        }

    def _chat_logprob(self, token_id: int, logprob: float | None) -> dict[str, Any]:
        value = LOWEST_LOGPROB if logprob is None else max(logprob, LOWEST_LOGPROB)
        return {
            "token": self._model.token_name(token_id),
            "logprob": value,
            "bytes": list(self._model.token_bytes(token_id)),
        }


def _finish_reason(prediction: Prediction) -> str:
    if prediction.error is not None:
        raise APIError(500, f"The sample failed: {prediction.error['message']}.", code="sample_failed")
    return prediction.finish_reason
