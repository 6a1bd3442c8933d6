"""The end of a log, for people."""

from services.standalone.core.log_tail import readable, told_line


def test_json_records_are_unfolded_and_plain_lines_kept() -> None:
    log = (
        "loading weights\n"
        '{"time":"t","level":"ERROR","service":"registry","message":"service crashed",'
        '"exception":"Traceback\\n  File x\\nNameError: no such name"}\n'
    )
    assert readable(log).splitlines() == [
        "loading weights",
        "ERROR service crashed",
        "Traceback",
        "  File x",
        "NameError: no such name",
    ]


def test_only_the_last_lines_are_shown() -> None:
    assert readable("\n".join(map(str, range(100)))).splitlines()[0] == "88"


def test_a_record_is_one_line_with_its_fields() -> None:
    record = '{"time":"t","level":"INFO","service":"loader","message":"adapter loaded","seconds":0.2}'
    assert told_line(record) == ["t INFO adapter loaded seconds=0.2"]
    assert told_line("2026 LOG: ready") == ["2026 LOG: ready"]
    assert told_line('{"time": 1}') == ['{"time": 1}']
