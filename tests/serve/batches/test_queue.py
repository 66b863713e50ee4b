"""A batch keeps its input, ends in time, and what it has committed can be fetched, whatever happens around it.

Modules: queue.py, store.py, results.py, files.py.
"""

import io
import json

import httpx
import openai
import pytest

DONE = ("completed", "failed", "cancelled", "expired")


@pytest.fixture(scope="module")
def slow(new_server, run_dir):
    """Two rows: batches take a while."""
    return new_server(run_dir, "--batch-size", 2)


@pytest.fixture
def client(slow):
    with openai.OpenAI(base_url=slow.url + "/v1", api_key="none", max_retries=0, timeout=60) as made:
        yield made


def start(client, count, *, window="24h", tokens=20):
    lines = [
        {
            "custom_id": f"row {i}", "method": "POST", "url": "/v1/completions",
            "body": {"prompt": f"the {i}", "max_tokens": tokens, "temperature": 0, "ignore_eos": True},
        }
        for i in range(count)
    ]  # fmt: skip
    content = io.BytesIO("".join(json.dumps(line) + "\n" for line in lines).encode())
    file = client.files.create(file=("in.jsonl", content), purpose="batch")
    return client.batches.create(input_file_id=file.id, endpoint="/v1/completions", completion_window=window)


def finished(slow, client, batch, *, limit_s=150):
    slow.until(lambda: client.batches.retrieve(batch.id).status in DONE, limit_s=limit_s)
    return client.batches.retrieve(batch.id)


def lines_of(client, identity):
    return [json.loads(line) for line in client.files.content(identity).text.splitlines()]


def test_a_batch_whose_input_file_is_deleted_answers_every_line(slow, client):
    batch = start(client, 60)
    client.files.delete(batch.input_file_id)
    done = finished(slow, client, batch)
    assert (done.status, done.request_counts.completed) == ("completed", 60)
    assert [line["custom_id"] for line in lines_of(client, done.output_file_id)] == [
        f"row {i}" for i in range(60)
    ]


def test_a_deleted_input_does_not_matter_after_a_kill_either(new_server, run_dir, tmp_path):
    server = new_server(run_dir, "--batch-size", 2, state=tmp_path)
    with openai.OpenAI(base_url=server.url + "/v1", api_key="none", max_retries=0) as client:
        batch = start(client, 40)
        client.files.delete(batch.input_file_id)
        server.until(lambda: client.batches.retrieve(batch.id).request_counts.total == 40)
    server.kill()
    server = new_server(run_dir, "--batch-size", 2, state=tmp_path)
    with openai.OpenAI(base_url=server.url + "/v1", api_key="none", max_retries=0) as client:
        done = finished(server, client, batch)
        assert (done.status, done.request_counts.completed) == ("completed", 40)
        assert server.terminate() == 0
    assert [path.name for path in (tmp_path / "batches").iterdir()] == [f"{batch.id}.json"]


def test_a_batch_that_is_not_done_in_its_window_expires_with_every_line_accounted_for(slow, client):
    running = start(client, 3000, window="2s")
    waiting = start(client, 5, window="1s")
    ended = [finished(slow, client, batch) for batch in (running, waiting)]
    for batch, count in zip(ended, (3000, 5), strict=True):
        assert batch.status == "expired"
        assert batch.expired_at >= batch.expires_at
        assert batch.expired_at - batch.expires_at < 30
        good = lines_of(client, batch.output_file_id) if batch.output_file_id else []
        bad = lines_of(client, batch.error_file_id)
        assert {line["error"]["code"] for line in bad} == {"batch_expired"}
        assert sorted(line["custom_id"] for line in good + bad) == sorted(f"row {i}" for i in range(count))
        counts = batch.request_counts
        assert (counts.total, counts.completed, counts.failed) == (count, len(good), len(bad))
    assert ended[0].request_counts.completed > 0


