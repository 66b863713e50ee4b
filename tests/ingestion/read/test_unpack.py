"""Compressed files of several streams: all of them are read, and damage in any of them is an error."""

import bz2
import functools
import gzip
import io
import lzma

import lz4.frame
import pytest
import zstandard
from hypothesis import given
from hypothesis import strategies as st

from headrace.errors import SourceError
from headrace.ingestion.read.open import Stream, compression_of
from headrace.ingestion.read.unpack import Unpacker, skippable_end

PACK = {
    "gzip": gzip.compress,
    "bz2": bz2.compress,
    "xz": lzma.compress,
    "zstd": zstandard.ZstdCompressor(write_checksum=True).compress,
    "lz4": functools.partial(lz4.frame.compress, content_checksum=True),
}
SUFFIX = {"gzip": ".gz", "bz2": ".bz2", "xz": ".xz", "zstd": ".zst", "lz4": ".lz4", "lzma": ".lzma"}
TEXTS = [b"".join(b"%d a line of text number %d\n" % (k, i) for i in range(500)) for k in range(3)]
SKIPPABLE = (0x184D2A53).to_bytes(4, "little") + (5).to_bytes(4, "little") + b"hello"


def read_all(path, compression):
    stream, found = Stream(str(path), compression), bytearray()
    try:
        buffer = memoryview(bytearray(1000))
        while n := stream.readinto(buffer):
            found += buffer[:n]
    finally:
        stream.close()
    return bytes(found)


@pytest.mark.parametrize("name", sorted(PACK))
def test_all_streams_of_a_file_are_read(tmp_path, name):
    path = tmp_path / f"a{SUFFIX[name]}"
    path.write_bytes(b"".join(map(PACK[name], TEXTS)))
    assert compression_of(str(path), path.read_bytes()[:64]) == name
    assert read_all(path, name) == b"".join(TEXTS)


@pytest.mark.parametrize("name", sorted(PACK))
@pytest.mark.parametrize("which", [0, 1, 2])
def test_a_flipped_byte_in_any_stream_is_never_the_files_end(tmp_path, name, which):
    """pbzip2's and Wikipedia's files have many streams; an error in a later one ended the file without a word."""
    packed = [bytearray(PACK[name](text)) for text in TEXTS]
    path = tmp_path / "a"
    silent = []
    for at in range(0, len(packed[which]), 5):
        packed[which][at] ^= 0x40
        path.write_bytes(b"".join(packed))
        packed[which][at] ^= 0x40
        try:
            if read_all(path, name) != b"".join(TEXTS):
                silent.append(at)
        except SourceError:
            continue
    assert not silent


@pytest.mark.parametrize("name", sorted(PACK))
def test_a_file_cut_anywhere_is_truncated(tmp_path, name):
    packed = PACK[name](TEXTS[0]) + PACK[name](TEXTS[1])
    path = tmp_path / "a"
    whole = len(PACK[name](TEXTS[0]))
    for length in sorted({1, 3, whole // 2, whole - 1, whole + 1, whole + 9, len(packed) - 1}):
        path.write_bytes(packed[:length])
        with pytest.raises(SourceError, match=r"truncated|damaged"):
            read_all(path, name)


@pytest.mark.parametrize("name", ["gzip", "bz2", "zstd", "lz4"])
def test_something_else_behind_the_last_stream_is_an_error(tmp_path, name):
    path = tmp_path / "a"
    path.write_bytes(PACK[name](TEXTS[0]) + b"something else that is no stream")
    with pytest.raises(SourceError):
        read_all(path, name)


def test_padding_of_xz_is_passed_over(tmp_path):
    path = tmp_path / "a.xz"
    path.write_bytes(lzma.compress(TEXTS[0]) + bytes(8) + lzma.compress(TEXTS[1]) + bytes(4))
    assert read_all(path, "xz") == TEXTS[0] + TEXTS[1]


@pytest.mark.parametrize("name", ["zstd", "lz4"])
def test_skippable_frames_are_passed_over(tmp_path, name):
    """Pzstd writes one in front of each frame."""
    path = tmp_path / f"a{SUFFIX[name]}"
    path.write_bytes(SKIPPABLE + PACK[name](TEXTS[0]) + SKIPPABLE + PACK[name](TEXTS[1]) + SKIPPABLE)
    assert compression_of(str(path), path.read_bytes()[:4096]) == name
    assert read_all(path, name) == TEXTS[0] + TEXTS[1]
    assert skippable_end(path.read_bytes()) == len(SKIPPABLE)


def test_lzma_alone_is_read(tmp_path):
    path = tmp_path / "a.lzma"
    path.write_bytes(lzma.compress(TEXTS[0], format=lzma.FORMAT_ALONE))
    assert compression_of(str(path), path.read_bytes()) == "lzma"
    assert read_all(path, "lzma") == TEXTS[0]


def test_a_window_larger_than_zstds_default_is_read(tmp_path):
    path = tmp_path / "a.zst"
    parameters = zstandard.ZstdCompressionParameters.from_level(3, window_log=29, enable_ldm=True)
    path.write_bytes(_long(parameters))
    assert read_all(path, "zstd") == TEXTS[0]


def _long(parameters):
    out = io.BytesIO()
    # Without the size in the header, the frame asks for its whole window.
    with zstandard.ZstdCompressor(compression_params=parameters).stream_writer(out, closefd=False) as writer:
        writer.write(TEXTS[0])
    return out.getvalue()


@pytest.mark.parametrize(
    ("name", "data", "says"),
    [
        ("a.zip", b"PK\x03\x04rest", "zip"),
        ("a.jsonl.gz", b"PK\x03\x04rest", "zip"),
        ("a.txt", b"7z\xbc\xaf\x27\x1crest", "7z"),
        ("a.lz4", b"\x02\x21\x4c\x18rest", "legacy"),
        ("a.arc", b"filedesc://crawl.arc 0.0.0.0", "warcio recompress"),
        ("a.pdf", b"%PDF-1.7", "PDF"),
        ("a.txt.br", b"\x0b\x02\x80", "brotli"),
        ("a.pkl", b"\x80\x04\x95\x00", "pickle"),
    ],
)
def test_what_cannot_be_read_is_named_for_what_it_is(name, data, says):
    with pytest.raises(SourceError, match=says):
        compression_of(name, data)


@given(
    texts=st.lists(st.binary(max_size=300), min_size=1, max_size=4),
    name=st.sampled_from(["bz2", "xz", "zstd", "lz4"]),
    size=st.integers(1, 500),
)
def test_the_size_of_reads_changes_nothing(texts, name, size):
    unpacker, found = Unpacker(io.BytesIO(b"".join(map(PACK[name], texts))), name), b""
    buffer = memoryview(bytearray(size))
    while n := unpacker.readinto(buffer):
        found += bytes(buffer[:n])
    assert found == b"".join(texts)
