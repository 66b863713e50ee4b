"""The page in a real Chromium: what a person does, sees and is spared.

Every test ends with the checks of the `page` fixture: no request left for another origin, no error in the console,
nothing that came as text became a script.
"""

import json
import re
import shlex
import shutil
import sys
import threading
from pathlib import Path

import httpx
import pytest
import torch

import headrace as hr
from headrace.model import GPT, GPTConfig, to_hf
from headrace.serve.page import POLICY
from headrace.sink import Sink
from headrace.types import Prediction

sys.path.insert(0, str(Path(__file__).parent))  # test files are no package
from fake_server import FakeServer

sync_api = pytest.importorskip("playwright.sync_api")
expect = sync_api.expect
expect.set_options(timeout=60_000)

PAGE = Path(__file__).parents[2] / "src" / "headrace" / "serve" / "page"
CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
needs_chromium = pytest.mark.skipif(CHROMIUM is None, reason="no chromium on PATH: the page is not tested")
SWITCHES = [
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
]
HOSTILE = (
    "</pre></script><script>window.ran = 1</script><img src=x onerror='window.ran = 2'>"
    "<a href='javascript:window.ran=3'>a</a> \u202eabc\u202c \u05e9\u05dc\u05d5\u05dd \x1b[31m &amp; 👩‍👩‍👧 &lt;"
)


@pytest.fixture(scope="module")
def browser():
    with sync_api.sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=SWITCHES)
        yield browser
        browser.close()


@pytest.fixture(scope="module")
def stores(tmp_path_factory):
    """Two jobs, one of them not done, with errors and hostile rows; and one that has not begun."""
    out = tmp_path_factory.mktemp("stores")
    failed = {"type": "ConfigError", "message": f"too long {HOSTILE}"}
    for name, rows, wanted in (("whole", 130, 130), ("half done", 40, 80)):
        with Sink(
            out / name, request={"model": "a" * 32, "num_prompts": wanted, "num_samples": 1}, part_rows=25
        ) as sink:
            for i in range(rows):
                error = failed if i % 20 == 7 else None
                sink.put(
                    Prediction(
                        prompt_id=f"row-{i:04d}",
                        sample_index=0,
                        prompt=f"prompt {i} {HOSTILE}",
                        text="" if error else f"answer {i} {'a needle' if i % 40 == 3 else 'hay'} {HOSTILE}",
                        token_ids=() if error else (5, 6, 7),
                        finish_reason="error" if error else "stop",
                        logprobs=None if error else (-0.01, -1.0, -5.0),
                        prompt_tokens=3,
                        completion_tokens=0 if error else 3,
                        error=error,
                    )
                )
    return {name: str(out / name) for name in ("whole", "half done", "not begun")}


@pytest.fixture(scope="module")
def one_server(stores):
    with FakeServer(stores=stores) as server:
        yield server


@pytest.fixture
def server(one_server):
    one_server.reset()
    return one_server


@pytest.fixture
def open_page(browser):
    """Open a URL in a context of its own; afterwards the promises of the module's first lines are checked."""
    opened = []

    def open_(url, *, may_say=r"$^", **options):
        context = browser.new_context(**({"viewport": {"width": 1200, "height": 800}} | options))
        page = context.new_page()
        asked, said = [], []
        context.on("request", lambda request: asked.append(request.url))
        page.on(
            "console",
            lambda message: said.append(message.text) if message.type in ("error", "warning") else None,
        )
        page.on("pageerror", lambda error: said.append(str(error)))
        page.set_default_timeout(15_000)
        opened.append((page, url, asked, said, may_say))
        page.goto(url)
        return page

    yield open_
    for page, url, asked, said, may_say in opened:
        origin = re.match(r"https?://[^/]+", url).group()
        assert [other for other in asked if not other.startswith((origin, "data:"))] == []
        assert [line for line in said if not re.search(may_say, line)] == []
        assert page.evaluate("window.ran") is None
        assert (
            page.locator(
                "img, main a:not([href^='https://example.org/'][rel~=noopener]), iframe, object"
            ).count()
            == 0
        )
        page.context.close()


@pytest.fixture
def page(server, open_page):
    return open_page(server.url)


def write(page, text="Once"):
    page.get_by_label("Prompt", exact=True).fill(text)
    page.keyboard.press("Control+Enter")


def ended(page, how="ended"):
    expect(page.locator(".output .end").last).to_have_text(f"· {how}")


def output(page, nth=0):
    return page.locator(".output .tokens").nth(nth).evaluate("node => node.textContent")


# ---- the file -------------------------------------------------------------------------------------------------------


def test_the_policy_allows_the_servers_own_files_and_nothing_else():
    rules = dict(rule.strip().split(" ", 1) for rule in POLICY.split(";"))
    assert rules["default-src"] == "'none'"
    assert rules["script-src"] == rules["style-src"] == rules["connect-src"] == "'self'"
    assert rules["frame-ancestors"] == "'none'"
    assert rules["require-trusted-types-for"] == "'script'"
    html = (PAGE / "index.html").read_text("utf-8")
    assert not re.search(r"<script(?![^>]* src=)|<style|\son[a-z]+=|\sstyle=", html)


def test_the_page_names_no_other_place():
    for file in PAGE.iterdir():
        text = file.read_text("utf-8") if file.suffix in (".html", ".css", ".js") else ""
        text = text.replace("http://www.w3.org/2000/svg", "")
        assert not re.search(
            r"""(src|href)\s*=\s*["'](?!data:|page/)|https?://|@import|(?<![a-zA-Z])url\(|innerHTML|outerHTML|insertAdjacentHTML|eval\(""",
            text,
        ), file


# ---- Write ----------------------------------------------------------------------------------------------------------


@needs_chromium
def test_the_page_says_how_far_the_model_is_until_it_is_loaded(server, open_page):
    server.health = {
        "status": "loading",
        "share": 0.429,
        "bytes_total": 3 << 30,
        "rate": "812 MB/s, limited by the disk",
        "waiting": 2,
    }
    page = open_page(server.url, may_say="503")
    expect(page.locator("#loading")).to_have_text(
        "The model is loading: 42 % of 3 GiB; 812 MB/s, limited by the disk; 2 requests wait."
    )
    server.health = {"status": "ok"}
    expect(page.locator("#loading")).to_be_hidden()


