"""Fakes and corpora for ingest: small files in every format, and a trained vocabulary."""

import gzip
import io
import json
import random
from pathlib import Path

import pytest

WORDS = [
    "the",
    "of",
    "and",
    "to",
    "in",
    "water",
    "wheel",
    "river",
    "mill",
    "stone",
    "channel",
    "turbine",
    "flow",
    "head",
    "race",
    "tail",
    "gate",
    "sluice",
    "dam",
    "weir",
    "naïve",
    "café",
    "über",
    "水",
    "流れ",
    "река",
    "мельница",
    "don't",
    "it's",
    "1234",
    "3.14",
    "--",
    "(see)",
    '"quoted"',
    "<|endoftext|>",
    "👍🏽",
]


def _make_documents(count: int, *, seed: int = 0, words: int = 40) -> list[str]:
    rng = random.Random(seed)
    return [
        " ".join(rng.choice(WORDS) for _ in range(rng.randint(1, 2 * words))) + f" #{seed}.{i}"
        for i in range(count)
    ]


@pytest.fixture(scope="session")
def make_documents():
    """count, seed -> documents, all different."""
    return _make_documents


@pytest.fixture(scope="session")
def write_jsonl():
    """path, documents -> the path, written as JSON lines, gzipped if the name says so."""

    def write(path: Path, documents: list[str], *, field: str = "text") -> Path:
        data = b"".join(
            json.dumps({"id": i, field: text}, ensure_ascii=i % 2 == 0).encode() + b"\n"
            for i, text in enumerate(documents)
        )
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(gzip.compress(data, mtime=0) if path.suffix == ".gz" else data)
        return path

    return write


@pytest.fixture(scope="session")
def tree():
    """A directory -> every file in it."""

    def read(path: Path) -> dict[str, bytes]:
        return {
            file.relative_to(path).as_posix(): file.read_bytes() for file in path.rglob("*") if file.is_file()
        }

    return read


@pytest.fixture(scope="session")
def texts_of():
    """A store -> its documents' texts."""

    def read(url) -> list[str]:
        from headrace.store import Store

        with Store.open(str(url)) as store:
            tokens = store.read(0, store.num_tokens)
            ends = store.document_ends(0, store.num_tokens)
            starts = [0, *ends[:-1]]
            assert all(int(tokens[end - 1]) == store.eos_id for end in ends)
            return [store.tokenizer.decode(tokens[a : b - 1]) for a, b in zip(starts, ends, strict=True)]

    return read


@pytest.fixture(scope="session")
def tokenizer_json(tmp_path_factory) -> Path:
    """A byte-level vocabulary of 400 ids, trained on the fake corpus."""
    from headrace.tokens import train_tokenizer

    path = tmp_path_factory.mktemp("vocabulary") / "tokenizer.json"
    return train_tokenizer(_make_documents(200, seed=99), vocab_size=400, out=path)


class WarcBuilder:
    """Records written by warcio, which shares no code with what reads them."""

    def __init__(self, *, gzip: bool = True) -> None:
        pytest.importorskip("warcio")
        from warcio.warcwriter import WARCWriter

        self._out = io.BytesIO()
        self._writer = WARCWriter(self._out, gzip=gzip)
        self._writer._create_temp_file = io.BytesIO  # warcio's own temporary files stay open
        self.offsets: list[int] = []
        """Where each record begins, in stored bytes."""

    def add(
        self, kind: str, payload: bytes, *, url="http://example.org/", http=None, status="200 OK", **headers
    ):
        """Append a record; `http` are the headers of a response, a list of pairs."""
        from warcio.statusandheaders import StatusAndHeaders

        self.offsets.append(self._out.tell())
        lines = None if http is None else StatusAndHeaders(status, http, protocol="HTTP/1.1")
        content_type = headers.pop("content_type", "" if http is not None else "text/plain")
        record = self._writer.create_warc_record(
            url,
            kind,
            payload=io.BytesIO(payload),
            http_headers=lines,
            warc_content_type=content_type,
            warc_headers_dict={name.replace("_", "-"): value for name, value in headers.items()},
        )
        self._writer.write_record(record)

    def texts(self, texts):
        """Append conversion records, as a .wet has them."""
        for i, text in enumerate(texts):
            self.add("conversion", text.encode(), url=f"http://example.org/{i}")
        return self

    def page(self, html, *, content_type="text/html; charset=utf-8", http=(), **more):
        """Append a response with a page."""
        body = html.encode() if isinstance(html, str) else html
        self.add("response", body, http=[("Content-Type", content_type), *http], **more)
        return self

    @property
    def data(self) -> bytes:
        """The file so far."""
        return self._out.getvalue()

    def records(self) -> list[bytes]:
        """The stored bytes of each record."""
        return [
            self.data[a:b] for a, b in zip(self.offsets, [*self.offsets[1:], len(self.data)], strict=True)
        ]


@pytest.fixture(scope="session")
def warc():
    """The class that writes web archives."""
    return WarcBuilder
