"""tarfiles.py and tar_headers.py: members of JSON lines; ranges of a tar, read from their own members on."""

import gzip
import io
import json
import tarfile
from contextlib import closing

import pytest

from headrace.errors import SourceError
from headrace.ingestion import FieldOptions, JobOptions, ingest
from headrace.ingestion.parse.tar_headers import last_member_before
from headrace.ingestion.parse.tarfiles import TarSamples


def _tar(path, members, *, mode="w", format=tarfile.PAX_FORMAT, **options):
    with tarfile.open(path, mode, format=format, **options) as tar:
        for name, data in members:
            member = tarfile.TarInfo(name)
            member.size = len(data)
            tar.addfile(member, io.BytesIO(data))
    return path


def _lines(*texts):
    return "".join(json.dumps({"text": text, "id": i}) + "\n" for i, text in enumerate(texts)).encode()


@pytest.mark.parametrize("mode", ["w", "w:gz"])
def test_lines_of_jsonl_members_are_documents(tmp_path, texts_of, mode):
    members = [
        ("x.txt", b"sample"),
        ("d/a.jsonl", _lines("a0", "a1")),
        ("d/b.en.ndjson", _lines("b0")),
        ("c.jsonl.gz", gzip.compress(_lines("c0"))),
        ("y.json", b'{"text": "y"}'),
    ]
    suffix = ".tar" if mode == "w" else ".tar.gz"
    path = _tar(tmp_path / f"t{suffix}", members, mode=mode)
    ingest(path, tmp_path / "store", workers=1, fields=FieldOptions(keep=["id"]))
    assert texts_of(tmp_path / "store") == ["sample", "a0", "a1", "b0", "c0", "y"]


def test_a_bad_line_of_a_member_is_named(tmp_path):
    path = _tar(
        tmp_path / "t.tar", [("a.jsonl", _lines(*"abc")), ("b.jsonl", b'{"text": "x"}\n{"text": 1}\n')]
    )
    ingest(path, tmp_path / "store", workers=1, job=JobOptions(max_reject_share=1))
    reject = json.loads((tmp_path / "store" / "rejects.jsonl").read_text())
    assert (reject["line"], reject["reason"]) == (None, "no_text")
    assert reject["detail"].startswith("b.jsonl, line 2: the text field 'text' is no string")


def test_a_damaged_member_is_an_error_with_its_name(tmp_path):
    path = _tar(tmp_path / "t.tar", [("a.jsonl.gz", gzip.compress(_lines(*"abc"))[:-9])])
    with pytest.raises(SourceError, match=r"t\.tar: a\.jsonl\.gz: truncated"):
        ingest(path, tmp_path / "store", workers=1)
    cut = tmp_path / "cut.tar"
    cut.write_bytes(_tar(tmp_path / "u.tar", [("a.jsonl", _lines("x" * 3000))]).read_bytes()[:2000])
    with pytest.raises(SourceError, match=r"cut\.tar: damaged tar|truncated"):
        ingest(cut, tmp_path / "store2", workers=1)


@pytest.fixture(params=[tarfile.PAX_FORMAT, tarfile.GNU_FORMAT], ids=["pax", "gnu"])
def samples(request, tmp_path):
    """Samples of two members each; some names need extended headers."""
    members = []
    for i in range(40):
        key = f"{'n' * (150 if i % 3 == 0 else 1)}{i:03d}"
        members += [
            (f"{key}.txt", f"text {i} {'x' * (i * 37 % 900)}".encode()),
            (f"{key}.jpg", bytes(i * 50)),
        ]
    members.insert(30, ("between.jsonl", _lines("l0", "l1")))
    return _tar(tmp_path / "s.tar", members, format=request.param)


def _texts(path, *ranges):
    """Texts of ranges, by one reader."""
    reader = TarSamples(str(path), "none", FieldOptions())
    with closing(reader):
        return [
            text for start, stop in ranges for parsed in reader.read(start, stop) for text in parsed.texts
        ]


@pytest.mark.parametrize("step", [512, 1536, 10_000])
def test_ranges_hold_every_sample_once_whoever_reads_them(samples, step):
    """By one reader that goes forward, and by a new reader for each range."""
    whole = _texts(samples, (0, None))
    assert len(whole) == 42
    ranges = [(start, start + step) for start in range(0, samples.stat().st_size, step)]
    assert _texts(samples, *ranges) == whole
    assert [text for one in ranges for text in _texts(samples, one)] == whole


def test_a_range_is_read_from_its_member_on_and_a_reader_that_goes_forward_keeps_its_place(
    samples, monkeypatch
):
    from headrace.ingestion.parse import tarfiles

    starts = []

    class Recorded(tarfiles.Stream):
        def __init__(self, *arguments, **options):
            starts.append(options.get("start", 0))
            super().__init__(*arguments, **options)

    monkeypatch.setattr(tarfiles, "Stream", Recorded)
    half = samples.stat().st_size // 2
    _texts(samples, (half, half + 3000), (half + 3000, half + 9000))
    from_file = [start for start in starts if start]
    assert len(from_file) == 1
    assert 0 <= half - from_file[0] < 10_000


def test_headers_alone_find_the_member_before_a_position(samples):
    with tarfile.open(samples) as tar:
        offsets = [member.offset for member in tar]
    for position in range(1, samples.stat().st_size, 700):
        assert last_member_before(str(samples), position) == max(o for o in offsets if o < position)


def test_what_headers_do_not_tell_is_read_from_the_beginning(tmp_path):
    plain = _tar(tmp_path / "a.tar", [("a.txt", bytes(5000)), ("b.txt", b"b")])
    data = bytearray(plain.read_bytes())
    damaged = tmp_path / "damaged.tar"
    damaged.write_bytes(data[:5632] + b"\x01" + data[5633:])
    assert (last_member_before(str(plain), 6000), last_member_before(str(damaged), 6000)) == (5632, 0)
    with_globals = _tar(tmp_path / "g.tar", [("a.txt", b"a"), ("b.txt", b"b")], pax_headers={"comment": "x"})
    assert last_member_before(str(with_globals), 4000) == 0
