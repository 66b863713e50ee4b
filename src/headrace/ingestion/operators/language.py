"""A text -> its language and how certain that is, by py3langid (optional: headrace[language]).

The scores are computed in 64 bits, so that the last bit of a processor's own rounding decides about no document.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from importlib import import_module, metadata
from typing import Any

from headrace.errors import ConfigError

HEAD_BYTES = 4096
"""The beginning of a text is enough; the time grows with its length."""


def model_version(languages: Sequence[str]) -> str:
    """Name and version of the model; a half-done job is not continued with another one.

    Args:
        languages: codes that it must know.

    Raises:
        ConfigError: py3langid is not installed, or a code is none of its languages.
    """
    known = sorted(set(_identifier().labels))
    unknown = [code for code in languages if code not in known]
    if unknown:
        raise ConfigError(
            f"language is {unknown[0]!r}; expected one of the {len(known)} codes that py3langid knows: "
            f"{' '.join(known)}"
        )
    return f"py3langid {metadata.version('py3langid')}"


def language_of(text: bytes) -> tuple[str, float]:
    """Code of a text's language, and its score from 0 to 1.

    >>> language_of("Das Wasser treibt das Rad, und das Rad treibt die Mühle.".encode())[0]
    'de'
    """
    head = text[:HEAD_BYTES].decode(errors="ignore")
    code, score = _identifier().classify(head)
    return str(code), float(score)


def foreign(text: bytes, languages: Sequence[str], min_score: float) -> str | None:
    """Why a text is left out: the name of another language, or that its own is not certain; None keeps it."""
    code, score = language_of(text)
    if code not in languages:
        return f"language_{code}"
    return "language_uncertain" if score < min_score else None


@lru_cache(maxsize=1)
def _identifier() -> Any:
    try:
        langid: Any = import_module("py3langid.langid")
    except ModuleNotFoundError as error:
        raise ConfigError(
            "language needs the py3langid library. Run: pip install 'headrace[language]'"
        ) from error
    identifier = langid.LanguageIdentifier.from_model_file(langid.MODEL_FILE, norm_probs=True)
    identifier.nb_ptc = identifier.nb_ptc.astype("float64")
    return identifier
