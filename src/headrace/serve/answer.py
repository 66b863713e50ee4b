"""Tokens of a call -> OpenAI's answer: frames of an event stream, or one JSON object.

Frames are put together from parts that stay the same and two that do not, the text and the finish reason; a
model object for each token would cost ten times as much.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import orjson

from headrace.generation import Token
from headrace.serve.ask import Asked
from headrace.serve.refusal import Refusal
from headrace.serve.served import Served
from headrace.sink import LOWEST_LOGPROB
from headrace.types import Prediction

DONE = b"data: [DONE]\n\n"
Top = Sequence[tuple[int, float]]


class Answer:
    """What has come for one request so far.

    Args:
        asked: the request.
        served: names tokens.
    """

    def __init__(self, asked: Asked, served: Served) -> None:
        self._asked, self._served = asked, served
        count = len(asked.call.requests)
        self._texts: list[list[str]] = [[] for _ in range(count)]
        self._said: list[list[Any]] = [[] for _ in range(count)]
        """Log-probabilities by choice, one entry a token."""
        self._reasons: list[str | None] = [None] * count
        self._made = [0] * count
        self._begun = [False] * count
        self._offsets = [0] * count
        self._head = b'data: {"id":%b,"object":%b,"created":%d,"model":%b,"choices":[' % (
            orjson.dumps(asked.id),
            b'"chat.completion.chunk"' if asked.chat else b'"text_completion"',
            asked.created,
            orjson.dumps(served.name),
        )
        self._tail = b'],"usage":null}\n\n' if asked.include_usage else b"]}\n\n"

    # ---- streaming ----

    def opening(self) -> bytes:
        """Frames before the first token: whose turn it is."""
        if not self._asked.chat:
            return b""
        return b"".join(
            b'%b{"index":%d,"delta":{"role":"assistant","content":""},"logprobs":null,"finish_reason":null}%b'
            % (self._head, i, self._tail)
            for i in range(len(self._made))
        )

    def frames(self, pieces: Iterable[tuple[int, Token]]) -> bytes:
        """Frames for tokens that came together, at most one for each choice.

        Raises:
            Refusal: a sample failed.
        """
        found: dict[int, list[Token]] = {}
        for choice, token in pieces:
            found.setdefault(choice, []).append(token)
        return b"".join(self._frame(choice, tokens) for choice, tokens in found.items())

    def closing(self) -> bytes:
        """Frames behind the last token."""
        if not self._asked.include_usage:
            return DONE
        return self._head + b'],"usage":' + orjson.dumps(self.usage()) + b"}\n\n" + DONE

    def _frame(self, choice: int, tokens: Sequence[Token]) -> bytes:
        asked = self._asked
        text = tokens[0].text if len(tokens) == 1 else "".join(token.text for token in tokens)
        said: list[Any] = []
        reason = None
        for token in tokens:
            self._count(choice, token)
            if asked.logprobs:
                said += self._logprobs(choice, token)
            if token.prediction is not None:
                reason = self._ended(choice, token.prediction)
        if not self._begun[choice]:
            self._begun[choice] = True
            if asked.echo:
                text = asked.prompts[choice // asked.n][1] + text
        if not text and not said and reason is None:
            return b""
        end = b"null" if reason is None else b'"%b"' % reason.encode()
        logprobs = orjson.dumps(self._shaped(said)) if said else b"null"
        words = orjson.dumps(text)
        tail = self._tail
        if asked.usage_always:
            tail = b'],"usage":' + orjson.dumps(self.usage()) + b"}\n\n"
        if asked.chat:
            return b'%b{"index":%d,"delta":{"content":%b},"logprobs":%b,"finish_reason":%b}%b' % (
                self._head, choice, words, logprobs, end, tail,
            )  # fmt: skip
        return b'%b{"index":%d,"text":%b,"logprobs":%b,"finish_reason":%b}%b' % (
            self._head, choice, words, logprobs, end, tail,
        )  # fmt: skip

    # ---- whole ----

    def take(self, pieces: Iterable[tuple[int, Token]]) -> None:
        """Keep tokens for the whole answer.

        Raises:
            Refusal: a sample failed.
        """
        for choice, token in pieces:
            self._count(choice, token)
            self._texts[choice].append(token.text)
            if self._asked.logprobs:
                self._said[choice] += self._logprobs(choice, token)
            if token.prediction is not None:
                self._reasons[choice] = self._ended(choice, token.prediction)

    def whole(self) -> dict[str, Any]:
        """The answer, when all samples ended."""
        asked = self._asked
        choices = []
        for i, reason in enumerate(self._reasons):
            text = "".join(self._texts[i])
            logprobs = self._shaped(self._said[i]) if asked.logprobs else None
            choice: dict[str, Any] = {"index": i, "logprobs": logprobs, "finish_reason": reason}
            if asked.chat:
                choice["message"] = {"role": "assistant", "content": text, "refusal": None}
            else:
                choice["text"] = asked.prompts[i // asked.n][1] + text if asked.echo else text
            choices.append(choice)
        return {
            "id": asked.id,
            "object": "chat.completion" if asked.chat else "text_completion",
            "created": asked.created,
            "model": self._served.name,
            "choices": choices,
            "usage": self.usage(),
        }

    def usage(self) -> dict[str, int]:
        """Tokens so far; a prompt counts once, however many samples it has."""
        prompt = sum(len(ids) for ids, _ in self._asked.prompts)
        made = sum(self._made)
        return {"prompt_tokens": prompt, "completion_tokens": made, "total_tokens": prompt + made}

    # ---- both ----

    def _count(self, choice: int, token: Token) -> None:
        if token.token_id is not None:
            self._made[choice] += 1

    @staticmethod
    def _ended(_: int, prediction: Prediction) -> str:
        if prediction.error is not None:
            raise Refusal(500, f"The sample failed: {prediction.error['message']}.", code="sample_failed")
        return prediction.finish_reason

    def _logprobs(self, choice: int, token: Token) -> list[tuple[int, float | None, Top, int]]:
        """(id, log-probability, likeliest, offset in the text) of a token, and of the prompt before the first."""
        entries: list[tuple[int, float | None, Top, int]] = []
        if token.prompt_logprobs is not None and self._asked.echo:
            ids = token.request.token_ids
            top: Sequence[Top] = token.prompt_top or [()] * len(ids)
            for one, logprob, likeliest in zip(ids, token.prompt_logprobs, top, strict=True):
                entries.append((one, logprob, likeliest, self._offset(choice, one)))
        if token.token_id is not None and token.logprob is not None:
            entries.append((token.token_id, token.logprob, token.top, self._offset(choice, token.token_id)))
        return entries

    def _offset(self, choice: int, token_id: int) -> int:
        at = self._offsets[choice]
        self._offsets[choice] += len(self._served.token_name(token_id))
        return at

    def _shaped(self, said: Sequence[tuple[int, float | None, Top, int]]) -> dict[str, Any]:
        name = self._served.token_name
        if self._asked.chat:
            return {
                "content": [
                    self._spoken(one, logprob)
                    | {"top_logprobs": [self._spoken(other, value) for other, value in likeliest]}
                    for one, logprob, likeliest, _ in said
                ],
                "refusal": None,
            }
        tops: list[dict[str, float] | None] = []
        for one, logprob, likeliest, _ in said:
            if logprob is None:
                tops.append(None)
                continue
            shown: dict[str, float] = {}
            for other, value in (*likeliest, (one, logprob)):
                shown.setdefault(name(other), max(value, LOWEST_LOGPROB))
            tops.append(shown)
        return {
            "tokens": [name(one) for one, _, _, _ in said],
            "token_logprobs": [
                None if logprob is None else max(logprob, LOWEST_LOGPROB) for _, logprob, _, _ in said
            ],
            "top_logprobs": tops,
            "text_offset": [at for _, _, _, at in said],
        }

    def _spoken(self, token_id: int, logprob: float | None) -> dict[str, Any]:
        value = LOWEST_LOGPROB if logprob is None else max(logprob, LOWEST_LOGPROB)
        return {
            "token": self._served.token_name(token_id),
            "logprob": value,
            "bytes": self._served.token_bytes(token_id),
        }
