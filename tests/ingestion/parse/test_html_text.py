"""html_text.py: the encoding of a page, its main content, and pages that would take minutes."""

import sys

import pytest

from headrace.errors import ConfigError
from headrace.ingestion.parse.html_text import MAX_DEPTH, PageError, decode_html, extractor_version, main_text

pytest.importorskip("resiliparse")

PAGE = "<p>Prüfung: привет, 水流れ</p>"


@pytest.mark.parametrize(
    ("body", "content_type", "text"),
    [
        (PAGE.encode(), "text/html; charset=utf-8", PAGE),
        (PAGE.encode(), "text/html", PAGE),
        ("<p>naïve €</p>".encode("cp1252"), 'text/html; charset="ISO-8859-1"', "<p>naïve €</p>"),
        ("<p>привет</p>".encode("koi8-r"), "text/html;charset=KOI8-R", "<p>привет</p>"),
        ("<p>привет</p>".encode("cp1251"), "text/html; charset=win-1251-typo", None),
        ("<p>①流れ</p>".encode("cp932"), "text/html; charset=Shift_JIS", "<p>①流れ</p>"),
        ("<p>水流</p>".encode("gb18030"), "text/html; charset=gb2312", "<p>水流</p>"),
        (b"\xef\xbb\xbf" + PAGE.encode(), "text/html; charset=iso-8859-1", PAGE),
        (b"\xff\xfe" + PAGE.encode("utf-16-le"), "text/html", PAGE),
        (
            '<meta charset="windows-1251"><p>привет</p>'.encode("cp1251"),
            "text/html",
            '<meta charset="windows-1251"><p>привет</p>',
        ),
        (
            "<meta http-equiv=content-type content='text/html; charset=euc-kr'>안녕".encode("euc-kr"),
            "text/html",
            "<meta http-equiv=content-type content='text/html; charset=euc-kr'>안녕",
        ),
        ("<!-- <meta charset=koi8-r> -->ü".encode(), "text/html", "<!-- <meta charset=koi8-r> -->ü"),
        ('<meta charset="utf-16">ü'.encode(), "text/html", '<meta charset="utf-16">ü'),
        (b"<p>caf\xe9 \xff</p>", "text/html; charset=utf-8", "<p>caf� �</p>"),
    ],
)
def test_the_encoding_is_found_as_browsers_find_it(body, content_type, text):
    found = decode_html(body, content_type)
    assert found == text if text is not None else found.endswith("</p>")


def test_the_main_content_is_taken_without_menus_and_scripts():
    html = (
        "<html><head><title>T</title><style>p{}</style></head><body><nav><a href=/>Home</a> <a href=/b>About</a></nav>"
        "<article><h1>Mill</h1><p>The wheel turns in the river, and the stone turns with it.</p>"
        "<p>A sluice holds the water back.</p></article><script>var x = 1</script>"
        "<footer>Copyright</footer></body></html>"
    )
    text = main_text(html).decode()
    assert "The wheel turns in the river, and the stone turns with it." in text
    assert not {"var", "About", "p{}"} & set(text.split())


@pytest.mark.parametrize(
    "html",
    [
        "<div>" * (MAX_DEPTH + 1),
        "<x-y>" * 100_000,
        "<p " + " ".join(f"a{i}=1" for i in range(20_000)) + ">",
        "<svg>" + "</svg><svg><g>" * 50_000,
    ],
)
def test_pages_that_would_take_minutes_are_refused(html):
    with pytest.raises(PageError, match=r"nested more than|words"):
        main_text(html)


@pytest.mark.parametrize(
    "html",
    [
        "<p>one<p>two" * 20_000,
        "<ul>" + "<li>item<br>" * 20_000 + "</ul>",
        "<svg>" + '<path d="M0 0"/>' * 20_000 + "</svg><p>text</p>",
        f'<img src="data:{"A" * 100_000}"><p>text</p>',
        "<" * 100_000,
    ],
)
def test_long_pages_are_read(html):
    assert isinstance(main_text(html), bytes)


def test_without_the_library_the_extra_is_named(monkeypatch):
    for name in ("resiliparse.extract.html2text", "resiliparse.parse.encoding"):
        monkeypatch.setitem(sys.modules, name, None)
    with pytest.raises(ConfigError, match=r"pip install 'headrace\[web\]'"):
        main_text("<p>a</p>")
    with pytest.raises(ConfigError, match=r"headrace\[web\]"):
        decode_html(b"a\xff", "text/html; charset=koi8-r")


def test_the_version_of_the_library_is_known():
    name, version = extractor_version().split()
    assert (name, version[0].isdigit()) == ("resiliparse", True)
