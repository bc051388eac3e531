from pathlib import Path

import psutil
import pytest

from benchmarks import openmp_spin


def test_each_way_is_measured_alone_and_beside_work(monkeypatch: pytest.MonkeyPatch) -> None:
    beside: list[int] = []

    def steps(environment: dict[str, str]) -> list[float]:
        beside.append(sum("while True: pass" in child.cmdline() for child in psutil.Process().children()))
        return [float(environment.get("GOMP_SPINCOUNT", 7)), 0.0, 1e9]

    monkeypatch.setattr(openmp_spin, "_in_process", steps)
    rows = openmp_spin.measure(Path("libomp.so"))
    assert beside == [0] * 27 + [2] * 27
    assert [(row["runtime"], row["setting"], row["alone_s"]) for row in rows[:3]] == [
        ("GNU", "default", 7.0),
        ("GNU", "GOMP_SPINCOUNT=0", 0.0),
        ("GNU", "GOMP_SPINCOUNT=3000", 3000.0),
    ]
    assert [row["setting"] for row in rows[5:]] == ["default", *(f"KMP_BLOCKTIME={n}" for n in (0, 1, 10))]
    assert not [child for child in psutil.Process().children() if "while True: pass" in child.cmdline()]


@pytest.mark.parametrize("way", [{}, {"GOMP_SPINCOUNT": "3000"}], ids=["default", "set"])
def test_a_way_is_all_that_its_process_is_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, way: dict[str, str]
) -> None:
    script = tmp_path / "script.py"
    names = openmp_spin._VARIABLES
    script.write_text(f"import json, os; print(json.dumps([os.environ.get(name) for name in {names}]))")
    monkeypatch.setattr(openmp_spin, "__file__", str(script))
    monkeypatch.setenv("GOMP_SPINCOUNT", "30000")
    assert openmp_spin._in_process(way) == [way.get(name) for name in names]
