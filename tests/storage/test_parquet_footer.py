"""Encrypted Parquet files are refused before Arrow, which ends the process, meets them."""

import base64
import io

import pyarrow as pa
import pyarrow.parquet as pq
import pyarrow.parquet.encryption as pe
import pytest
from hypothesis import given
from hypothesis import strategies as st

from headrace.errors import SourceError
from headrace.generation.prompts import read_prompts
from headrace.ingestion import Interactions, Samples, ingest
from headrace.storage.parquet_footer import refuse_encrypted


class LocalKeys(pe.KmsClient):
    """Keys wrapped in base64, as no real service does."""

    def wrap_key(self, key_bytes, master_key_identifier):
        return base64.b64encode(key_bytes)

    def unwrap_key(self, wrapped_key, master_key_identifier):
        return base64.b64decode(wrapped_key)


def encrypted(path, *, plaintext_footer):
    factory = pe.CryptoFactory(lambda _: LocalKeys())
    configuration = pe.EncryptionConfiguration(
        footer_key="footer", column_keys={"column": ["text"]}, plaintext_footer=plaintext_footer
    )
    properties = factory.file_encryption_properties(pe.KmsConnectionConfig(), configuration)
    table = pa.table({"text": ["one", "two"], "n": [1, 2]})
    with pq.ParquetWriter(path, table.schema, encryption_properties=properties) as writer:
        writer.write_table(table)


@pytest.mark.parametrize("version", ["1.0", "2.4", "2.6"])
@pytest.mark.parametrize("compression", ["none", "zstd"])
def test_plain_files_of_all_kinds_pass(version, compression):
    table = pa.table(
        {
            "text": ["a", None],
            "list": [[1.5], []],
            "map": [{"k": True}, None],
            "when": pa.array([0, 1], pa.timestamp("us", "UTC")),
        }
    )
    file = io.BytesIO()
    pq.write_table(table, file, version=version, compression=compression, store_schema=True)
    refuse_encrypted(file, "x")
    assert file.tell() == 0


FILE = io.BytesIO()
pq.write_table(pa.table({"text": ["a", "b"], "n": [1, 2]}), FILE)


@given(at=st.integers(0, len(FILE.getvalue()) - 1), value=st.integers(0, 255), cut=st.integers(0, 40))
def test_damage_is_an_error_of_ours_or_passes(at, value, cut):
    data = bytearray(FILE.getvalue())
    data[at] = value
    try:
        refuse_encrypted(io.BytesIO(data[: len(data) - cut]), "x")
    except SourceError:
        return


@pytest.mark.parametrize("plaintext_footer", [False, True])
def test_an_encrypted_file_is_named_as_such_by_all_that_read_parquet(tmp_path, plaintext_footer):
    """As text, as images, as a log, as prompts; also under another name."""
    path, other = tmp_path / "a.parquet", tmp_path / "a.unknown"
    encrypted(path, plaintext_footer=plaintext_footer)
    other.write_bytes(path.read_bytes())
    for read in (
        lambda: ingest(path, tmp_path / "text", workers=1),
        lambda: ingest(other, tmp_path / "other", workers=1),
        lambda: ingest(path, tmp_path / "images", samples=Samples(), workers=1),
        lambda: ingest(path, tmp_path / "log", interactions=Interactions(), workers=1),
        lambda: list(read_prompts(path)),
    ):
        with pytest.raises(SourceError, match=r"an encrypted Parquet file\. Decrypt it first"):
            read()


def test_metadata_that_pyarrow_reads_late_is_an_error_of_ours(tmp_path):
    """The name of a column in a row group is decoded when it is asked for."""
    file = io.BytesIO()
    pq.write_table(pa.table({"text": ["a"]}), file, store_schema=False)
    data = bytearray(file.getvalue())
    at = data.rindex(b"text")  # of the row group's column; the schema's comes before it
    data[at + 1] = 0xDB
    (tmp_path / "a.parquet").write_bytes(data)
    with pytest.raises(SourceError, match="damaged Parquet column metadata: 'utf-8' codec"):
        ingest(tmp_path / "a.parquet", tmp_path / "store", workers=1)
