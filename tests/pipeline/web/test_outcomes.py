import pyarrow as pa

from pipeline.web.outcomes import split_outcomes


def test_every_failure_has_a_reason() -> None:
    rows = [
        ("success", None, "success", None),
        ("failed_to_download", "[too_large] more bytes than allowed: 7", "too_large", "more bytes than allowed: 7"),
        ("failed_to_download", "unknown url type: 'x'", "failed_to_download", "malformed URL: unknown url type: 'x'"),
        ("failed_to_download", "", "failed_to_download", "unforeseen error: see img2dataset.log"),
        ("failed_in_worker", None, "failed_in_worker", "unforeseen error: see img2dataset.log"),
    ]
    before = [pa.chunked_array([[row[place] for row in rows]], pa.string()) for place in (0, 1)]
    status, error = split_outcomes(*before)
    assert list(zip(status.to_pylist(), error.to_pylist())) == [row[2:] for row in rows]