@needs_chromium
def test_tokens_appear_while_the_server_still_writes(server, page):
    rest = threading.Event()
    server.script = [" one", " two", " three"] * 10 + [rest] + [" one", " two", " three"] * 10
    write(page)
    expect(page.locator(".t").nth(3)).to_be_visible()
    expect(page.get_by_role("button", name="Stop")).to_be_visible()
    expect(page.locator("#stats")).to_contain_text("first token")
    expect(page.locator("#stats")).to_contain_text("tokens/s")
    expect(page.locator(".t")).to_have_count(30)
    rest.set()
    ended(page)
    assert output(page) == " one two three" * 20
    expect(page.locator("#stats")).to_contain_text("60 tokens")
    expect(page.get_by_role("button", name="Run")).to_be_visible()


@needs_chromium
@pytest.mark.parametrize("how", ["button", "Escape"])
def test_stop_ends_the_servers_work(server, page, how):
    server.script, server.pace_s = [" word"] * 1000, 0.02
    write(page)
    expect(page.locator(".t").nth(4)).to_be_visible()
    if how == "button":
        page.get_by_role("button", name="Stop").click()
    else:
        page.keyboard.press("Escape")
    ended(page, "stopped by you")
    assert server.cancelled.wait(60)
    before = output(page)
    assert before.startswith(" word word")
    page.wait_for_timeout(100)
    assert output(page) == before
    expect(page.locator("#write-problem")).to_be_hidden()


@needs_chromium
@pytest.mark.parametrize("mode", ["Completion", "Chat"])
def test_hostile_text_is_shown_as_text(server, page, mode):
    server.script = [HOSTILE[i : i + 3] for i in range(0, len(HOSTILE), 3)]
    page.get_by_label(mode).check()
    page.get_by_label("Message" if mode == "Chat" else "Prompt", exact=True).fill(HOSTILE)
    page.keyboard.press("Control+Enter")
    ended(page)
    assert output(page) == HOSTILE
    if mode == "Chat":
        page.get_by_role("button", name="Tokens").click()
    page.locator(".t").nth(2).hover()
    expect(page.get_by_role("tooltip")).to_contain_text("<b>other</b>")
    expect(page.get_by_role("tooltip")).to_contain_text("\\u{202e}")


@needs_chromium
def test_a_character_cut_across_tokens_is_whole_and_every_token_can_be_looked_at(server, page):
    server.script = [
        " a",
        ("", ["\ufffd"]),
        ("", ["\ufffd"]),
        ("🌊", ["\ufffd"]),
        " b",
        ("", [" EN"]),
        (" ENd", ["d"]),
        ("", ["<|end|>"]),
    ]
    write(page)
    ended(page)
    assert output(page) == " a🌊 b ENd"
    texts = page.locator(".t").all_text_contents()
    assert texts == [" a", "", "", "🌊", " b", " EN", "d", ""]


@needs_chromium
def test_pieces_that_come_together_are_laid_over_their_tokens(server, page):
    """A client that lags gets several tokens at once, characters that were cut among them."""
    server.script = [(" a🌊 b c", [" a", "\ufffd", "\ufffd", "\ufffd", " b", " c"]), ("no tokens", [])]
    write(page)
    ended(page)
    assert output(page) == " a🌊 b cno tokens"
    assert page.locator(".t").all_text_contents() == [" a", "", "", "🌊", " b", " c"]


@needs_chromium
def test_a_tokens_alternatives_are_seen_by_mouse_touch_and_keyboard(server, open_page):
    server.script = [" Hello", " wide", " world"]
    page = open_page(server.url, has_touch=True)
    write(page)
    ended(page)
    peek = page.get_by_role("tooltip")
    page.locator(".t").nth(1).hover()
    expect(peek).to_contain_text("·wide")
    expect(peek).to_contain_text("95.1 %")
    expect(peek.locator(".alt")).to_have_count(4)
    expect(peek.locator(".chosen")).to_contain_text("·wide")
    page.keyboard.press("Escape")
    expect(peek).to_be_hidden()
    page.locator(".t").nth(2).tap()
    expect(peek).to_contain_text("·world")
    page.locator(".tokens").focus()
    page.keyboard.press("Home")
    expect(peek).to_contain_text("·Hello")
    page.keyboard.press("ArrowRight")
    expect(peek).to_contain_text("·wide")
    expect(page.locator("#peek-announcement")).to_contain_text("·wide, 95.1 %")
    shades = [node.get_attribute("class").removesuffix(" here") for node in page.locator(".t").all()]
    assert shades == ["t p1", "t p0", "t p1"]
    page.get_by_label("Colour by probability").uncheck()
    write(page)
    ended(page)
    assert "logprobs" not in server.requests[-1]


@needs_chromium
def test_what_is_set_is_what_is_asked_for_and_curl_asks_for_the_same(server, page):
    values = {
        "Temperature": ("temperature", 0.35), "Top-p": ("top_p", 0.9), "Top-k": ("top_k", 40), "Min-p": ("min_p", 0.05),
        "Repetition penalty": ("repetition_penalty", 1.1), "Presence penalty": ("presence_penalty", -0.5),
        "Frequency penalty": ("frequency_penalty", 0.25), "Max tokens": ("max_tokens", 7), "Seed": ("seed", 11),
        "Answers (n)": ("n", 2),
    }  # fmt: skip
    for label, (_, value) in values.items():
        page.locator("#sampling").get_by_label(label).fill(str(value))
    page.get_by_label("Stop strings").fill("\\n\\n\nEND's")
    page.get_by_text("The same request with curl").click()
    write(page, 'it\'s "quoted" $HOME `x` \\ é\n')
    ended(page)
    sent = server.requests[-1]
    wanted = dict(values.values())
    assert {name: sent[name] for name in wanted} == wanted
    assert sent["stop"] == ["\n\n", "END's"]
    assert sent["stream"] is True
    assert sent["model"] == "fake-125m"
    words = shlex.split(page.locator("#curl").text_content())
    assert words[:3] == ["curl", "-N", f"{server.url}/v1/completions"]
    assert json.loads(words[-1]) == sent
    page.reload()
    expect(page.locator("#temperature")).to_have_value("0.35")
    page.get_by_role("button", name="Reset").click()
    write(page)
    ended(page)
    assert set(server.requests[-1]) == {
        "model",
        "prompt",
        "temperature",
        "max_tokens",
        "logprobs",
        "stream",
        "stream_options",
    }
    page.locator("#temperature").fill("7")
    write(page)
    page.wait_for_timeout(100)
    assert len(server.requests) == 2


