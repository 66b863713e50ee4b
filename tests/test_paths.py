"""A URL where only a local path can be used is refused by its name, and never becomes a directory named `s3:`."""

from __future__ import annotations

from pathlib import Path

import pytest

import headrace as hr
from headrace.cli.app import main
from headrace.errors import ConfigError
from headrace.model import cache_directory
from headrace.paths import given_path, is_url, local_path, output_file
from headrace.plan import calibrations
from headrace.plan.constants import shipped
from headrace.storage import open_blob

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


@pytest.mark.parametrize(
    ("path", "expected"),
    [
        ("~", "/home/ada"),
        ("~/run", "/home/ada/run"),
        ("~nobody-of-this-name", "~nobody-of-this-name"),
        ("a/~", "a/~"),
    ],
)
def test_a_tilde_is_the_home_directory_as_in_a_shell(path, expected, monkeypatch):
    monkeypatch.setenv("HOME", "/home/ada")
    assert given_path(path, name="run") == expected
    assert local_path(path, name="run") == Path(expected)
    assert open_blob(path).root == Path(expected).absolute()


def test_a_tilde_of_a_user_without_a_home_directory_is_refused(monkeypatch):
    monkeypatch.setattr("os.path.expanduser", lambda path: path)
    with pytest.raises(ConfigError, match=r"^out is ~/run: this user has no home directory"):
        given_path("~/run", name="out")


def no_home(_=None):
    raise RuntimeError("Could not determine home directory.")


def test_a_user_without_a_home_directory_plans_and_is_told_where_models_would_be_kept(monkeypatch):
    """A container's user id without an entry in passwd, and no HOME."""
    monkeypatch.setattr(Path, "home", no_home)
    for name in ("XDG_CACHE_HOME", "HEADRACE_CACHE_DIR"):
        monkeypatch.delenv(name, raising=False)
    assert set(calibrations()[0].systems) == set(shipped()[0].systems)
    with pytest.raises(
        ConfigError, match=r"^this user has no home directory to keep copies of models in\. Set HEAD"
    ):
        cache_directory()


EMPTY = {
    "ingest: a source": ["ingest", "", "--out", "x"],
    "ingest: out": ["ingest", "text.txt", "--out", ""],
    "ingest: validation_out": [
        "ingest",
        "text.txt",
        "--out",
        "x",
        "--validation-share",
        ".1",
        "--validation-out",
        "",
    ],
    "tokenizer": ["ingest", "text.txt", "--out", "x", "--tokenizer", ""],
    "demo: out": ["demo", "--out", ""],
    "tokenizer train: out": ["tokenizer", "train", "text.txt", "--vocab-size", "300", "--out", ""],
    "store": ["inspect", ""],
    "train: out": ["train", "store", "--steps", "1", "--out", ""],
    "model": ["train", "store", "--steps", "1", "--out", "x", "--init-from", ""],
    "embeddings": ["train", "store", "--steps", "1", "--seq-len", "8", "--out", "x", "--embeddings", ""],
    "train: mirror": ["train", "store", "--steps", "1", "--seq-len", "8", "--out", "x", "--mirror", ""],
    "prompts": ["generate", "--model", "run", "--prompts", "", "--out", "x"],
    "serve: state": ["serve", "--model", ".", "--port", "0", "--state", ""],
    "serve: predictions a": ["serve", "--model", ".", "--port", "0", "--predictions", "a="],
    "plan: model": ["plan", "--model", ""],
    "plan: hardware": ["plan", "--model", "gpt3-125m", "--hardware", ""],
    "plan: calibrate": ["plan", "--model", "gpt3-125m", "--gpu", "a100-80gb", "--calibrate", ""],
    "plan: page": ["plan", "--model", "gpt3-125m", "--gpu", "a100-80gb", "--page", ""],
    "plan calibrate: run": ["plan", "calibrate", ""],
    "plan calibrate: out": ["plan", "calibrate", "run", "--out", ""],
    "plan: table": ["plan", "check", ""],
    "diagnose: source": ["diagnose", ""],
    "cache_dir": ["diagnose", "store", "--cache-dir", ""],
    "report: run": ["report", ""],
    "export: out": ["export", "run", "--out", ""],
    "import: out": ["import", "hf", "--out", ""],
    "log file": ["--log-file", "", "report", "run"],
}


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """A directory with a text and a store."""
    path = tmp_path_factory.mktemp("place")
    (path / "text.txt").write_text("the wheel\n" * 100)
    hr.ingest([path / "text.txt"], path / "store", tokenizer="byte", workers=1)
    return path


@pytest.mark.parametrize("name", EMPTY)
def test_a_command_refuses_an_empty_path_by_its_option_and_leaves_the_directory_as_it_is(
    name, place, monkeypatch, capsys
):
    """`--out "$RUN"` with RUN unset must not fill or read the current directory."""
    pytest.importorskip("torch")
    monkeypatch.chdir(place)
    before = sorted(Path().rglob("*"))
    assert main(EMPTY[name]) == 2
    assert f"headrace: {name} is empty; expected" in capsys.readouterr().err
    assert [path for path in sorted(Path().rglob("*")) if path.parts[0] != "x"] == before


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


def test_a_file_to_write_is_no_directory_and_its_directory_is_made(tmp_path):
    assert output_file(tmp_path / "a" / "b.json", name="x: out", example="b.json").parent.is_dir()
    (tmp_path / "file").write_text("")
    for path, message in (
        (tmp_path, "a directory: name a file in it, such as b.json"),
        (tmp_path / "file" / "b", "its directory cannot be made"),
    ):
        with pytest.raises(ConfigError, match=message):
            output_file(path, name="x: out", example="b.json")
