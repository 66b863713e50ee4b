"""Every example runs as its own first lines say, is stopped or run again where it says it can be, and ends well."""

from __future__ import annotations

import contextlib
import gzip
import io
import json
import runpy
import shutil
import subprocess
import sys
import unittest.mock
import warnings
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch

import headrace as hr
from headrace.images import encode_png, mask_of_rle
from headrace.sink import read_predictions

EXAMPLES = Path(__file__).parent.parent / "examples"


def run(name: str, *arguments: object, cwd: Path) -> str:
    """What an example prints, run in this process: torch and transformers are imported once."""
    output = io.StringIO()
    with (
        contextlib.chdir(cwd),
        unittest.mock.patch.object(sys, "argv", [name, *map(str, arguments)]),
        warnings.catch_warnings(action="default"),
        contextlib.redirect_stdout(output),
    ):
        runpy.run_path(str(EXAMPLES / name), run_name="__main__")
    return output.getvalue()


def start(
    name: str,
    *arguments: object,
    cwd: Path,
    before: tuple[str, ...] = (sys.executable,),
    said: str | None = None,
) -> str:
    """The same in a process of its own, or in those that `before` starts."""
    done = subprocess.run(
        [*before, str(EXAMPLES / name), *map(str, arguments)],
        cwd=cwd,
        input=said,
        capture_output=True,
        text=True,
        check=False,
        timeout=200,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.fixture(scope="module", autouse=True)
def one_thread():
    """Models as small as these are slower on two threads, above all on a busy machine."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """A store, another one, and a model directory with the tokenizer of both."""
    from headrace.model import GPT, to_hf

    home = tmp_path_factory.mktemp("examples")
    for name, word in (("easy", "water"), ("hard", "thermodynamics")):
        texts = [f"{n} turns of the wheel, {word} runs on to the mill of {n % 7}" for n in range(3000)]
        if name == "easy":
            hr.train_tokenizer(texts, vocab_size=320, out=home / "tokenizer.json")
        (home / f"{name}.jsonl").write_text("".join(json.dumps({"text": text}) + "\n" for text in texts))
        hr.ingest(home / f"{name}.jsonl", home / name, tokenizer=home / "tokenizer.json")
    shape = hr.GPTConfig(
        num_hidden_layers=1,
        hidden_size=32,
        num_attention_heads=2,
        vocab_size=320,
        max_position_embeddings=128,
    )
    to_hf(GPT(shape), hr.load_tokenizer(home / "tokenizer.json"), home / "model")
    (home / "model" / "chat_template.jinja").write_text(
        "{% for m in messages %}{{ m.role }}: {{ m.content }} {% endfor %}"
    )
    return home


def rows_of(told: str) -> list[str]:
    """What each step said of its rows."""
    return [line.split("rows")[1] for line in told.splitlines() if line.startswith("step")]


def test_your_own_loop_goes_on_with_two_processes_where_one_stopped(place):
    whole = run("own_loop.py", "--store", "easy", "--steps", 8, "--checkpoint", "whole.pt", cwd=place)
    first = run("own_loop.py", "--store", "easy", "--steps", 4, cwd=place)
    torchrun = str(Path(sys.executable).with_name("torchrun"))
    second = start(
        "own_loop.py", "--store", "easy", "--steps", 8, cwd=place,
        before=(torchrun, "--standalone", "--nproc-per-node", "2"),
    )  # fmt: skip
    assert rows_of(first) == rows_of(whole)[:4]
    assert rows_of(second) == rows_of(whole)[4:]


def test_a_hugging_face_model_is_finetuned_and_goes_on(place):
    import transformers

    for steps in (2, 4):
        run(
            "finetune_trainer.py", "--model", "model", "--texts", "easy.jsonl", "--out", "tuned", "--steps", steps,
            cwd=place,
        )  # fmt: skip
    state = json.loads((place / "tuned" / "checkpoint-4" / "trainer_state.json").read_text())
    assert state["stateful_callbacks"]["LoaderState"]["attributes"]["loader"]["position"] == 4 * 8
    assert (
        transformers.AutoModelForCausalLM.from_pretrained(place / "tuned" / "final").config.vocab_size == 320
    )


def test_a_curriculum_is_the_same_order_read_in_parts_and_in_one(place):
    told = run("curriculum.py", "--easy", "easy", "--hard", "hard", "--steps", 10, cwd=place)
    shares = [float(line.split(": ")[1].split("%")[0]) for line in told.splitlines()]
    assert shares == pytest.approx([10, 50, 90], abs=3)


def test_a_model_trains_on_the_better_half_of_its_own_words(place):
    (place / "prompts.txt").write_text("\n".join(f"{n} turns of" for n in range(10)))
    told = run(
        "self_training.py", "--model", "model", "--prompts", "prompts.txt", "--out", "ring", "--max-new-tokens", 8,
        cwd=place,
    )  # fmt: skip
    assert "40 samples, 20 kept" in told
    assert hr.Store.open(place / "ring" / "store").num_documents == 20


def test_jax_learns_and_goes_on(place):
    first = start("jax_loop.py", "--store", "easy", "--steps", 20, cwd=place)
    second = start("jax_loop.py", "--store", "easy", "--steps", 40, cwd=place)
    losses = [float(line.split("loss ")[1]) for line in (first + second).splitlines()]
    assert len(losses) == 2
    assert losses[1] < losses[0]


@pytest.mark.parametrize(
    ("name", "again"),
    [
        ("accelerate_loop.py", ("torchrun", "--standalone", "--nproc-per-node", "2")),
        ("lightning_loop.py", ()),
    ],
)
def test_loops_of_others_take_the_loader_and_continue_where_one_stopped(place, name, again):
    """With accelerate on two processes; both in the order of an undisturbed run."""
    pytest.importorskip(name.split("_")[0])
    folder = {"accelerate_loop.py": "--checkpoint", "lightning_loop.py": "--out"}[name]
    options = ("--store", "easy", "--batch-size", 32)
    whole = run(name, *options, "--steps", 24, folder, f"{name}-whole", cwd=place)
    first = run(name, *options, "--steps", 12, folder, name, cwd=place)
    if again:
        launcher = (str(Path(sys.executable).with_name(again[0])), *again[1:])
        second = start(name, *options, "--steps", 24, folder, name, cwd=place, before=launcher)
    else:
        second = run(name, *options, "--steps", 24, folder, name, cwd=place)
    rows = rows_of(whole)
    assert len(rows) == 24
    assert len(set(rows)) == 24
    assert rows_of(first) == rows[:12]
    assert rows_of(second) == rows[12:]


def test_keras_fits_epochs_and_validates(place):
    output = start("keras_fit.py", "--store", "easy", "--validation", "hard", "--epochs", 2, cwd=place)
    losses = [float(line.split("loss ")[1].split()[0]) for line in output.splitlines() if "epoch" in line]
    assert len(losses) == 2
    assert losses[1] < losses[0]


def test_a_conversation_streams_from_a_server(place):
    served = [
        sys.executable,
        "-m",
        "headrace",
        "serve",
        "--model",
        "model",
        "--port",
        "0",
        "--state",
        "state",
        "--json",
    ]
    with subprocess.Popen(served, cwd=place, stdout=subprocess.PIPE, text=True) as server:
        url = json.loads(server.stdout.readline())["url"]
        told = start("stream_chat.py", "--url", url, "--max-tokens", 8, cwd=place, said="hello\nand again\n")
        server.terminate()
    assert server.returncode == 0
    # The model writes what it likes; a prompt begins a line.
    assert sum(line.startswith("> ") for line in told.split("\n")) == 3
    assert len(told) > 12


def test_every_example_says_how_it_is_run():
    for path in EXAMPLES.glob("*.py"):
        assert f"python examples/{path.name} --" in path.read_text().split('"""')[1], path


@pytest.mark.parametrize(
    ("name", "amount", "more"), [("jax", "--steps", (10, 30)), ("keras", "--epochs", (1, 2))]
)
def test_jax_and_keras_classify_images_and_go_on(tmp_path, name, amount, more):
    pytest.importorskip({"jax": "jax", "keras": "tensorflow"}[name])
    labels = np.arange(96) % 2
    pixels = np.random.default_rng(0).integers(0, 90, (96, 12, 12)) + 140 * labels[:, None, None]
    for kind, values in (("images-idx3", pixels), ("labels-idx1", labels)):
        head = bytes([0, 0, 8, values.ndim]) + np.array(values.shape, ">u4").tobytes()
        (tmp_path / f"{kind}-ubyte").write_bytes(head + values.astype(np.uint8).tobytes())
    files = ("--images", "images-idx3-ubyte", "labels-idx1-ubyte", "--batch-size", 8)
    first, second = (start(f"classify_{name}.py", *files, amount, one, cwd=tmp_path) for one in more)
    position = {"jax": 80, "keras": 96}[name]
    assert f"continued at position {position}" in second
    assert float(second.split("loss ")[-1].split()[0]) < float(first.split("loss ")[-1].split()[0])


def test_images_are_classified_and_a_run_that_is_repeated_goes_on(tmp_path):
    """classify_images: two classes that differ in brightness, run in this process; then once more, for longer."""
    rng = np.random.default_rng(0)
    arguments = ["--out", str(tmp_path / "out"), "--batch-size", "16"]
    for name, count in (("train", 128), ("test", 32)):
        labels = np.arange(count) % 2
        pixels = rng.integers(0, 90, (count, 12, 12)) + 140 * labels[:, None, None]
        arguments.append(f"--{name}")
        for kind, values in (("images-idx3", pixels), ("labels-idx1", labels)):
            head = bytes([0, 0, 8, values.ndim]) + np.array(values.shape, ">u4").tobytes()
            file = tmp_path / f"{name}-{kind}-ubyte.gz"
            file.write_bytes(gzip.compress(head + values.astype(np.uint8).tobytes()))
            arguments.append(str(file))
    for epochs in (1, 2):
        printed = run("classify_images.py", *arguments, "--epochs", epochs, cwd=tmp_path)
        assert ("continued at position 128" in printed) == (epochs == 2)
    assert [float(part.split()[0]) > 0.9 for part in printed.split("accuracy ")[1:]] == [False, True]
    predictions = read_predictions(tmp_path / "out/predictions-256").to_pylist()
    assert sorted(int(row["prompt_id"]) for row in predictions) == list(range(32))
    assert {row["text"] for row in predictions} == {"0", "1"}


def shapes(folder, count, seed):
    """Dark images with a bright rectangle each: images, masks and boxes."""
    rng = np.random.default_rng(seed)
    for name in ("images", "masks"):
        (folder / name).mkdir(parents=True)
    lines = ["image_path,xmin,ymin,xmax,ymax,label"]
    for i in range(count):
        (x, y), (width, height) = rng.integers(0, 16, 2), rng.integers(10, 16, 2)
        pixels = rng.integers(0, 90, (32, 32, 3)).astype(np.uint8)
        inside = np.zeros((32, 32), np.uint8)
        inside[y : y + height, x : x + width] = 255
        pixels[inside > 0] += 140
        (folder / f"images/{i}.png").write_bytes(encode_png(pixels))
        (folder / f"masks/{i}.png").write_bytes(encode_png(inside))
        lines.append(f"images/{i}.png,{x},{y},{x + width},{y + height},thing")
    (folder / "boxes.csv").write_text("\n".join(lines))


def test_images_are_segmented_and_a_run_that_is_repeated_goes_on(tmp_path):
    for seed, name in enumerate(("train", "test")):
        shapes(tmp_path / name, 24 if name == "train" else 6, seed)
        (tmp_path / name / "boxes.csv").unlink()
    options = ("--train", "train", "--test", "test", "--tile", 32, "--out", "out")
    for epochs in (1, 4):
        told = run("segment_images.py", *options, "--epochs", epochs, cwd=tmp_path)
        assert ("continued at position 24" in told) == (epochs == 4)
    scores = {line[:10].strip(): float(line.split("IoU ")[1].split()[0]) for line in told.splitlines()[-3:]}
    assert scores["background"] < 0.5 < scores["U-Net"]
    predictions = read_predictions(tmp_path / "out/predictions-4").to_pylist()
    assert len(predictions) == 6
    assert mask_of_rle(json.loads(predictions[0]["text"])).shape == (32, 32)


def test_objects_are_detected_and_a_run_that_is_repeated_goes_on(tmp_path):
    for seed, name in enumerate(("train", "test")):
        shapes(tmp_path / name, 24 if name == "train" else 4, seed)
    options = (
        "--train",
        "train/boxes.csv",
        "--test",
        "test/boxes.csv",
        "--tile",
        32,
        "--out",
        "out",
        "--resamples",
        2,
    )
    for epochs in (1, 12):
        told = run("detect_objects.py", *options, "--epochs", epochs, cwd=tmp_path)
        assert ("continued at position 24" in told) == (epochs == 12)
    scores = {line[:9].strip(): float(line.split("AP50 ")[1].split()[0]) for line in told.splitlines()[-2:]}
    assert scores["grid"] < scores["detector"]
    predictions = read_predictions(tmp_path / "out/predictions-12").to_pylist()
    assert len(predictions) == 4
    assert len(json.loads(predictions[0]["text"])["boxes"]) > 0


def test_items_are_recommended_and_a_run_that_is_repeated_goes_on(tmp_path, monkeypatch, capsys):
    """recommend: users walk through the items in one order, which counts do not show; run twice in this process."""
    lines = [f"u{user},i{(user + step) % 24:02},{step}" for user in range(96) for step in range(8)]
    (tmp_path / "log.csv").write_text("\n".join(["user,item,time", *lines]))
    arguments = [
        "recommend.py",
        "--log",
        str(tmp_path / "log.csv"),
        "--out",
        str(tmp_path / "out"),
        "-k",
        "1",
    ]
    shape = ["--width", "32", "--layers", "1", "--seq-len", "8", "--batch-size", "16", "--lr", "0.01"]
    for steps in ("20", "40"):
        monkeypatch.setattr(sys, "argv", [*arguments, *shape, "--steps", steps])
        runpy.run_path(str(EXAMPLES / "recommend.py"), run_name="__main__")
        printed = capsys.readouterr().out
    scores = {line[:13].strip(): float(line[13:].split()[0]) for line in printed.splitlines()[1:4]}
    assert scores["transformer"] > 0.7
    assert scores["most popular"] < 0.5
    predictions = pq.read_table(tmp_path / "out/predictions.parquet").to_pylist()
    assert len(predictions) == 96
    assert predictions[0]["user"] == "u0"
    assert all(row["logprobs"][0] <= 0 for row in predictions)


def control(fields: dict[str, str]) -> str:
    return "".join(f"{name}: {value}\n" for name, value in fields.items()) + "\n"


@pytest.fixture(scope="module")
def lists(tmp_path_factory):
    """Lists as apt keeps them, of 120 packages of 40 source packages; those of one source share a paragraph."""
    home = tmp_path_factory.mktemp("lists")
    packages, english, german = [], [], []
    for n in range(120):
        name, md5 = f"tool{n}", f"{n:032x}"
        packages.append(
            control({
                "Package": name, "Source": f"src{n // 3} (1.0)", "Version": f"1.{n}",
                "Maintainer": f"Team {n} <t{n}@x.org>", "Section": ("libs", "games", "net")[n % 3],
                "Description-md5": md5,
            })
        )  # fmt: skip
        for texts, language, words in (
            (english, "en", (f"tool number {n}", f"It counts to {n}.", f"Part of set {n // 3}.")),
            (german, "de", (f"Werkzeug Nummer {n}", f"Es zählt bis {n}.", f"Teil von Satz {n // 3}.")),
        ):
            short, first, second = words
            texts.append(
                control({
                    "Package": name, "Description-md5": md5,
                    f"Description-{language}": f"{short}\n {first}\n .\n {second}\n .\n  * a list",
                })
            )  # fmt: skip
    (home / "x_main_binary-amd64_Packages").write_text("".join(packages))
    with pa.CompressedOutputStream(str(home / "x_main_i18n_Translation-en.lz4"), "lz4") as file:
        file.write("".join(english).encode())
    (home / "x_main_i18n_Translation-de.gz").write_bytes(gzip.compress("".join(german).encode()))
    return home


@pytest.fixture(scope="module")
def pairs(lists, tmp_path_factory):
    out = tmp_path_factory.mktemp("pairs")
    run("debian_pairs.py", "--lists", lists, "--out", out, "--test-share", 0.3, cwd=out)
    return out


def json_lines(file: Path) -> list[dict[str, object]]:
    return [json.loads(line) for line in file.read_text().splitlines()]


@pytest.mark.parametrize("task", ["translate", "summarise", "answer"])
def test_no_source_package_and_no_text_is_in_training_and_in_test(pairs, task):
    parts = [json_lines(pairs / task / f"{part}.jsonl") for part in ("train", "test")]
    sources = [
        {int(str(row["id"]).split("-")[0].removeprefix("tool")) // 3 for row in rows} for rows in parts
    ]
    assert len(sources[0] | sources[1]) == 40
    assert not sources[0] & sources[1]
    texts = [{value for row in rows for value in row.values() if isinstance(value, str)} for rows in parts]
    assert not texts[0] & texts[1]


def test_sentences_are_paired_and_answers_stand_in_their_contexts(pairs):
    rows = json_lines(pairs / "translate/train.jsonl") + json_lines(pairs / "translate/test.jsonl")
    assert len(rows) == 120 + 120 + 40  # the paragraph that three packages share is there once
    assert {(row["source"], row["target"]) for row in rows} >= {("It counts to 7.", "Es zählt bis 7.")}
    assert not any("list" in str(row) for row in rows)
    for row in json_lines(pairs / "answer/train.jsonl"):
        (text,), (start,) = row["answers"]["text"], row["answers"]["answer_start"]
        assert row["context"][start : start + len(text)] == text


def test_lists_that_are_not_there_are_named(lists, tmp_path):
    with pytest.raises(SystemExit, match=r"no file named \*Translation-fr; apt-get"):
        run("debian_pairs.py", "--lists", lists, "--language", "fr", "--out", tmp_path, cwd=tmp_path)


@pytest.fixture(scope="module")
def instruct(place):
    """The small model with a template that writes turns."""
    folder = place / "instruct"
    shutil.copytree(place / "model", folder)
    end = next(iter(hr.load_tokenizer(place / "model").special_tokens()))
    (folder / "chat_template.jinja").write_text(
        "{% for m in messages %}{{ m.role + ': ' + m.content }}"
        f"{{% if m.role == 'assistant' %}}{{{{ '{end}' }}}}{{% else %}}{{{{ '\\n' }}}}{{% endif %}}{{% endfor %}}"
        "{% if add_generation_prompt %}{{ 'assistant: ' }}{% endif %}"
    )
    return folder


@pytest.mark.parametrize(
    ("task", "options", "score"),
    [
        ("translate", (), "BLEU"),
        ("summarise", ("--lora-r", 4, "--lr", "1e-3"), "ROUGE-L"),
        ("answer", (), "exact match"),
    ],
)
def test_a_model_is_tuned_on_pairs_scored_beside_baselines_and_its_answers_are_stored_once(
    pairs, instruct, tmp_path, task, options, score
):
    arguments = (
        "--task", task, "--model", instruct, "--out", tmp_path / "out",
        "--train", pairs / task / "train.jsonl", "--test", pairs / task / "test.jsonl",
        "--steps", 2, "--seq-len", 128, "--test-rows", 12, "--max-new-tokens", 4, *options,
    )  # fmt: skip
    printed = [run("finetune_pairs.py", *arguments, cwd=tmp_path) for _ in range(2)]
    assert printed[0] == printed[1]
    lines = {line.split()[0]: line for line in printed[0].splitlines()[1:5]}
    assert list(lines) == ["copy", "lead", "before", "tuned"]
    assert all(f"  {score} " in line for line in lines.values())
    assert hr.read_predictions(tmp_path / "out/predictions").num_rows == 12


def test_scores_of_right_answers_are_whole_and_their_intervals_hold_them():
    namespace = runpy.run_path(str(EXAMPLES / "finetune_pairs.py"))
    items = [namespace["Item"](str(n), f"source {n}", [f"The answer is number {n}."]) for n in range(20)]
    right = [item.answers[0] for item in items]
    half = [text if n % 2 else "nothing of it" for n, text in enumerate(right)]
    systems = {"half": half, "right": right}
    translated = namespace["corpus_scores"](items, systems)
    assert translated["right"]["BLEU"].startswith("100.0 (")
    assert float(translated["half"]["BLEU"].split()[0]) < 100
    for scores in (namespace["rouge_scores"](), {"F1": namespace["overlap"], "exact": namespace["exact"]}):
        told = namespace["of_items"](scores, items, systems)
        assert set(told["right"].values()) == {"100.0 (100.0 to 100.0)"}
        for value in told["half"].values():
            mean, low, _, high = value.replace("(", "").replace(")", "").split()
            assert float(low) < float(mean) < float(high)
    assert namespace["exact"]("an Answer!", ["other", "The answer"]) == 1
    assert namespace["overlap"]("red green", ["green blue", "x"]) == 0.5
