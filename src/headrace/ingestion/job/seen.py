"""Sources of a store, and sources now -> which have the same content, and by what that was decided."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from headrace.errors import ConfigError, ResumeError, SourceError
from headrace.ingestion.read.content_hash import has_content_hash, hash_chunks, hash_file
from headrace.ingestion.read.sources import SourceFile, stat_source
from headrace.ingestion.units.record import UnitRecord


def same_content(old: Mapping[str, Any], new: SourceFile) -> tuple[bool, str]:
    """Does a source have the content that another one had when it was ingested? And what decided.

    Size and samples decide at once where they differ. Where they are equal, the whole content decides, unless the
    system says that the file was not touched since: same path, time of change of content (mtime) and of anything
    (ctime, which programs cannot set). Remote objects are not read again: size and samples decide.
    """
    if old["nbytes"] != new.nbytes:
        return False, "size"
    if old["fingerprint"] != new.fingerprint:
        return False, "content"
    if old["content"] is None or not has_content_hash(new.url):
        return True, "size and samples"
    times = (old["modified_ns"], old["changed_ns"]) == (new.modified_ns, new.changed_ns)
    if times and old["url"] == new.url:
        return True, "size and times"
    return hash_file(new.url) == old["content"], "content"


def split_new(
    past: Iterable[Mapping[str, Any]], sources: Sequence[SourceFile]
) -> tuple[tuple[SourceFile, ...], list[str]]:
    """Sources that a store does not have yet, and notes for the user.

    Args:
        past: sources of the jobs that made the store.
        sources: what is to be appended.

    Raises:
        ConfigError: a file has grown: its beginning is in the store, and would be added again.
    """
    by_size: dict[int, list[Mapping[str, Any]]] = {}
    by_url: dict[str, Mapping[str, Any]] = {}
    for old in past:
        by_size.setdefault(old["nbytes"], []).append(old)
        by_url[old["url"]] = old
    new: list[SourceFile] = []
    known: Counter[str] = Counter()
    changed: list[str] = []
    for source in sources:
        verdicts = [same_content(old, source) for old in by_size.get(source.nbytes, ())]
        by = next((by for same, by in verdicts if same), None)
        if by is not None:
            known[by] += 1
            continue
        former = by_url.get(source.url)
        if former is not None:
            _check_not_grown(former, source)
            changed.append(source.url)
        new.append(source)
    notes = []
    if known:
        by_words = ", ".join(f"{count} by {by}" for by, count in sorted(known.items()))
        notes.append(f"in the store already: {known.total()} of {len(sources)} sources ({by_words})")
    if changed:
        more = f" and {len(changed) - 1} more" if len(changed) > 1 else ""
        notes.append(
            f"{changed[0]}{more}: changed since it was ingested; its content was added, and the documents of its "
            f"former content stay in the store"
        )
    return tuple(new), notes


def _check_not_grown(former: Mapping[str, Any], source: SourceFile) -> None:
    if former["content"] is None or not has_content_hash(source.url) or source.nbytes <= former["nbytes"]:
        return
    if hash_file(source.url, nbytes=former["nbytes"]) == former["content"]:
        raise ConfigError(
            f"{source.url}: has grown: its first {former['nbytes']:,} bytes are in the store already, and append would "
            f"add them again. Give the new part as a file of its own, or ingest into a new store"
        )


def check_done_chunks(
    before: Sequence[Mapping[str, Any]], sources: Sequence[SourceFile], records: Sequence[UnitRecord]
) -> None:
    """Refuse to continue a job if what it has read of a file is no longer there.

    Args:
        before: sources when the job was started.
        sources: now; size, samples and mtime are equal.
        records: of units that are done.

    Raises:
        ResumeError: a file's content was changed, and its time of change set back.
    """
    for number, (old, new) in enumerate(zip(before, sources, strict=True)):
        if old["changed_ns"] == new.changed_ns or not has_content_hash(new.url):
            continue
        for record in records:
            digests = record.chunks.get(str(number), {})
            if hash_chunks(new.url, map(int, digests)) != {int(k): v for k, v in digests.items()}:
                raise ResumeError(
                    f"{new.url}: its content has changed since this job was started. "
                    f"--restart (restart=True) starts over"
                )


def check_unchanged(sources: Iterable[SourceFile]) -> None:
    """Refuse to commit a store of files that changed while they were read.

    Raises:
        SourceError: size or time of change of a local file differ from those at the start.
    """
    for source in sources:
        if has_content_hash(source.url):
            status = stat_source(source.url)
            if (status.st_size, status.st_mtime_ns) != (source.nbytes, source.modified_ns):
                raise SourceError(
                    f"{source.url}: changed while it was read ({source.nbytes:,} bytes at the start, "
                    f"{status.st_size:,} now). Let its writer finish, and run again with --restart (restart=True)"
                )