@needs_chromium
def test_several_answers_stand_side_by_side(server, page):
    page.get_by_label("Answers (n)").fill("3")
    write(page)
    expect(page.locator(".output")).to_have_count(3)
    ended(page)
    assert [output(page, i) for i in range(3)] == ["Hello world"] * 3


@needs_chromium
def test_a_conversation_is_sent_whole_and_can_begin_anew(server, page):
    page.get_by_label("Chat").check()
    page.get_by_text("System message").click()
    page.get_by_label("System message").fill("Be short.")
    message = page.get_by_label("Message", exact=True)
    message.fill("Hi")
    page.keyboard.press("Control+Enter")
    ended(page)
    expect(message).to_have_value("")
    message.fill("More")
    page.keyboard.press("Control+Enter")
    expect(page.locator(".output")).to_have_count(2)
    ended(page)
    assert [(m["role"], m["content"]) for m in server.requests[-1]["messages"]] == [
        ("system", "Be short."), ("user", "Hi"), ("assistant", "Hello world"), ("user", "More"),
    ]  # fmt: skip
    page.get_by_role("button", name="New conversation").click()
    message.fill("Again")
    page.keyboard.press("Control+Enter")
    ended(page)
    assert [m["content"] for m in server.requests[-1]["messages"]] == ["Be short.", "Again"]


@needs_chromium
def test_a_conversation_goes_on_with_the_answer_that_was_chosen(server, page):
    page.get_by_label("Chat").check()
    page.get_by_label("Answers (n)").fill("2")
    server.script = ["Answer", " INDEX"]
    for text in ("Hi", "More"):
        page.get_by_label("Message", exact=True).fill(text)
        page.keyboard.press("Control+Enter")
        ended(page)
        last = page.get_by_role("button", name="Go on with this").last
        expect(last).to_have_attribute("aria-pressed", "false")
        last.click()
        expect(last).to_have_attribute("aria-pressed", "true")
    page.get_by_label("Message", exact=True).fill("End")
    page.keyboard.press("Control+Enter")
    expect(page.locator(".output")).to_have_count(6)
    ended(page)
    said = [m["content"] for m in server.requests[-1]["messages"]]
    assert said == ["Hi", "Answer 1", "More", "Answer 1", "End"]


@needs_chromium
def test_a_result_is_copied_to_the_byte(server, open_page):
    server.script = [HOSTILE, "\n\n  end "]
    page = open_page(server.url, permissions=["clipboard-read", "clipboard-write"])
    write(page)
    ended(page)
    page.locator(".output").get_by_role("button", name="Copy").click()
    expect(page.get_by_role("button", name="Copied")).to_be_visible()
    assert page.evaluate("navigator.clipboard.readText()") == HOSTILE + "\n\n  end "


# ---- conversations --------------------------------------------------------------------------------------------------


MARKDOWN = """# Title

Some **bold**, *italic*, ~~old~~ and `code`, a [link](https://example.org/a "t"), ![image](https://example.org/i.png)
[script](javascript:window.ran=1) [data](data:text/html,x) <b>tag</b> <https://example.org/b>

- one
  - inner
- [x] done
- [ ] open

3. three
4. four

> quoted
> more

| a | b |
|:--|--:|
| 1 | x\\|y |

---

```python
x = "<script>window.ran = 1</script>"
```
"""


def talk(page, text):
    page.get_by_label("Message", exact=True).fill(text)
    page.keyboard.press("Enter")
    ended(page)


@pytest.fixture
def chat(server, open_page):
    server.chat_template = True
    page = open_page(server.url, permissions=["clipboard-read", "clipboard-write"])
    expect(page.get_by_label("Chat", exact=True)).to_be_checked()  # a chat model opens on Chat
    return page


@needs_chromium
def test_an_answer_is_shown_as_markdown_and_nothing_in_it_becomes_a_script(server, chat):
    server.script = [MARKDOWN[i : i + 7] for i in range(0, len(MARKDOWN), 7)]
    talk(chat, "Hi")
    shown = chat.locator(".markdown")
    expect(shown.locator("h4")).to_have_text("Title")
    for tag, text in (
        ("strong", "bold"),
        ("em", "italic"),
        ("del", "old"),
        ("p > code", "code"),
        ("blockquote", "quoted\nmore"),
    ):
        assert shown.locator(tag).first.inner_text() == text
    assert shown.locator("a").evaluate_all("links => links.map(a => [a.textContent, a.href])") == [
        ["link", "https://example.org/a"], ["image", "https://example.org/i.png"], ["https://example.org/b", "https://example.org/b"],
    ]  # fmt: skip
    assert "[script](javascript:window.ran=1)" in shown.inner_text()
    assert "<b>tag</b>" in shown.inner_text()
    assert shown.locator("ul > li").count() == 4
    assert shown.locator("ul ul > li").inner_text() == "inner"
    assert shown.locator("input[type=checkbox]").evaluate_all("boxes => boxes.map(b => b.checked)") == [
        True,
        False,
    ]
    assert shown.locator("ol").get_attribute("start") == "3"
    assert shown.locator("td").all_inner_texts() == ["1", "x|y"]
    assert shown.locator("hr").count() == 1
    assert shown.locator("pre code").text_content() == 'x = "<script>window.ran = 1</script>"'
    shown.get_by_role("button", name="Copy code").click()
    assert chat.evaluate("navigator.clipboard.readText()") == 'x = "<script>window.ran = 1</script>"'


