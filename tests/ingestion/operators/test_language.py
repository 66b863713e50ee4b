"""language.py: documents in other languages are left out and counted by language."""

import sys

import pytest

from headrace.errors import ConfigError
from headrace.ingestion import OperatorOptions, ingest
from headrace.ingestion.operators import language
from headrace.ingestion.operators.language import foreign, language_of, model_version

TEXTS = {
    "en": "The water turns the wheel, and the wheel turns the stone that grinds the corn of the village.",
    "de": "Das Wasser treibt das Rad, und das Rad treibt den Stein, der das Korn des Dorfes mahlt.",
    "fr": "L'eau fait tourner la roue, et la roue fait tourner la pierre qui moud le blé du village.",
    "ru": "Вода вращает колесо. Колесо вращает камень, который мелет зерно деревни.",
    "ja": "水が車輪を回し、車輪が石を回し、石が村の穀物をひきます。",
}


@pytest.mark.parametrize("code", TEXTS)
def test_languages_are_told(code):
    assert language_of(TEXTS[code].encode())[0] == code


def test_documents_in_other_languages_are_counted(tmp_path, texts_of, write_jsonl):
    path = write_jsonl(tmp_path / "a.jsonl", [*TEXTS.values(), TEXTS["fr"] * 2, "1"])
    operators = OperatorOptions(language=["en", "de"], language_min_score=0.5)
    summary = ingest(path, tmp_path / "store", workers=1, operators=operators)
    assert texts_of(tmp_path / "store") == [TEXTS["en"], TEXTS["de"]]
    assert {
        name: count for name, count in summary.dropped.items() if name in ("language_fr", "language_ja")
    } == {
        "language_fr": 2,
        "language_ja": 1,
    }
    assert sum(summary.dropped.values()) == 5


def test_a_text_that_is_not_certain_is_left_out():
    assert foreign(TEXTS["en"].encode(), ["en"], 0.0) is None
    _, score = language_of(TEXTS["en"].encode())
    assert foreign(TEXTS["en"].encode(), ["en"], min(1.0, score + 1e-6)) == "language_uncertain"


def test_codes_that_are_not_known_and_scores_without_a_language_are_refused():
    with pytest.raises(ConfigError, match=r"language is 'english'; expected one of the \d+ codes"):
        model_version(["en", "english"])
    with pytest.raises(ConfigError, match="expected 0 to 1, and a language with it"):
        OperatorOptions(language_min_score=0.5)
    assert OperatorOptions(language="en").language == ("en",)


def test_without_the_library_the_extra_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "py3langid.langid", None)
    language._identifier.cache_clear()
    with pytest.raises(ConfigError, match=r"pip install 'headrace\[language\]'"):
        model_version(["en"])
    language._identifier.cache_clear()
