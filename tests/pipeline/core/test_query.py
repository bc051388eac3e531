from pathlib import Path

import pytest

from pipeline.core import query


def test_dates_do_not_depend_on_where_the_machine_stands(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TZ", "Asia/Tokyo")
    with query.connect(query.QueryConfig(), scratch=tmp_path) as connection:
        row = connection.execute("SELECT '2020-01-01 23:30:00+00'::TIMESTAMPTZ::DATE::VARCHAR").fetchone()
    assert row == ("2020-01-01",)