@pytest.mark.parametrize("window", ["", "24", "tomorrow", "0h", "-1h", "1.5h", "1000000d"])
def test_a_window_without_meaning_is_refused(slow, window):
    answer = slow.post(
        "/v1/batches", {"input_file_id": "file-0", "endpoint": "/v1/completions", "completion_window": window}
    )
    assert answer.status_code == 400
    assert answer.json()["error"]["param"] == "completion_window"


def test_expiry_of_the_output_is_refused_since_it_would_not_be_obeyed(slow):
    body = {
        "input_file_id": "file-0", "endpoint": "/v1/completions",
        "output_expires_after": {"anchor": "created_at", "seconds": 3600},
    }  # fmt: skip
    answer = slow.post("/v1/batches", body)
    assert (answer.status_code, answer.json()["error"]["param"]) == (400, "output_expires_after")


def test_a_disk_that_fails_loses_no_answer_and_names_no_path(new_server, run_dir, tmp_path):
    """The results cannot be written; the next server writes them."""
    server = new_server(run_dir, "--batch-size", 2, state=tmp_path)
    with openai.OpenAI(base_url=server.url + "/v1", api_key="none", max_retries=0) as client:
        batch = start(client, 10)
        stem = batch.id.removeprefix("batch-")
        (tmp_path / "files" / f".file-{stem}-output.tmp").mkdir()  # in the way of the output file
        failed = finished(server, client, batch)
        assert failed.status == "failed"
        message = failed.errors.data[0].message
        assert "Is a directory" in message
        assert str(tmp_path) not in message
        assert "/" not in message
    assert server.terminate() == 0
    (tmp_path / "files" / f".file-{stem}-output.tmp").rmdir()
    server = new_server(run_dir, "--batch-size", 2, state=tmp_path)
    with openai.OpenAI(base_url=server.url + "/v1", api_key="none", max_retries=0) as client:
        server.until(lambda: client.batches.retrieve(batch.id).output_file_id is not None)
        done = client.batches.retrieve(batch.id)
        assert len(lines_of(client, done.output_file_id)) == 10


def test_the_total_of_uploads_is_bounded(new_server, run_dir):
    server = new_server(run_dir, "--max-upload-bytes", 30_000)

    def upload(size):
        files = {"file": ("a.jsonl", b"x" * size)}
        return httpx.post(server.url + "/v1/files", files=files, data={"purpose": "batch"}, timeout=60)

    kept = upload(20_000).json()
    refused = upload(20_000)
    assert (refused.status_code, refused.json()["error"]["code"]) == (413, "storage_full")
    assert "DELETE /v1/files" in refused.json()["error"]["message"]
    httpx.delete(f"{server.url}/v1/files/{kept['id']}")
    assert upload(20_000).status_code == 200


def test_a_file_whose_content_is_gone_is_404(new_server, run_dir, tmp_path):
    server = new_server(run_dir, state=tmp_path)
    file = httpx.post(
        server.url + "/v1/files", files={"file": ("a.jsonl", b"{}")}, data={"purpose": "batch"}
    ).json()
    (tmp_path / "files" / file["id"]).unlink()
    answer = server.get(f"/v1/files/{file['id']}/content")
    assert (answer.status_code, answer.json()["error"]["code"]) == (404, "file_not_found")


def test_a_disk_that_fails_is_an_error_without_a_traceback(new_server, run_dir, tmp_path):
    server = new_server(run_dir, state=tmp_path)
    (tmp_path / "files").rmdir()
    answer = httpx.post(
        server.url + "/v1/files", files={"file": ("a.jsonl", b"{}")}, data={"purpose": "batch"}
    )
    assert (answer.status_code, answer.json()["error"]["code"]) == (500, "storage_failed")
    assert str(tmp_path) not in answer.text
    assert server.post("/v1/completions", {"prompt": "the", "max_tokens": 1}).status_code == 200
    assert server.terminate() == 0
    assert not any("Traceback" in line for line in server.errors)