@needs_chromium
@pytest.mark.parametrize(
    "text",
    [
        "*" * 3000, "_a" * 3000, "[" * 3000, "`" * 3000 + "x", "> " * 3000 + "a", "- " * 3000 + "a", "|" * 3000,
        "**a " * 3000, "![](" * 3000, "<" * 3000, "\\" * 3001, "#" * 3000, "```\n" * 501, "| a |\n|---|\n" * 500,
        HOSTILE * 20,
    ],
)  # fmt: skip
def test_no_text_stops_the_page(server, chat, text):
    """Deep and unfinished Markdown is drawn in a moment, and all its letters are there or are marks."""
    server.script = [text]
    talk(chat, "Hi")
    took_ms = chat.evaluate(
        "async text => { const { markdown } = await import('/page/markdown.js'); const began = performance.now();"
        " markdown(text); return performance.now() - began; }",
        text,
    )
    assert took_ms < 15_000  # what backtracks takes hours
    talk(chat, "still there?")


@needs_chromium
def test_conversations_are_listed_and_kept_over_a_reload(server, chat):
    server.script = ["**Answer**"]
    talk(chat, "First question")
    chat.get_by_role("button", name="New conversation").click()
    talk(chat, "Second question")
    listed = chat.get_by_role("navigation", name="Conversations").locator("li button:first-child")
    expect(listed).to_have_text(["Second question", "First question"])
    chat.reload()
    expect(listed).to_have_text(["Second question", "First question"])
    expect(chat.locator(".turn.user pre")).to_have_text("Second question")
    expect(chat.locator(".markdown strong")).to_have_text("Answer")
    listed.nth(1).click()
    expect(chat.locator(".turn.user pre")).to_have_text("First question")
    talk(chat, "And then?")
    assert [m["content"] for m in server.requests[-1]["messages"]] == [
        "First question",
        "**Answer**",
        "And then?",
    ]
    chat.get_by_role("button", name="Delete First question").click()
    expect(listed).to_have_text(["Second question"])
    chat.reload()
    expect(listed).to_have_text(["Second question"])


@needs_chromium
def test_two_tabs_keep_each_others_conversations(server, chat):
    other = chat.context.new_page()
    other.goto(server.url)
    talk(chat, "In the first tab")
    other.get_by_role("button", name="New conversation").click()
    talk(other, "In the second tab")
    talk(chat, "Again in the first")
    for page in (chat, other):
        expect(page.locator("#conversation-list li")).to_have_count(2)
        page.reload()
        expect(page.locator("#conversation-list li")).to_have_count(2)


@needs_chromium
def test_a_message_is_edited_and_an_answer_is_made_again(server, chat):
    server.script = ["one"]
    talk(chat, "Hi")
    talk(chat, "More")
    chat.locator(".turn.user").first.hover()
    chat.locator(".turn.user").first.get_by_role("button", name="Edit").click()
    chat.get_by_label("Edited message").fill("Hello")
    chat.get_by_role("button", name="Send edited").click()
    expect(chat.locator(".turn.user pre")).to_have_text(["Hello"])
    ended(chat)
    assert [m["content"] for m in server.requests[-1]["messages"]] == ["Hello"]
    server.script = ["two"]
    chat.get_by_role("button", name="Regenerate").click()
    expect(chat.locator(".output")).to_have_count(2)
    ended(chat)
    assert [m["content"] for m in server.requests[-1]["messages"]] == ["Hello"]
    assert chat.locator(".markdown").all_inner_texts() == ["one", "two"]
    talk(chat, "Go on")
    assert [m["content"] for m in server.requests[-1]["messages"]] == ["Hello", "two", "Go on"]


@needs_chromium
def test_an_answer_that_fails_leaves_the_conversation_and_the_message(server, open_page):
    server.chat_template = True
    page = open_page(server.url, may_say="429")
    talk(page, "Hi")
    server.refuse = (429, "full", {"retry-after": "0"})
    page.get_by_label("Message", exact=True).fill("More")
    page.keyboard.press("Enter")
    expect(page.get_by_role("alert")).to_contain_text("busy")
    expect(page.get_by_label("Message", exact=True)).to_have_value("More")
    expect(page.locator(".turn.user pre")).to_have_text(["Hi"])
    server.refuse = None
    page.keyboard.press("Enter")
    expect(page.locator(".output")).to_have_count(2)
    ended(page)
    assert [m["content"] for m in server.requests[-1]["messages"]] == ["Hi", "Hello world", "More"]


@needs_chromium
def test_a_file_is_taken_into_the_message_or_the_prompt(server, chat, tmp_path):
    (tmp_path / "notes.md").write_text("a ``` fence\r\nline\n")
    (tmp_path / "image.png").write_bytes(b"\x89PNG\xff\x00")
    field = chat.locator("#file")
    field.set_input_files([tmp_path / "notes.md", tmp_path / "image.png"])
    expect(chat.get_by_role("alert")).to_contain_text("image.png is not a text")
    expect(chat.locator("#attachments")).to_contain_text("notes.md")
    talk(chat, "Sum up")
    assert (
        server.requests[-1]["messages"][-1]["content"] == "notes.md:\n````\na ``` fence\nline\n````\n\nSum up"
    )
    expect(chat.locator(".turn.user .attachments")).to_contain_text("notes.md")
    expect(chat.locator("#attachments")).to_be_hidden()
    chat.get_by_label("Completion").check()
    chat.get_by_label("Prompt", exact=True).fill("")
    field.set_input_files(tmp_path / "notes.md")
    expect(chat.get_by_label("Prompt", exact=True)).to_have_value("a ``` fence\nline\n")


@needs_chromium
def test_a_base_model_opens_on_completion_and_the_choice_is_remembered(server, open_page):
    page = open_page(server.url)
    expect(page.get_by_label("Completion")).to_be_checked()
    server.chat_template = True
    page.reload()
    expect(page.get_by_label("Chat", exact=True)).to_be_checked()
    page.get_by_label("Completion").check()
    page.reload()
    expect(page.locator("#model option")).to_have_count(1)
    expect(page.get_by_label("Completion")).to_be_checked()


# ---- what goes wrong ------------------------------------------------------------------------------------------------


