"""The engine's thread and the loop: tokens in order, several at once for a slow reader, failures reach everyone.

Modules: engine_thread.py, token_stream.py.
"""

import asyncio
import threading

import pytest

from headrace.errors import WorkerError
from headrace.generation import Request, Token
from headrace.serve.engine_thread import EngineThread
from headrace.serve.metrics import Metrics
from headrace.serve.token_stream import TokenStream
from headrace.types import Prediction


class ScriptedEngine:
    """Generates `length` tokens for each request; waits for `go` at each step, and may fail at one."""

    def __init__(self, *, length=5, fails_at=None):
        self.length, self.fails_at = length, fails_at
        self.go = threading.Semaphore(0)
        self.rows, self.cancelled, self.steps = {}, [], 0

    running = property(lambda self: len(self.rows))
    waiting = 0

    def check(self, request):
        pass

    def add(self, request):
        self.rows[request.key] = (request, 0)

    def cancel(self, key):
        self.cancelled.append(key)
        return self.rows.pop(key, None) is not None

    def step(self):
        self.go.acquire()
        self.steps += 1
        if self.steps == self.fails_at:
            raise RuntimeError("the device fell off")
        tokens = []
        for key, (request, made) in list(self.rows.items()):
            last = made + 1 == self.length
            prediction = None
            if last:
                del self.rows[key]
                prediction = Prediction(
                    prompt_id=key[0], sample_index=key[1], prompt="", text="", token_ids=(), finish_reason="length"
                )  # fmt: skip
            else:
                self.rows[key] = (request, made + 1)
            tokens.append(Token(request=request, token_id=made, text=f"{made} ", prediction=prediction))
        return tokens


def stream_of(name, *, samples=1):
    return TokenStream(
        name, [Request(prompt_id=f"{name}/0", sample_index=i, token_ids=(1,)) for i in range(samples)]
    )


def run_with_engine(engine, use):
    """Run use(engine_thread) with the engine's thread beside it."""

    async def main():
        failures = []
        metrics = Metrics("scripted")
        engine_thread = EngineThread(
            engine, loop=asyncio.get_running_loop(), metrics=metrics, on_failure=failures.append
        )
        try:
            return await asyncio.wait_for(use(engine_thread), 20), failures
        finally:
            engine.go.release(1000)
            await asyncio.to_thread(engine_thread.stop)

    return asyncio.run(main())


def test_every_token_comes_once_and_in_order():
    engine = ScriptedEngine(length=7)
    engine.go.release(1000)

    async def use(engine_thread):
        streams = [stream_of(f"c{i}", samples=3) for i in range(4)]
        for stream in streams:
            engine_thread.submit(stream)
        return [[token async for tokens in stream for token in tokens] for stream in streams]

    result, _ = run_with_engine(engine, use)
    for tokens in result:
        for choice in range(3):
            assert [token.token_id for at, token in tokens if at == choice] == list(range(7))


def test_a_reader_that_lags_finds_several_tokens_at_once():
    engine = ScriptedEngine(length=6)

    async def use(engine_thread):
        stream = stream_of("slow")
        engine_thread.submit(stream)
        engine.go.release(1000)
        while not stream.done:  # noqa: ASYNC110  nothing tells a reader that is not waiting
            await asyncio.sleep(0)
        return [len(tokens) async for tokens in stream]

    result, _ = run_with_engine(engine, use)
    assert result == [6]


def test_a_released_stream_is_cancelled_and_no_other():
    engine = ScriptedEngine(length=50)

    async def use(engine_thread):
        stays, leaves = stream_of("stays"), stream_of("leaves", samples=2)
        engine_thread.submit(stays)
        engine_thread.submit(leaves)
        engine.go.release(3)
        await anext(leaves)
        engine_thread.release(leaves)
        engine.go.release(1000)
        return [token.token_id async for tokens in stays for _, token in tokens]

    result, _ = run_with_engine(engine, use)
    assert result == list(range(50))
    assert engine.cancelled == [("leaves/0", 0), ("leaves/0", 1)]


def test_the_failure_of_an_engine_reaches_open_and_new_streams():
    engine = ScriptedEngine(fails_at=2)
    engine.go.release(1000)

    async def use(engine_thread):
        stream = stream_of("unlucky")
        engine_thread.submit(stream)
        with pytest.raises(WorkerError, match="the device fell off"):
            async for _ in stream:
                pass
        with pytest.raises(WorkerError, match="the device fell off"):
            engine_thread.submit(stream_of("late"))

    _, failures = run_with_engine(engine, use)
    assert [str(failure) for failure in failures] == ["the device fell off"]


def test_idle_means_that_no_stream_is_open():
    engine = ScriptedEngine(length=2)
    engine.go.release(1000)

    async def use(engine_thread):
        assert engine_thread.idle.is_set()
        stream = stream_of("one")
        engine_thread.submit(stream)
        assert not engine_thread.idle.is_set()
        async for _ in stream:
            pass
        engine_thread.release(stream)
        assert engine_thread.idle.is_set()
        return engine_thread.samples

    result, _ = run_with_engine(engine, use)
    assert result == 0
