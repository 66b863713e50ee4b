"""Installed packages that constraints.txt pins -> their licences: checked against accepted ones, listed in the docs.

python .ci/licences.py           print the list; exit 1 where a licence is unknown or not accepted
python .ci/licences.py --write   write the list into docs/dependencies.md
"""

from __future__ import annotations

import re
import sys
from importlib.metadata import PackageMetadata, PackageNotFoundError, metadata
from pathlib import Path

ROOT = Path(__file__).parents[1]
PAGE = ROOT / "docs/dependencies.md"
BEGIN, END = "<!-- licences -->", "<!-- end of licences -->"

ACCEPTED = (
    "MIT",
    "Apache-2.0",
    "BSD",
    "ISC",
    "PSF",
    "MPL-2.0",
    "HPND",
    "Unlicense",
    "0BSD",
    "Zlib",
    "CC0-1.0",
    "BSL-1.0",
    "CNRI-Python",
)
"""Beginnings of licence names that allow use in any program. MPL-2.0 asks for changes of its own files only."""

KNOWN = {
    "namex": "Apache-2.0",
    "pysimdjson": "MIT",
}
"""Packages whose metadata has no licence: what their source distribution says."""

CLASSIFIERS = {
    "Apache Software License": "Apache-2.0",
    "BSD License": "BSD",
    "ISC License (ISCL)": "ISC",
    "MIT License": "MIT",
    "Mozilla Public License 2.0 (MPL 2.0)": "MPL-2.0",
    "Python Software Foundation License": "PSF-2.0",
    "The Unlicense (Unlicense)": "Unlicense",
}
WORDINGS = (
    (r"apache", "Apache-2.0"),
    (r"\bmit\b", "MIT"),
    (r"bsd|redistribution and use in source", "BSD"),
    (r"mozilla|mpl", "MPL-2.0"),
    (r"python software foundation|\bpsf", "PSF-2.0"),
    (r"\bisc\b", "ISC"),
)
"""What the free-text field of older packages says -> a licence's name."""


def licence_of(name: str, about: PackageMetadata) -> str:
    """The SPDX expression, else the classifiers, else the free text; "unknown" where all are missing."""
    if name in KNOWN:
        return KNOWN[name]
    expression = about.get("License-Expression")
    if expression:
        return str(expression)
    found = [
        value.split(" :: ")[-1]
        for value in about.get_all("Classifier") or ()
        if value.startswith("License :: ")
    ]
    names = sorted({CLASSIFIERS[value] for value in found if value in CLASSIFIERS})
    if names:
        return " OR ".join(names)
    text = str(about.get("License") or "")[:400].lower()
    return next((licence for pattern, licence in WORDINGS if re.search(pattern, text)), "unknown")


def accepted(licence: str) -> bool:
    """Whether every licence that is named is accepted, whatever alternatives there are."""
    return all(name.strip("() ").startswith(ACCEPTED) for name in re.split(r" AND | OR ", licence))


def licences() -> dict[str, str]:
    """Licence of every pinned package that is installed, by name."""
    names = [
        line.partition("==")[0]
        for line in (ROOT / "constraints.txt").read_text().splitlines()
        if "==" in line
    ]
    found = {}
    for name in sorted(names, key=str.lower):
        try:
            found[name] = licence_of(name, metadata(name))
        except PackageNotFoundError:
            continue
    return found


def table(found: dict[str, str]) -> str:
    """One row per licence with its packages."""
    by_licence: dict[str, list[str]] = {}
    for name, licence in found.items():
        by_licence.setdefault(licence, []).append(name)
    rows = [f"| {licence} | {', '.join(names)} |" for licence, names in sorted(by_licence.items())]
    return "\n".join(["| licence | packages |", "|---|---|", *rows])


def main() -> int:
    """Print, write or check the list."""
    found = licences()
    page = PAGE.read_text()
    head, _, rest = page.partition(BEGIN)
    _, _, tail = rest.partition(END)
    new = f"{head}{BEGIN}\n{table(found)}\n{END}{tail}"
    if "--write" in sys.argv:
        PAGE.write_text(new)
        return 0
    print(table(found))
    refused = [f"{name}: {licence}" for name, licence in found.items() if not accepted(licence)]
    for line in refused:
        print(f"not accepted: {line}", file=sys.stderr)
    if new != page:
        print(f"{PAGE}: the list differs. Run: python .ci/licences.py --write", file=sys.stderr)
    return int(bool(refused))


if __name__ == "__main__":
    sys.exit(main())