@needs_chromium
def test_a_server_with_keys_asks_for_one_and_goes_on(stores, open_page):
    with FakeServer(stores=stores, api_key="sk-secret") as server:
        page = open_page(server.url, may_say="401")
        expect(page.get_by_role("alert")).to_contain_text("asks for an API key")
        write(page)
        dialog = page.get_by_role("dialog")
        dialog.get_by_label("API key").fill("sk-secret")
        page.keyboard.press("Enter")
        ended(page)
        assert output(page) == "Hello world"
        expect(page.get_by_role("alert")).to_be_hidden()
        page.get_by_text("The same request with curl").click()
        expect(page.locator("#curl")).to_contain_text('-H "Authorization: Bearer $API_KEY"')
        assert "sk-secret" not in page.locator("body").text_content()
        assert "sk-secret" not in page.evaluate("JSON.stringify({...localStorage}) + location.href")


@needs_chromium
def test_a_busy_server_says_how_long_to_wait_and_then_it_works(server, open_page):
    page = open_page(server.url, may_say="429")
    server.refuse = (429, "the queue holds 64.", {"retry-after": "1"})
    write(page)
    alert = page.get_by_role("alert")
    expect(alert).to_contain_text("The server is busy: the queue holds 64.")
    expect(alert.get_by_role("button", name="Wait 1 s")).to_be_disabled()
    server.refuse = None
    alert.get_by_role("button", name="Try again").click()
    ended(page)
    expect(alert).to_be_hidden()


@needs_chromium
@pytest.mark.parametrize(
    ("fault", "words"),
    [
        (ConnectionError("gone"), "broke off before its end"),
        (
            {"error": {"message": "the device fell off"}},
            "failed while it was writing: the device fell off",
        ),
    ],
)
def test_an_answer_that_breaks_off_says_so_and_keeps_what_came(server, open_page, fault, words, caplog):
    caplog.set_level("CRITICAL", logger="uvicorn.error")
    page = open_page(server.url, may_say="ERR_INCOMPLETE_CHUNKED")
    # A browser drops what it has received and not yet handed over when the connection breaks.
    shown = threading.Event()
    server.script = [" a", shown, fault]
    write(page)
    expect(page.locator(".output .tokens")).to_have_text("a")
    shown.set()
    expect(page.get_by_role("alert")).to_contain_text(words)
    ended(page, "failed")
    assert output(page) == " a"


@needs_chromium
def test_a_refusal_and_a_dead_server_are_said_in_words(open_page):
    with FakeServer() as server:
        page = open_page(server.url, may_say="400|ERR_CONNECTION")
        server.refuse = (400, "temperature is 9; it must be 0 to 2.")
        write(page)
        expect(page.get_by_role("alert")).to_have_text(re.compile("^temperature is 9; it must be 0 to 2."))
    page.keyboard.press("Control+Enter")
    expect(page.get_by_role("alert")).to_contain_text("does not answer. Is it still running?")
    expect(page.locator("#connection")).to_have_text("The server does not answer")
    expect(page.get_by_label("Prompt", exact=True)).to_have_value("Once")
    page.get_by_role("tab", name="Predictions").click()
    expect(page.get_by_role("alert")).to_contain_text("does not answer. Is it still running?")
    expect(page.get_by_text("shows no prediction store")).to_have_count(0)


# ---- Live -----------------------------------------------------------------------------------------------------------


@needs_chromium
def test_the_plots_count_time_in_whole_minutes(server, page):
    page.get_by_role("tab", name="Live").click()
    text = page.get_by_role("img", name="Requests, last 5 minutes").locator("text")
    expect(text.last).to_have_text("now")
    ago = [label for label in text.all_text_contents() if label.endswith("min")]
    assert ago == [f"\N{MINUS SIGN}{minutes} min" for minutes in (5, 4, 3, 2, 1)]


@needs_chromium
def test_the_plots_follow_the_servers_metrics(server, page):
    server.running.set(3)
    server.waiting.set(2)
    page.get_by_role("tab", name="Live").click()
    tile = page.locator("#tiles div")
    expect(tile.nth(0)).to_have_text(re.compile(r"^Running3"))
    expect(tile.nth(1)).to_have_text(re.compile(r"^Waiting2"))
    plot = page.get_by_role("img", name="Requests, last 5 minutes: running 3, waiting 2")
    expect(plot).to_be_visible()
    server.running.set(7)
    server.generated.inc(500)
    server.prompted.inc(100)
    for _ in range(40):
        server.times["inter_token_latency_seconds"].observe(0.012)
        server.times["time_to_first_token_seconds"].observe(0.2)
    expect(page.get_by_role("img", name="Requests, last 5 minutes: running 7, waiting 2")).to_be_visible()
    expect(page.locator(".plot").first.locator("path.s0")).to_have_count(1)
    rate = tile.nth(2).locator("dd")
    expect(rate).to_have_text(re.compile(r"[1-9]\d* tokens/s"))
    # Buckets are a factor of 1.5 apart.
    first_ms = float(re.match(r"([\d.]+) ms", tile.nth(3).locator("dd").text_content()).group(1))
    between_ms = float(re.match(r"([\d.]+) ms", tile.nth(4).locator("dd").text_content()).group(1))
    assert 200 / 1.5 <= first_ms <= 200 * 1.5
    assert 12 / 1.5 <= between_ms <= 12 * 1.5
    page.get_by_role("button", name="Pause").click()
    polled = server.paths.count("/metrics/history")
    page.wait_for_timeout(1300)
    assert server.paths.count("/metrics/history") <= polled + 1
    page.get_by_role("button", name="Go on").click()
    expect(page.locator("#live-state")).to_have_text("Read once a second")


@needs_chromium
def test_the_plots_show_what_was_before_the_page_was_opened(server, open_page, monkeypatch):
    now = server.history._clock()
    server.history._samples.clear()
    server.history._recent.clear()
    for second in range(60):
        monkeypatch.setattr(server.history, "_clock", lambda second=second: now - 60 + second)
        server.running.set(second % 7)
        server.generated.inc(10)
        server.history.take()
    monkeypatch.undo()
    page = open_page(f"{server.url}/#live")
    line = page.locator(".plot").first.locator("path.s0")
    expect(line).to_have_count(1)
    assert line.first.get_attribute("d").count("L") > 50
    expect(page.locator("#tiles div").nth(2).locator("dd")).to_have_text(re.compile(r"\d"))


# ---- Predictions ----------------------------------------------------------------------------------------------------


