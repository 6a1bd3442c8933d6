"""Texts that stand alone are sentences in plain words (tools/check_words.py)."""

import ast
import importlib.util
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[3]


def load():
    spec = importlib.util.spec_from_file_location("check_words", ROOT / "tools/check_words.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


words = load()


def faults_of(source: str) -> list[str]:
    return [fault for text in words.texts(ast.parse(source)) for fault in words.faults(text)]


@pytest.mark.parametrize("folder", words.FOLDERS)
def test_every_text_is_a_sentence_in_plain_words(folder: str) -> None:
    assert words.check(sorted((ROOT / folder).rglob("*.py"))) == []


@pytest.mark.parametrize(
    "source",
    [
        'LIMIT = 3\n"""Of one tenant, at a time."""',
        'class A:\n    wait: float\n    """How long it waits."""',
        'x = Field(3, description="how many jobs wait")',
        'x = Counter("mint_jobs", "What ended.")',
        'LIMIT = 3\n"""Maximum time until a client is told."""',
        'x = Option(help="Jobs that nobody watches.")',
    ],
)
def test_fragments_and_private_words_are_found(source: str) -> None:
    assert len(faults_of(source)) == 1


def test_a_sentence_passes() -> None:
    assert faults_of('LIMIT = 3\n"""Maximum jobs of a tenant."""') == []


@pytest.mark.parametrize("subject", ["Let a load go", "loader: " + "x" * 72, "loader:drop"])
def test_subjects_without_an_area_or_too_long_are_found(subject: str) -> None:
    assert list(words.subject_faults(subject))


def test_a_subject_with_an_area_passes() -> None:
    assert list(words.subject_faults("registry, trainer: keep rows for a month")) == []
