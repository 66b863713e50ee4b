"""A URL where only a local path can be used is refused by its name, and never becomes a directory named `s3:`."""

from __future__ import annotations

from pathlib import Path

import pytest

import headrace as hr
from headrace.cli.app import main
from headrace.errors import ConfigError
from headrace.paths import is_url, local_path

URL = "s3://bucket/run"


@pytest.mark.parametrize("url", [URL, Path(URL), "ftp://host/x", "unknown://x", "hf://owner/name"])
def test_a_url_is_refused_by_name_also_after_a_path_has_shortened_it(url):
    with pytest.raises(ConfigError, match=r"^run is [a-z0-9]+://.*a URL, expected a local path\. Copy it\.$"):
        local_path(url, name="run", cure="Copy it.")


@pytest.mark.parametrize("path", ["run", "/data/run", "a:/b", "C:/run", "x/s3:/y", "2024-01-01T10:00:00"])
def test_a_local_path_stays_as_it_is(path):
    assert local_path(path, name="run") == Path(path)
    assert not is_url(path)


def test_a_file_url_is_a_local_path():
    assert local_path("file:///data/a%20run", name="run") == Path("/data/a run")


def test_an_empty_path_is_refused_and_is_not_the_current_directory():
    with pytest.raises(ConfigError, match=r"^run is empty; expected a local path"):
        local_path("", name="run")


COMMANDS = {
    "export --out": ["export", "run", "--out", URL],
    "import --out": ["import", "hf", "--out", URL],
    "serve --state": ["serve", "--model", ".", "--port", "0", "--state", URL],
    "demo --out": ["demo", "--out", URL],
    "tokenizer train --out": ["tokenizer", "train", "text.txt", "--vocab-size", "300", "--out", URL],
    "plan --hardware": ["plan", "--model", "gpt3-125m", "--hardware", URL],
    "plan --model": ["plan", "--model", URL],
    "plan check": ["plan", "check", URL],
    "ingest --tokenizer": ["ingest", "text.txt", "--out", "store", "--tokenizer", URL],
    "--log-file": ["--log-file", URL, "report", "run"],
    "generate --prompts": ["generate", "--model", "run", "--prompts", URL, "--out", "predictions"],
}


@pytest.mark.parametrize("command", COMMANDS.values(), ids=COMMANDS)
def test_a_command_refuses_a_url_where_it_needs_a_local_path_and_writes_nothing(
    command, tmp_path, monkeypatch, capsys
):
    pytest.importorskip("torch")
    monkeypatch.chdir(tmp_path)
    Path("text.txt").write_text("the wheel\n" * 100)
    assert main(command) == 2
    message = capsys.readouterr().err
    assert "s3://bucket/run: a URL, expected a local path." in message, message
    assert "Traceback" not in message
    assert not any(path.name.startswith("s3:") for path in tmp_path.rglob("*"))


def test_a_function_refuses_a_url_that_a_path_has_shortened(tmp_path):
    with pytest.raises(ConfigError, match="hf://owner/out"):
        hr.report(Path("hf://owner/out"))
    with pytest.raises(ConfigError, match="cache_dir is s3://bucket/cache"):
        hr.Store.open(tmp_path, cache_dir="s3://bucket/cache")


def test_a_run_is_refused_where_a_url_cannot_be_written_to(tmp_path, monkeypatch, capsys):
    pytest.importorskip("torch")
    monkeypatch.chdir(tmp_path)
    for url in ("hf://owner/name", "https://host/run"):
        assert main(["train", "store", "--steps", "1", "--out", url]) == 2
        assert f"train: out is {url}: a URL, expected a local path. Give a local directory, or an s3://" in (
            " ".join(capsys.readouterr().err.split())
        )
    assert not list(tmp_path.iterdir())
