"""Damaged files: a few of those that `benchmarks.fuzz` makes by the ten thousand."""

import numpy as np
import pytest

from benchmarks.fuzz import outcome
from benchmarks.fuzz_files import FORMATS, damage


@pytest.mark.parametrize("name", ["field", "scene", "script", "yaml"])
def test_a_damaged_file_is_read_or_refused_in_one_line(tmp_path, name):
    found = []
    for number in range(60):
        folder = tmp_path / str(number)
        folder.mkdir()
        main = FORMATS[name].make(folder)
        how = damage(folder, main, np.random.default_rng([1, number]))
        if "mesh.obj" not in how:  # readers of meshes have tests of their own
            found.append((*outcome(lambda main=main: FORMATS[name].read(main)), how))
    assert not [row for row in found if row[0] == "fault"]
    assert len([row for row in found if row[0] == "refused"]) > 10


def test_a_fault_is_told_from_a_refusal_by_its_kind_and_length():
    def refuse(error):
        raise error

    assert outcome(lambda: None) == ("read", "")
    assert outcome(lambda: refuse(ValueError("a clear text"))) == ("refused", "a clear text")
    for error in (IndexError("x"), ValueError("two\nlines"), ValueError("x" * 601), ValueError(), MemoryError()):
        assert outcome(lambda error=error: refuse(error))[0] == "fault"
    assert outcome(lambda: np.float64(1e308) * 10)[1].startswith("warning: RuntimeWarning")
