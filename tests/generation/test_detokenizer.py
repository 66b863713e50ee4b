from hypothesis import given
from hypothesis import strategies as st

from headrace.generation.detokenizer import Detokenizer

BYTES = st.lists(st.binary(min_size=0, max_size=4), max_size=30)


def streamed(pieces, stop=()):
    stream = Detokenizer(pieces, stop=stop)
    out = [stream.push(i) for i in range(len(pieces))]
    return [*out, stream.finish()], stream


@given(BYTES)
def test_pieces_together_are_the_text_of_all_bytes(pieces):
    out, stream = streamed(pieces)
    assert "".join(out) == stream.text == b"".join(pieces).decode("utf-8", errors="replace")


@given(st.text(max_size=40), st.data())
def test_no_piece_holds_half_a_character(text, data):
    """However the bytes are cut into tokens, what is released is a prefix of the text."""
    raw = text.encode()
    cuts = sorted(data.draw(st.lists(st.integers(0, len(raw)), max_size=10)))
    out, _ = streamed([raw[a:b] for a, b in zip([0, *cuts], [*cuts, len(raw)], strict=True)])
    for n in range(len(out)):
        assert text.startswith("".join(out[: n + 1]))
    assert "".join(out) == text


@given(
    st.text(alphabet="ab", max_size=30),
    st.lists(st.text(alphabet="ab", min_size=1, max_size=4), min_size=1, max_size=3),
    st.data(),
)
def test_text_ends_before_the_first_stop_string_and_nothing_of_it_is_ever_released(text, stops, data):
    cuts = sorted(data.draw(st.lists(st.integers(0, len(text)), max_size=12)))
    pieces = [text[a:b].encode() for a, b in zip([0, *cuts], [*cuts, len(text)], strict=True)]
    stream = Detokenizer(pieces, stop=stops)
    released = ""
    for i in range(len(pieces)):
        released += stream.push(i)
        seen = b"".join(pieces[: i + 1]).decode()
        hits = [at for stop in stops if (at := seen.find(stop)) >= 0]
        if hits:
            break
    released += stream.finish()
    assert released == stream.text
    assert released == (seen[: min(hits)] if text and hits else text)
    assert (stream.stopped is not None) == bool(text and hits)


def test_a_beginning_of_a_stop_string_is_held_back_until_it_is_none():
    stream = Detokenizer([b"a", b"##", b"#", b"b"], stop=("###!",))
    assert [stream.push(i) for i in range(4)] == ["a", "", "", "###b"]


def test_an_id_without_bytes_adds_no_text():
    stream = Detokenizer([b"a", b""])
    assert [stream.push(i) for i in (0, 1, 99)] == ["a", "", ""]
