"""The page (page.py, svg.py, html_report.py) needs nothing else, is valid HTML, and shows hostile texts as text."""

from __future__ import annotations

import re
import xml.etree.ElementTree as ET
from html.parser import HTMLParser

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from headrace.errors import ConfigError
from headrace.profile import report

VOID = {"meta", "br", "hr", "img", "input", "link"}
HOSTILE = "</pre></script><script>alert(1)</script><img src=http://evil.example/x onerror=alert(1)>\"'&"

FULL = {
    "naive.json": {
        "what": f"naive {HOSTILE}",
        "notes": [HOSTILE],
        "once_s": 6.0,
        "epoch_tokens": 1e7,
        "naive": {"first_batch_s": 3.0, "tokens_per_s": 4e5, "peak_bytes": 8e8},
        "headrace": {"first_batch_s": 0.01, "tokens_per_s": 2e8, "peak_bytes": 4e8},
    },
    "ingest.json": {"documents": 3, "tokens": 100, "bytes_in": 400, "wall_s": 0.5},
    "predictions.json": {
        "predictions": 1,
        "new_tokens": 5,
        "samples": [{"prompt_id": HOSTILE, "prompt": HOSTILE, "text": HOSTILE, "finish_reason": HOSTILE}],
    },
    "about.json": {
        "title": HOSTILE,
        "corpus": HOSTILE,
        "command": HOSTILE,
        "machine": {"processor": HOSTILE},
    },
}


class Page(HTMLParser):
    """Elements, attributes and text of a page; fails where tags do not nest."""

    def __init__(self, text: str) -> None:
        super().__init__(convert_charrefs=True)
        self.open: list[str] = []
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.text: list[str] = []
        self.feed(text)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))

    def handle_endtag(self, tag):
        assert self.open, f"</{tag}> without a beginning"
        assert self.open.pop() == tag

    def handle_data(self, data):
        self.text.append(data)

    def all(self, tag):
        return [attributes for name, attributes in self.tags if name == tag]


def page_of(made) -> Page:
    return Page(report(made.path).read_text(encoding="utf-8"))


def test_the_page_asks_for_nothing_and_runs_nothing(made):
    for name, value in FULL.items():
        made.write(name, value)
    text = report(made.path).read_text(encoding="utf-8")
    page = Page(text)
    assert not {"script", "img", "link", "iframe", "object", "a"} & {tag for tag, _ in page.tags}
    for _, attributes in page.tags:
        assert not {"src", "href", "xlink:href", "action", "srcset", "data"} & attributes.keys()
        assert not [name for name in attributes if name.startswith("on")]
    assert not re.search(r"url\(|@import", text)
    [policy] = [m["content"] for m in page.all("meta") if m.get("http-equiv") == "Content-Security-Policy"]
    assert policy.startswith("default-src 'none'")


def test_hostile_texts_are_shown_as_they_are(made):
    for name, value in FULL.items():
        made.write(name, value)
    shown = "".join(page_of(made).text)
    # title, heading, corpus twice, command, machine twice, the comparison twice, and the sample four times
    assert shown.count(HOSTILE) >= 12


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=30, deadline=None)
@given(text=st.text())
def test_any_text_a_model_writes_keeps_the_page_sound(made, text):
    made.write(
        "predictions.json", {"predictions": 1, "samples": [{"prompt_id": "p", "prompt": text, "text": text}]}
    )
    from headrace.profile.page import render_page
    from headrace.profile.run_files import read_run_files

    Page(render_page(read_run_files(made.path), made=text))


def test_ids_are_unique_and_labels_point_at_them(made):
    for name, value in FULL.items():
        made.write(name, value)
    page = page_of(made)
    ids = [attributes["id"] for _, attributes in page.tags if "id" in attributes]
    assert len(ids) == len(set(ids))
    pointed = [a["aria-labelledby"] for _, a in page.tags if "aria-labelledby" in a]
    assert set(" ".join(pointed).split()) <= set(ids)


def test_it_can_be_read_without_seeing_it(made):
    for name, value in FULL.items():
        made.write(name, value)
    page = page_of(made)
    assert page.all("html")[0]["lang"] == "en"
    assert len(page.all("h1")) == 1
    charts = [svg for svg in page.all("svg") if svg.get("class") == "chart"]
    assert len(charts) == 2
    assert all(svg["role"] == "img" and svg["aria-labelledby"] for svg in charts)
    assert all(th["scope"] in ("row", "col") for th in page.all("th"))
    assert (
        "Training loss went from 10.00 at step 1 to 2.08 at step 100; the median of the last 11 steps is 2.08."
        in "".join(page.text)
    )


def test_it_names_the_slowest_stage_in_words(made):
    assert "The run spent 75 % of its 1 min 40 s in compute; " in "".join(page_of(made).text)


def test_it_follows_the_readers_theme_and_prints(made):
    text = report(made.path).read_text(encoding="utf-8")
    assert "prefers-color-scheme: dark" in text
    assert "@media print" in text
    assert 'name="viewport"' in text


def test_a_plain_run_has_no_section_without_content(made):
    headings = "".join(page_of(made).text)
    assert "Where the time went" in headings
    assert "Compared with the naive loader" not in headings
    assert "Sample predictions" not in headings


@pytest.mark.parametrize(
    "rows", [[], [{"step": 1}], [{"step": 1, "loss": 2.0, "step_s": 1.0, "compute_s": 1.0}]]
)
def test_a_run_that_has_hardly_begun_has_a_page_too(made, rows):
    made.steps(rows)
    page_of(made)


def test_a_run_that_has_not_stepped_has_a_page_too(made):
    (made.path / "metrics.jsonl").unlink()
    assert "No step was timed yet." in "".join(page_of(made).text)


def test_plots_are_pictures_of_their_own(made):
    """Each is well-formed SVG with a size, its own colours, and no reference to anything else."""
    report(made.path)
    names = sorted(path.name for path in (made.path / "plots").iterdir())
    assert names == ["loss.svg", "stages.svg", "step.svg", "tokens_per_s.svg"]
    for name in names:
        root = ET.parse(made.path / "plots" / name).getroot()
        assert root.tag == "{http://www.w3.org/2000/svg}svg"
        assert int(root.attrib["width"]) == 920
        assert int(root.attrib["height"]) > 100
        text = (made.path / "plots" / name).read_text()
        assert "href" not in text
        assert "var(" not in text


def test_the_report_of_no_run_is_refused(tmp_path):
    with pytest.raises(ConfigError, match="no such directory"):
        report(tmp_path / "nothing")


def test_a_report_leaves_nothing_half_written(made):
    before = {path.name for path in made.path.iterdir()}
    report(made.path)
    assert {path.name for path in made.path.iterdir()} - before == {"report.html", "plots"}


def test_a_report_says_the_mfu_or_that_the_hardware_is_unknown_and_names_stores_by_their_place(made):
    made.write("run.json", {"stores": [{"url": "s3://bucket/store", "snapshot": 3}]})
    text = "".join(page_of(made).text)
    assert "unknown hardware" in text
    assert "s3://bucket/store" in text
    assert "{'url'" not in text.partition("All options")[0]
    made.steps([{"step": i, "loss": 2.0, "step_s": 1.0, "mfu": 0.4 + i / 1000} for i in range(1, 4)])
    assert "40.2 % of the devices" in "".join(page_of(made).text)
