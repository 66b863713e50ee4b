"""`headrace inspect --html` (store_page.py): boxes where their pixels are, turns with what is learned, in one file."""

from __future__ import annotations

import io
import json
import re
import shutil

import numpy as np
import pytest
from PIL import Image as Pillow
from typer.testing import CliRunner

import headrace as hr
from headrace.cli.app import app
from headrace.images import encode_rle
from headrace.store import (
    Array,
    ClassLabel,
    Image,
    List,
    Tokens,
    Value,
    columns_of_rows,
    commit_samples,
    write_sample_shard,
)

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
HOSTILE = "</svg><script>alert(1)</script>"
FEATURES = {
    "image": Image(),
    "mask": Image(),
    "digit": Array((12, 10), "uint8"),
    "boxes": List(Array((4,), "float32")),
    "classes": List(ClassLabel((HOSTILE, "cat"))),
    "keypoints": List(Array((2, 3), "float32")),
    "masks": List(Value("string")),
    "label": ClassLabel(("left", "right")),
    "name": Value("string"),
    "ids": Tokens("uint16"),
}


def png(pixels: np.ndarray) -> bytes:
    sink = io.BytesIO()
    Pillow.fromarray(pixels).save(sink, "PNG")
    return sink.getvalue()


def page_of(store, tmp_path, *options: str) -> str:
    file = tmp_path / "page.html"
    done = CliRunner().invoke(app, ["inspect", str(store), "--html", str(file), *options])
    assert done.exit_code == 0, done.output
    return file.read_text(encoding="utf-8")


@pytest.fixture
def photos(tmp_path):
    """One row: a picture of 600 x 300 with a white rectangle at x 100 to 200, y 50 to 150, and a box around it."""
    pixels = np.zeros((300, 600, 3), np.uint8)
    pixels[50:150, 100:200] = 255
    row = {
        "image": png(pixels),
        "mask": png((pixels[:, :, 0] > 0).astype(np.uint8)),
        "digit": np.arange(120, dtype=np.uint8).reshape(12, 10),
        "boxes": [[100, 50, 200, 150], [0, 0, 10, 10]],
        "classes": [0, 1],
        "keypoints": [[[300, 150, 2], [0, 0, 0]]],
        "masks": [encode_rle(pixels[:, :, 0]), ""],
        "label": 1,
        "name": HOSTILE,
        "ids": [1, 2, 3],
    }
    damaged = row | {
        "image": b"no picture",
        "mask": b"",
        "boxes": [],
        "classes": [],
        "keypoints": [],
        "masks": [],
    }
    entry = write_sample_shard(tmp_path / "photos", "s", columns_of_rows([row, damaged], FEATURES), FEATURES)
    commit_samples(tmp_path / "photos", [entry], features=FEATURES)
    return tmp_path / "photos"


def test_a_row_is_shown_as_pictures_with_boxes_and_names_and_hostile_texts_are_text(photos, tmp_path):
    page = page_of(photos, tmp_path)
    assert "<script" not in page
    assert page.count("<svg") == 5  # image, masks of objects, mask and digit of one row, digit of the other
    assert '<rect x="100" y="50" width="100" height="100"' in page
    assert re.findall(r'<circle cx="(\d+)"', page) == ["300"]
    assert "right (1)" in page
    assert "2, drawn" in page
    assert "10 bytes that are not shown: " in page
    assert "no image" in page
    assert not re.search(r'(?:href|src)="(?!data:)', page)


def test_the_page_and_json_come_together(photos, tmp_path):
    file = tmp_path / "both.html"
    done = CliRunner().invoke(app, ["inspect", str(photos), "--html", str(file), "--json"])
    assert json.loads(done.stdout)["rows"] == 2
    assert file.exists()


@pytest.fixture
def chats(tmp_path):
    template = tmp_path / "chat.jinja"
    template.write_text("{% for m in messages %}<{{ m.role }}>\n{{ m.content }}\n{% endfor %}")
    exchange = [
        {"role": "user", "content": "Hello <b>"},
        {"role": "assistant", "content": "Good day."},
        {"role": "user", "content": "And then?"},
        {"role": "assistant", "content": "Good night."},
    ]
    (tmp_path / "chats.jsonl").write_text(json.dumps({"messages": exchange}) + "\n")
    hr.ingest(tmp_path / "chats.jsonl", tmp_path / "chats", fields=hr.FieldOptions(template=str(template)))
    return tmp_path / "chats"


def test_a_conversation_is_shown_as_turns_and_learned_tokens_are_marked(chats, tmp_path):
    page = page_of(chats, tmp_path)
    turns = re.findall(r'<div class="turn[^>]*>(.*?)</div>', page, re.DOTALL)
    assert len(turns) == 2
    marked = [re.findall(r"<ins>(.*?)</ins>", turn, re.DOTALL) for turn in turns]
    assert ["Good day." in marked[0][0], "Good night." in marked[1][0]] == [True, True]
    assert "Hello" not in "".join(marked[0])
    assert "<b>" not in page


def test_rows_of_text_are_shown_as_text(tmp_path):
    (tmp_path / "text.txt").write_text(f"Water {HOSTILE} turns the wheel.\n" * 20)
    hr.ingest(tmp_path / "text.txt", tmp_path / "text")
    page = page_of(tmp_path / "text", tmp_path, "--samples", "2")
    assert page.count("<pre>") == 2
    assert "<script" not in page


@pytest.mark.skipif(CHROMIUM is None, reason="no chromium on PATH: the page is not drawn")
def test_chromium_draws_the_box_around_its_pixels_in_light_and_dark_without_a_request(photos, tmp_path):
    playwright = pytest.importorskip("playwright.sync_api")
    page_of(photos, tmp_path)
    grounds, asked, said = set(), [], []
    with playwright.sync_playwright() as started:
        browser = started.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        for scheme in ("light", "dark"):
            page = browser.new_page(color_scheme=scheme)
            page.on("request", lambda request: asked.append(request.url))
            page.on("console", lambda message: said.append(message.text))
            page.goto((tmp_path / "page.html").as_uri())
            grounds.add(page.evaluate("getComputedStyle(document.body).backgroundColor"))
            box = page.locator("rect").first.bounding_box()
            shot = Pillow.open(io.BytesIO(page.screenshot(full_page=True))).convert("L")
            left, top = round(box["x"]), round(box["y"])
            right, bottom = round(left + box["width"]), round(top + box["height"])
            middle = shot.crop((left + 12, top + 24, right - 6, bottom - 6))
            assert np.asarray(middle).mean() > 240  # white inside the box
            assert (
                np.asarray(shot.crop((right + 6, top + 6, right + 30, bottom))).mean() < 15
            )  # black beside it
        browser.close()
    assert len(grounds) == 2
    assert said == []
    assert all(url.startswith(("file:", "data:")) for url in asked)