@needs_chromium
def test_stores_are_listed_and_rows_come_page_by_page(page):
    page.get_by_role("tab", name="Predictions").click()
    stores = page.get_by_role("navigation", name="Prediction stores").get_by_role("button")
    expect(stores.nth(0)).to_contain_text("130 rows")
    expect(stores.nth(0)).to_contain_text("7 errors")
    expect(stores.nth(1)).to_contain_text("40 of 80 rows")
    expect(stores.nth(2)).to_contain_text("nothing stored yet")
    place = page.locator("#place")
    expect(place).to_have_text("1 to 50 of 130")
    expect(page.get_by_role("button", name="Previous", exact=True)).to_be_disabled()
    page.get_by_role("button", name="Next", exact=True).click()
    expect(place).to_have_text("51 to 100 of 130")
    expect(page.locator("#list tbody tr").first).to_contain_text("row-0050")
    page.get_by_role("button", name="Next", exact=True).click()
    expect(place).to_have_text("101 to 130 of 130")
    expect(page.get_by_role("button", name="Next", exact=True)).to_be_disabled()
    page.go_back()
    expect(place).to_have_text("51 to 100 of 130")
    page.reload()
    expect(place).to_have_text("51 to 100 of 130")
    stores.nth(1).click()
    expect(place).to_have_text("1 to 40 of 40")
    assert page.url.endswith("#predictions/half%20done")


@needs_chromium
def test_search_and_errors_filter_and_a_row_is_shown_in_full(page):
    page.get_by_role("tab", name="Predictions").click()
    page.get_by_role("searchbox").fill("A NEEDLE")
    expect(page.locator("#place")).to_have_text("4 found of 130")
    expect(page.locator("mark").first).to_have_text("a needle")
    page.get_by_role("searchbox").fill("")
    page.get_by_label("Only errors").check()
    expect(page.locator("#place")).to_have_text("7 found of 130")
    page.get_by_role("button", name="row-0027").click()
    row = page.get_by_role("article", name="One row")
    expect(row).to_contain_text("ConfigError: too long </pre></script><script>")
    page.get_by_role("button", name="Close").click()
    expect(row).to_be_hidden()
    expect(page.get_by_role("button", name="row-0027")).to_be_focused()
    page.get_by_label("Only errors").uncheck()
    page.get_by_role("button", name="row-0003").click()
    expect(row).to_contain_text("row-0003")
    assert row.locator("pre").nth(1).text_content() == f"answer 3 a needle {HOSTILE}"
    expect(row.locator(".chip")).to_have_text(["5", "6", "7"])
    expect(row.locator(".facts")).to_contain_text("mean log-probability-2.003")
    expect(row.locator(".facts")).to_contain_text("finish reasonstop")
    row.locator(".chip").nth(1).hover()
    expect(page.get_by_role("tooltip")).to_contain_text("36.8 %")
    row.get_by_role("button", name="Next row").click()
    expect(row).to_contain_text("row-0004")
    page.reload()
    expect(row).to_contain_text("row-0004")
    row.get_by_role("button", name="Use prompt in Write").click()
    expect(page.get_by_label("Prompt", exact=True)).to_have_value(f"prompt 4 {HOSTILE}".replace("\r", "\n"))


@pytest.fixture(scope="module")
def two_stores(tmp_path_factory):
    """Two jobs over the same prompts, in another order; ids that are hard to show."""
    out = tmp_path_factory.mktemp("compare")
    ids = ["x" * 5000, "   ", "abc\u202edef", "\u200b", *(f"row-{i:02d}" for i in range(8))]
    for name, order in (("base", ids), ("tuned", ids[::-1][1:])):
        with Sink(out / name, request={"model": name}, part_rows=5) as sink:
            for prompt_id in order:
                text = f"the {name if ids.index(prompt_id) % 3 == 0 else 'same'} answer of {ids.index(prompt_id)}"
                sink.put(
                    Prediction(
                        prompt_id=prompt_id,
                        sample_index=0,
                        prompt="p",
                        text=text,
                        token_ids=(1,),
                        finish_reason="stop",
                    )
                )
    return {name: str(out / name) for name in ("base", "tuned")}


@needs_chromium
def test_long_blank_and_turned_ids_are_one_line_that_can_be_clicked(two_stores, open_page):
    with FakeServer(stores=two_stores) as server:
        page = open_page(f"{server.url}/#predictions", may_say="ERR_CONNECTION")
        links = page.locator("#list .link")
        expect(links).to_have_count(12)
        for i in range(12):
            box = links.nth(i).bounding_box()
            assert box["height"] < 30
            assert box["width"] >= 24
        texts = links.all_text_contents()
        assert "(blank)" in texts
        assert "abc\\u{202e}def" in texts
        assert "\\u{200b}" in texts
        assert max(len(text) for text in texts) <= 60
        page.get_by_role("button", name="(blank)").first.click()
        expect(page.get_by_role("article", name="One row")).to_contain_text("(blank) #0")


@needs_chromium
def test_two_stores_are_compared_row_by_row(two_stores, open_page):
    with FakeServer(stores=two_stores) as server:
        page = open_page(f"{server.url}/#predictions/base", may_say="ERR_CONNECTION")
        page.get_by_label("Compare with").select_option("tuned")
        rows = page.locator("#list tbody tr")
        expect(rows).to_have_count(12)
        for verdict, count in (("different", 4), ("same", 7), ("missing", 1)):
            expect(rows.locator(".end").get_by_text(verdict, exact=True)).to_have_count(count)
        page.get_by_label("Only different").check()
        expect(rows).to_have_count(5)
        page.get_by_role("button", name="row-02").click()
        row = page.get_by_role("article", name="One row")
        expect(row.locator(".versus pre")).to_have_text(["the base answer of 6", "the tuned answer of 6"])
        expect(row.locator(".versus mark")).to_have_text(["base", "tuned"])
        page.reload()
        expect(row.locator(".versus mark")).to_have_text(["base", "tuned"])
        expect(rows).to_have_count(5)


