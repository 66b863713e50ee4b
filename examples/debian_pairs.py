"""Debian's package lists -> pairs for translation, summarisation and question answering, as JSON lines.

    apt-get -o Acquire::Languages=en,de,fr update
    python examples/debian_pairs.py --lists /var/lib/apt/lists --language de --out debian

OUT/translate: short descriptions and paragraphs, English and --language. OUT/summarise: a long description and the
short one. OUT/answer: fields of a package, a question, and an answer that is in them, as SQuAD has them. Each has
train.jsonl and test.jsonl. All packages of one source package are in one of the two, and no text is in both. Other
lists work as well: any files named *_Packages* and *_Translation-LANGUAGE*, plain, .lz4, .gz, .xz or .bz2.
"""

from __future__ import annotations

import argparse
import bz2
import gzip
import hashlib
import json
import lzma
import re
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa

OPENERS: dict[str, Callable[[bytes], bytes]] = {
    ".gz": gzip.decompress,
    ".xz": lzma.decompress,
    ".bz2": bz2.decompress,
}
QUESTIONS = {
    "Maintainer": "Who maintains {}?",
    "Version": "What is the version of {}?",
    "Section": "In which section is {}?",
    "Homepage": "Where is the homepage of {}?",
    "Installed-Size": "How large is {} when it is installed?",
    "Architecture": "For which architecture is {}?",
    "Priority": "What is the priority of {}?",
}
MAX_CHARS = 1200
"""Of a text; longer ones are left out."""


def number_of(text: str) -> int:
    """A number that depends on the text alone: what is random here is the same on every machine and day."""
    return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=8).digest())


def stanzas(path: Path) -> Iterator[dict[str, str]]:
    """The fields of each paragraph of a control file."""
    data = path.read_bytes()
    if path.suffix == ".lz4":
        data = pa.CompressedInputStream(pa.py_buffer(data), "lz4").read()
    elif path.suffix in OPENERS:
        data = OPENERS[path.suffix](data)
    for block in data.decode().split("\n\n"):
        fields: dict[str, str] = {}
        name = ""
        for line in block.splitlines():
            if line.startswith((" ", "\t")):
                fields[name] += "\n" + line
            elif ":" in line:
                name, value = line.split(":", 1)
                fields[name] = value.strip()
        if fields:
            yield fields


def short_and_long(description: str) -> tuple[str, list[str]]:
    """A description's first line, and its paragraphs of prose, each in one line; lists and tables are left out."""
    short, *lines = description.split("\n")
    paragraphs: list[list[str]] = [[]]
    for line in lines:
        if line.strip() == ".":
            paragraphs.append([])
        else:
            paragraphs[-1].append(line[1:])
    # Lines that begin with a further space stand as they are: lists and code.
    prose = [
        " ".join(one) if one and not any(line[:1] in " *-" for line in one) else "" for one in paragraphs
    ]
    return short.strip(), prose


def translate(
    english: dict[str, str], other: dict[str, str], packages: list[dict[str, str]]
) -> Iterator[dict[str, Any]]:
    """Short descriptions, and paragraphs where both languages have as many."""
    for package in packages:
        key = package.get("Description-md5", "")
        if key not in english or key not in other:
            continue
        (short, long), (their_short, their_long) = short_and_long(english[key]), short_and_long(other[key])
        pairs = [
            (short, their_short),
            *(zip(long, their_long, strict=True) if len(long) == len(their_long) else ()),
        ]
        for source, target in pairs:
            if source != target:
                yield {"package": package, "source": source, "target": target}


def summarise(english: dict[str, str], packages: list[dict[str, str]]) -> Iterator[dict[str, Any]]:
    for package in packages:
        short, long = short_and_long(english.get(package.get("Description-md5", ""), ""))
        yield {"package": package, "source": " ".join(filter(None, long)), "target": short}


def answer(packages: list[dict[str, str]]) -> Iterator[dict[str, Any]]:
    """One question for each package; its fields have an order that differs from package to package."""
    for package in packages:
        name = package["Package"]
        fields = sorted(
            (field for field in QUESTIONS if field in package), key=lambda field: number_of(field + name)
        )
        asked = fields[number_of(name) % len(fields)]
        lines = [f"{field}: {package[field]}" for field in fields]
        context = "\n".join(lines)
        start = sum(len(line) + 1 for line in lines[: fields.index(asked)]) + len(asked) + 2
        found = {"text": [package[asked]], "answer_start": [start]}
        yield {
            "package": package,
            "context": context,
            "question": QUESTIONS[asked].format(name),
            "answers": found,
        }


def source_of(package: dict[str, str]) -> str:
    return package.get("Source", package["Package"]).split(" ")[0]


def write(folder: Path, records: Iterable[dict[str, Any]], test_share: float) -> None:
    """Split by source package; a text that was there before, from whichever package, is left out."""
    folder.mkdir(parents=True, exist_ok=True)
    seen: set[str] = set()
    counts = {"train": 0, "test": 0}
    with (folder / "train.jsonl").open("w") as train, (folder / "test.jsonl").open("w") as test:
        for record in records:
            package = record.pop("package")
            texts = [value for value in record.values() if isinstance(value, str)]
            if seen.intersection(texts) or not all(0 < len(text) <= MAX_CHARS for text in texts):
                continue
            seen.update(texts)
            part = "test" if number_of(source_of(package)) % 10_000 < test_share * 10_000 else "train"
            counts[part] += 1
            line = json.dumps({"id": f"{package['Package']}-{len(seen)}", **record}, ensure_ascii=False)
            (test if part == "test" else train).write(line + "\n")
    print(f"{folder}: {counts['train']:,} to train on, {counts['test']:,} for the test")


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--lists", type=Path, default=Path("/var/lib/apt/lists"))
    parser.add_argument("--language", default="de")
    parser.add_argument("--out", type=Path, default=Path("debian"))
    parser.add_argument("--test-share", type=float, default=0.05, help="of the source packages")
    options = parser.parse_args()

    files = sorted(path for path in options.lists.iterdir() if path.is_file())
    packages: dict[str, dict[str, str]] = {}
    for path in files:
        if re.search(r"Packages(\.\w+)?$", path.name):
            packages |= {package["Package"]: package for package in stanzas(path)}
    if not packages:
        raise SystemExit(
            f"{options.lists}: no file named *Packages; run apt-get update, or name another folder"
        )
    texts: dict[str, dict[str, str]] = {}
    for language in ("en", options.language):
        found = [path for path in files if re.search(rf"Translation-{language}(\.\w+)?$", path.name)]
        if not found:
            raise SystemExit(
                f"{options.lists}: no file named *Translation-{language}; "
                f"apt-get -o Acquire::Languages=en,{options.language} update brings it"
            )
        texts[language] = {
            fields["Description-md5"]: fields[f"Description-{language}"]
            for path in found
            for fields in stanzas(path)
        }
    rows = list(packages.values())
    write(
        options.out / "translate", translate(texts["en"], texts[options.language], rows), options.test_share
    )
    write(options.out / "summarise", summarise(texts["en"], rows), options.test_share)
    write(options.out / "answer", answer(rows), options.test_share)


if __name__ == "__main__":
    main()
