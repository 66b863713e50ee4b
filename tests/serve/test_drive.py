"""The engine's thread and the loop: tokens in order, several at once for who lags, failures told to everyone."""

import asyncio
import threading

import pytest

from headrace.errors import WorkerError
from headrace.generation import Request
from headrace.generation.request import Token
from headrace.serve.drive import Call, Driver
from headrace.serve.metrics import Metrics
from headrace.types import Prediction


class ScriptedEngine:
    """Makes `length` tokens for each request; may be held, and may break at a step."""

    def __init__(self, *, length=5, breaks_at=None):
        self.length, self.breaks_at = length, breaks_at
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
        if self.steps == self.breaks_at:
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


def call_of(name, *, samples=1):
    return Call(
        name, [Request(prompt_id=f"{name}/0", sample_index=i, token_ids=(1,)) for i in range(samples)]
    )


def drive(engine, talk):
    """Run talk(driver) with the engine's thread beside it."""

    async def main():
        failures = []
        metrics = Metrics("scripted")
        driver = Driver(engine, loop=asyncio.get_running_loop(), metrics=metrics, on_failure=failures.append)
        try:
            return await asyncio.wait_for(talk(driver), 20), failures
        finally:
            engine.go.release(1000)
            await asyncio.to_thread(driver.stop)

    return asyncio.run(main())


def test_every_token_comes_once_and_in_order():
    engine = ScriptedEngine(length=7)
    engine.go.release(1000)

    async def talk(driver):
        calls = [call_of(f"c{i}", samples=3) for i in range(4)]
        for call in calls:
            driver.submit(call)
        return [[piece async for pieces in call for piece in pieces] for call in calls]

    found, _ = drive(engine, talk)
    for pieces in found:
        for choice in range(3):
            assert [token.token_id for at, token in pieces if at == choice] == list(range(7))


def test_a_reader_that_lags_finds_several_tokens_at_once():
    engine = ScriptedEngine(length=6)

    async def talk(driver):
        call = call_of("slow")
        driver.submit(call)
        engine.go.release(1000)
        while not call.done:  # noqa: ASYNC110  nothing tells a reader that is not waiting
            await asyncio.sleep(0)
        return [len(pieces) async for pieces in call]

    found, _ = drive(engine, talk)
    assert found == [6]


def test_who_leaves_is_cancelled_and_nobody_else():
    engine = ScriptedEngine(length=50)

    async def talk(driver):
        stays, leaves = call_of("stays"), call_of("leaves", samples=2)
        driver.submit(stays)
        driver.submit(leaves)
        engine.go.release(3)
        await anext(leaves)
        driver.release(leaves)
        engine.go.release(1000)
        return [token.token_id async for pieces in stays for _, token in pieces]

    found, _ = drive(engine, talk)
    assert found == list(range(50))
    assert engine.cancelled == [("leaves/0", 0), ("leaves/0", 1)]


def test_an_engine_that_fails_is_said_to_those_who_wait_and_to_those_who_come():
    engine = ScriptedEngine(breaks_at=2)
    engine.go.release(1000)

    async def talk(driver):
        call = call_of("unlucky")
        driver.submit(call)
        with pytest.raises(WorkerError, match="the device fell off"):
            async for _ in call:
                pass
        with pytest.raises(WorkerError, match="the device fell off"):
            driver.submit(call_of("late"))

    _, failures = drive(engine, talk)
    assert [str(failure) for failure in failures] == ["the device fell off"]


def test_idle_means_that_no_call_is_open():
    engine = ScriptedEngine(length=2)
    engine.go.release(1000)

    async def talk(driver):
        assert driver.idle.is_set()
        call = call_of("one")
        driver.submit(call)
        assert not driver.idle.is_set()
        async for _ in call:
            pass
        driver.release(call)
        assert driver.idle.is_set()
        return driver.samples

    found, _ = drive(engine, talk)
    assert found == 0