@needs_chromium
def test_a_job_that_runs_is_followed(tmp_path, open_page):
    request = {"model": "a" * 32, "num_prompts": 4, "num_samples": 1}

    def put(sink, i):
        sink.put(
            Prediction(
                prompt_id=f"{i}", sample_index=0, prompt="p", text="t", token_ids=(1,), finish_reason="stop"
            )
        )

    out = tmp_path / "out"
    with (
        Sink(out, request=request, part_rows=2) as sink,
        FakeServer(stores={"job": str(out)}) as server,
    ):
        page = open_page(f"{server.url}/#predictions/job", may_say="ERR_CONNECTION_REFUSED")
        expect(page.locator(".list")).to_contain_text("No row is committed yet")
        put(sink, 0)
        put(sink, 1)
        expect(page.locator("#list tbody tr")).to_have_count(2)
        expect(page.get_by_role("progressbar", name="job: rows committed")).to_be_visible()


# ---- for everyone ---------------------------------------------------------------------------------------------------


@needs_chromium
def test_a_phone_scrolls_in_one_direction_only(server, open_page):
    server.script = ["x" * 3000, " " + "🌊" * 300, " <pre>" + " " * 400 + "</pre>"]
    page = open_page(server.url, viewport={"width": 360, "height": 740}, has_touch=True, is_mobile=True)
    wide = "[document.documentElement.scrollWidth, document.documentElement.clientWidth]"
    write(page, "y" * 800)
    ended(page)
    page.locator("#sampling > summary").click()
    page.get_by_text("The same request with curl").click()
    assert page.evaluate(wide) == [360, 360]
    page.locator(".t").first.tap()
    box = page.get_by_role("tooltip").bounding_box()
    assert box["x"] >= 0
    assert box["x"] + box["width"] <= 360
    page.get_by_role("tab", name="Live").click()
    expect(page.locator("#live-state")).to_have_text("Read once a second")
    assert page.evaluate(wide) == [360, 360]
    page.get_by_role("tab", name="Predictions").click()
    expect(page.locator("#list tbody tr")).to_have_count(50)
    assert page.evaluate(wide) == [360, 360]
    page.locator("#list tbody tr").nth(3).tap()
    expect(page.get_by_role("article", name="One row")).to_contain_text("row-0003")
    assert page.evaluate(wide) == [360, 360]
    small = page.evaluate(
        "[...document.querySelectorAll('button, select')].filter(b => b.checkVisibility() && "
        "b.getBoundingClientRect().height < 24 && !b.matches('.link')).map(b => b.textContent)"
    )
    assert small == []


@needs_chromium
def test_the_keyboard_alone_writes_stops_and_changes_tabs(server, page):
    server.script, server.pace_s = [" word"] * 1000, 0.02

    def tab_to(wanted):
        for _ in range(40):
            page.keyboard.press("Tab")
            if page.evaluate("document.activeElement.id || document.activeElement.value") == wanted:
                return
        pytest.fail(f"Tab never came to {wanted}")

    tab_to("prompt")
    page.keyboard.type("Once upon")
    tab_to("run")
    page.keyboard.press("Enter")
    expect(page.locator(".t").nth(2)).to_be_visible()
    expect(page.locator("#run")).to_be_focused()
    expect(page.locator("#progress")).to_have_text("Writing")
    page.keyboard.press("Escape")
    ended(page, "stopped by you")
    expect(page.locator("#progress")).to_contain_text("stopped by you")
    assert server.requests[0]["prompt"] == "Once upon"
    tab_to("tab-write")
    page.keyboard.press("ArrowRight")
    expect(page.get_by_role("tabpanel", name="Live")).to_be_visible()
    page.keyboard.press("End")
    expect(page.get_by_role("tabpanel", name="Predictions")).to_be_visible()
    assert page.evaluate("document.activeElement.id") == "tab-predictions"
    tab_to("query")
    page.keyboard.press("Tab")
    page.keyboard.press("Space")
    expect(page.locator("#place")).to_have_text("7 found of 130")


@needs_chromium
def test_every_control_has_a_name_and_a_visible_focus(page):
    for tab in ("Write", "Live", "Predictions"):
        page.get_by_role("tab", name=tab).click()
        if tab == "Predictions":
            page.get_by_role("button", name="row-0000").click()
            expect(page.get_by_role("article", name="One row")).to_be_visible()
        nameless = page.evaluate(
            "[...document.querySelectorAll('button, input:not([aria-hidden]), select, textarea, [tabindex=\"0\"]')]"
            ".filter(n => n.checkVisibility() && !n.getAttribute('aria-label') && !n.getAttribute('aria-labelledby')"
            " && !n.labels?.length && !n.textContent.trim()).map(n => n.outerHTML)"
        )
        assert nameless == []
    page.keyboard.press("Tab")
    assert page.evaluate("getComputedStyle(document.activeElement).outlineStyle") == "solid"


def luminance(page, variable):
    """Relative luminance of one of the page's colours, as WCAG 2 defines it."""
    page.evaluate("name => document.body.style.setProperty('caret-color', `var(${name})`)", variable)
    rgb = page.evaluate("getComputedStyle(document.body).caretColor")
    parts = [int(part) / 255 for part in re.findall(r"\d+", rgb)[:3]]
    linear = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in parts]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


@needs_chromium
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_both_themes_can_be_read_and_the_switch_is_remembered(server, open_page, scheme):
    page = open_page(server.url, color_scheme=scheme)

    def contrast(ink, ground):
        low, high = sorted([luminance(page, ink), luminance(page, ground)])
        return (high + 0.05) / (low + 0.05)

    assert (luminance(page, "--page") > 0.5) == (scheme == "light")
    for ink in ("--ink", "--quiet", "--blue", "--red", "--orange"):
        for ground in ("--page", "--card"):
            assert contrast(ink, ground) >= 4.5, (ink, ground)
    assert contrast("--ink", "--heat") >= 4.0
    assert contrast("--on-blue", "--blue") >= 4.5
    assert contrast("--edge", "--page") >= 3
    other = "dark" if scheme == "light" else "light"
    for _ in range(3):
        if page.locator("html").get_attribute("data-theme") != other:
            page.locator("#theme").click()
    page.reload()
    assert (luminance(page, "--page") > 0.5) == (other == "light")


@needs_chromium
def test_nothing_blinks_for_who_asked_for_less_motion(server, open_page):
    server.script, server.pace_s = [" word"] * 1000, 0.02
    page = open_page(server.url, reduced_motion="reduce")
    write(page)
    expect(page.locator(".t").nth(1)).to_be_visible()
    assert page.evaluate("document.getAnimations().length") == 0
    page.keyboard.press("Escape")
    ended(page, "stopped by you")


