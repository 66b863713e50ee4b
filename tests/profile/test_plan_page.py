"""The page of a plan."""

import re

import pytest

from headrace.plan import Figure
from headrace.profile import LayoutPoint, write_plan_page
from headrace.profile.plan_page import draw_layouts

LAYOUTS = [
    LayoutPoint(name="dp=8", memory_gib=40, step_s=1.5, verdict="fits"),
    LayoutPoint(name="dp=4,tp=2", memory_gib=75, step_s=1.4, verdict="may fit"),
    LayoutPoint(name="dp=8,<b>", memory_gib=300, step_s=1.2, verdict="does not fit"),
]
LINE = {
    "layout": "dp=8", "step_s": 1.5, "step_s_low": 1.2, "step_s_high": 1.9, "tokens_per_s": 1e5, "mfu": 0.4,
    "memory_gib": 40, "memory_gib_low": 30, "memory_gib_high": 50, "communication_share": 0.1, "bubble_share": 0.0,
    "fits": True, "tight": False,
}  # fmt: skip
PLAN = {
    "model": {"name": "a-model", "parameters": 1.3e9},
    "hardware": {"name": "h100-80gb", "gpus": 8, "memory_gib": 80},
    "num_layouts": 3, "num_fitting": 1, "layouts": [LINE], "sentences": ["Memory does not bind."],
    "command": "torchrun <x>", "input_output": [Figure(name="store", value=1, unit="GB", formula="tokens x bytes")],
}  # fmt: skip


def test_a_page_has_the_plot_the_words_and_the_figures_and_loads_nothing(tmp_path):
    write_plan_page(tmp_path / "new" / "plan.html", PLAN, LAYOUTS)
    page = (tmp_path / "new" / "plan.html").read_text()
    for text in ("Memory does not bind.", "torchrun &lt;x&gt;", "tokens x bytes", "a-model on 8 x h100-80gb"):
        assert text in page
    assert page.count("<circle") == 3 + 3  # the layouts, and the legend
    assert not re.search(r"<script|https?://(?!www\.w3\.org)|<link", page)
    assert "prefers-color-scheme: dark" in page


def test_layouts_on_one_spot_are_one_dot_and_names_are_escaped():
    picture = draw_layouts([*LAYOUTS, *LAYOUTS], memory_gib=80)
    assert picture.count("<circle") == 3
    assert "dp=8,&lt;b&gt;" in picture


@pytest.mark.parametrize("number", [1, 2])
def test_few_layouts_are_drawn_too(number):
    assert draw_layouts(LAYOUTS[:1] * number, memory_gib=80).count("<circle") == 1
