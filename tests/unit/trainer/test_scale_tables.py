"""The tables of bases that do not fit here are those that transformers' classes give."""

from tools.make_scale_tables import PAGE, with_tables


def test_the_tables_of_large_bases_are_current() -> None:
    assert with_tables(PAGE.read_text()) == PAGE.read_text()