# ---- the real server ------------------------------------------------------------------------------------------------

TEMPLATE = "{% for message in messages %}{{ message['content'] }}{% endfor %}"


@pytest.fixture(scope="module")
def hostile_model(tmp_path_factory):
    """A tiny model that has learned one text by heart; its tokens are bytes, so characters are cut."""
    ids = torch.tensor([[*f"Say it:{HOSTILE}".encode(), 256]])
    model = GPT(
        GPTConfig(
            num_hidden_layers=2,
            hidden_size=96,
            num_attention_heads=4,
            vocab_size=257,
            max_position_embeddings=2048,
        ),
        seed=1,
    )
    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3)
    threads = torch.get_num_threads()
    torch.set_num_threads(1)  # two that wait for each other are slow on a busy machine
    for _ in range(120):
        logits_BTV = model(ids[:, :-1])
        loss = torch.nn.functional.cross_entropy(logits_BTV[0].float(), ids[0, 1:])
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    torch.set_num_threads(threads)
    out = tmp_path_factory.mktemp("hostile") / "by-heart"
    to_hf(model.eval(), hr.load_tokenizer("byte"), out)
    (out / "chat_template.jinja").write_text(TEMPLATE)
    return out


@pytest.fixture(scope="module")
def real(new_server, hostile_model):
    """`headrace serve` of that model, behind a key, with a job that was really made."""
    out = hostile_model.parent / "said"
    hr.generate(
        hostile_model,
        ["Say it:", "x" * 3000],
        out,
        max_new_tokens=400,
        sampling=hr.SamplingOptions(logprobs=True),
        engine=hr.EngineOptions(dtype="float32"),
    )
    return new_server(hostile_model, "--api-key", "sk-real", "--predictions", out)


def without_end(route):
    """The page's request, with an answer that ends only at its limit: there must be time to stop it."""
    body = json.loads(route.request.post_data)
    route.continue_(post_data=json.dumps({**body, "ignore_eos": True}))


def enter_key(page):
    page.get_by_role("alert").get_by_role("button", name="Enter API key").click()
    page.get_by_role("dialog").get_by_label("API key").fill("sk-real")
    page.keyboard.press("Enter")
    expect(page.get_by_role("dialog")).to_be_hidden()
    expect(page.get_by_label("Chat", exact=True)).to_be_checked()  # the model has a chat template
    page.get_by_label("Completion").check()


@needs_chromium
def test_the_real_server_streams_a_hostile_models_text_and_is_stopped(real, open_page):
    page = open_page(real.url, may_say="401")
    enter_key(page)
    expect(page.get_by_label("Model")).to_have_value("by-heart")
    page.locator("#temperature").fill("0")
    page.locator("#max_tokens").fill("400")
    write(page, "Say it:")
    ended(page)
    assert output(page) == HOSTILE
    assert page.locator(".t").count() >= len(HOSTILE.encode())
    expect(page.locator("#count")).to_have_text("7 of 2,048 tokens")
    page.locator(".t").first.hover()
    expect(page.get_by_role("tooltip").locator(".chosen")).to_contain_text("<")
    page.get_by_label("Chat").check()
    page.get_by_label("Message", exact=True).fill("Say it:")
    page.keyboard.press("Control+Enter")
    expect(page.locator("#turns .end")).to_have_text("· ended")
    assert page.locator("#turns .tokens").evaluate("node => node.textContent") == HOSTILE
    page.get_by_label("Completion").check()
    page.locator("#temperature").fill("2")
    page.locator("#n").fill("8")
    page.locator("#max_tokens").fill("2000")
    page.route("**/v1/completions", without_end)
    write(page, "Something else")
    expect(page.locator("#outputs .t").nth(8)).to_be_visible()
    page.keyboard.press("Escape")
    ended(page, "stopped by you")
    headers = {"authorization": "Bearer sk-real"}
    real.until(lambda: metric(real, "request_cancelled_total", headers) >= 1)
    real.until(lambda: metric(real, "num_requests_running", headers) == 0)


def metric(real, name, headers):
    text = httpx.get(f"{real.url}/metrics", headers=headers, timeout=30).text
    return sum(float(line.split()[-1]) for line in text.splitlines() if line.startswith(f"headrace:{name}{{"))


@needs_chromium
def test_the_real_servers_metrics_are_plotted_and_its_predictions_are_shown(real, open_page):
    page = open_page(real.url, may_say="401")
    enter_key(page)
    page.get_by_role("tab", name="Live").click()
    tile = page.locator("#tiles dd")
    expect(tile.nth(0)).to_have_text("0 ")
    page.get_by_role("tab", name="Write").click()
    page.locator("#temperature").fill("0")
    write(page, "Say it:")
    ended(page, "cut at max tokens")
    page.get_by_role("tab", name="Live").click()
    expect(tile.nth(3)).to_have_text(re.compile(r"[\d.]+ m?s median"))
    expect(tile.nth(4)).to_have_text(re.compile(r"[\d.]+ m?s median"))
    expect(tile.nth(5)).to_have_text(re.compile(r"[1-9][\d.k]* tokens"))
    expect(tile.nth(6)).to_have_text(re.compile(r"\d+ % of prompt tokens|\W+"))
    expect(page.get_by_role("img", name=re.compile(r"Wait in the queue.*median [\d.]+ m?s"))).to_be_visible()
    page.get_by_role("tab", name="Predictions").click()
    expect(page.locator("#stores")).to_contain_text("2 rows")
    page.get_by_role("button", name="000000000").click()
    row = page.get_by_role("article", name="One row")
    expect(row.locator(".chip")).to_have_count(len(HOSTILE.encode()) + 1)
    assert row.locator("pre").nth(1).text_content() == HOSTILE
    page.keyboard.press("Tab")
    row.get_by_role("button", name="Next row").click()
    expect(row).to_contain_text("maximum context length is 2048 tokens")


def test_the_real_server_lets_no_other_page_frame_it(real):
    assert "frame-ancestors 'none'" in httpx.get(real.url).headers["content-security-policy"]
