"""A prompt's prefix is computed once for each API key, reported as OpenAI reports it, and survives a kill."""

import contextlib

import openai
import pytest
from starlette.testclient import TestClient

from headrace.generation import PrefixCacheOptions
from headrace.serve.app import ModelServer
from headrace.serve.completions import ServedModel
from headrace.serve.options import ServeOptions

PROMPT = "the water turns a wheel and falls again under stone " * 2 + "and"
WHOLE = len(PROMPT) // 32 * 32
BODY = {"prompt": PROMPT, "max_tokens": 12, "temperature": 0}
KEYS = ("first key", "second key")


@contextlib.contextmanager
def in_process(model, state, **options):
    """A client of a server in this process."""
    made = ServeOptions(api_keys=list(KEYS), **options)

    def load(_):
        return ServedModel(model, name="tiny", dtype="float32", prefix_cache=made.prefix_cache)

    server = ModelServer("tiny", load, state=state, options=made, redact=str)
    with TestClient(server.app, base_url="http://127.0.0.1") as client:
        yield client
    server.close()


def post(client, key, body=BODY):
    answer = client.post("/v1/completions", json=body, headers={"authorization": f"Bearer {key}"})
    assert answer.status_code == 200, answer.text
    return answer.json()


def cached(answer):
    return answer["usage"]["prompt_tokens_details"]["cached_tokens"]


def test_openais_client_reads_the_cached_tokens_which_outlive_a_kill(new_server, hf_dir, tmp_path, caplog):
    """With a directory: whole blocks are there after SIGKILL, for their key only; a flipped bit is computed again."""
    store = tmp_path / "prefixes"
    server = new_server(hf_dir, "--prefix-cache", store, "--api-key", KEYS[0], "--api-key", KEYS[1])
    model = server.ready["model"]
    with openai.OpenAI(base_url=server.url + "/v1", api_key=KEYS[0], max_retries=0, timeout=60) as client:
        fresh, again = (client.completions.create(model=model, **BODY) for _ in range(2))
        *_, last = client.completions.create(
            model=model, stream=True, stream_options={"include_usage": True}, **BODY
        )
    assert fresh.usage.prompt_tokens_details.cached_tokens == 0
    assert again.usage.prompt_tokens_details.cached_tokens == WHOLE
    assert last.usage == again.usage
    assert again.usage.prompt_tokens == len(PROMPT)
    assert again.choices[0].text == fresh.choices[0].text

    def files():
        return {path for path in store.glob("*/*") if "." not in path.name}

    server.until(lambda: len(files()) == WHOLE // 32)
    of_first_key = files()
    answer = server.post("/v1/completions", BODY, headers={"authorization": f"Bearer {KEYS[1]}"}).json()
    assert cached(answer) == 0
    server.until(lambda: len(files()) == 2 * len(of_first_key))
    server.kill()

    for path in files() - of_first_key:
        content = bytearray(path.read_bytes())
        content[len(content) // 2] ^= 16
        path.write_bytes(content)
    options = PrefixCacheOptions(directory=str(store))
    with in_process(hf_dir, tmp_path / "state", prefix_cache=options) as client:
        first, second = (post(client, key) for key in KEYS)
        assert cached(first) == WHOLE
        assert cached(second) == 0
        assert first["choices"] == second["choices"]
        assert first["choices"][0]["text"] == fresh.choices[0].text
    assert "it is computed again" in caplog.text


def test_keys_share_prefixes_only_where_that_is_allowed(hf_dir, tmp_path):
    for share, expected in ((False, 0), (True, WHOLE)):
        with in_process(hf_dir, tmp_path / str(share), share_prefixes=share) as client:
            assert cached(post(client, KEYS[0])) == 0
            assert cached(post(client, KEYS[1])) == expected
            assert cached(post(client, KEYS[0])) == WHOLE


def test_the_hit_rate_is_in_the_metrics_and_in_the_plots(hf_dir, tmp_path):
    with in_process(hf_dir, tmp_path / "state") as client:
        headers = {"authorization": f"Bearer {KEYS[0]}"}
        post(client, KEYS[0])
        post(client, KEYS[0], BODY | {"n": 2})
        lines = client.get("/metrics", headers=headers).text.splitlines()
        values = {
            line.partition("{")[0]: float(line.rpartition(" ")[2])
            for line in lines
            if line.startswith("headrace:prefix_cache")
        }
    assert values["headrace:prefix_cache_queries_total"] == 3 * len(PROMPT)
    assert values["headrace:prefix_cache_hits_total"] == 2 * WHOLE
    assert values["headrace:prefix_cache_hit_rate"] == pytest.approx(2 * WHOLE / (3 * len(PROMPT)))
    assert values["headrace:prefix_cache_memory_bytes"] > 0


def test_scores_of_a_prompt_are_the_same_behind_a_cached_prefix(hf_dir, tmp_path):
    """`echo` with log-probabilities computes every token of the prompt, so nothing is taken from the cache."""
    scored = BODY | {"echo": True, "logprobs": 1}
    with in_process(hf_dir, tmp_path / "state") as client:
        before = post(client, KEYS[0], scored)
        assert cached(post(client, KEYS[0])) == WHOLE
        after = post(client, KEYS[0], scored)
    assert cached(after) == 0
    assert before["choices"] == after["choices"]
