"""Files of qlib's storage: a position in the calendar, then values."""

import numpy as np
import pytest

from qlib_ext.provider import ages, field_grid, read_series


def write(path, *numbers):
    path.parent.mkdir(parents=True, exist_ok=True)
    np.array(numbers, dtype="<f4").tofile(path)
    return path


def test_a_series_is_its_first_position_and_its_values(tmp_path):
    first, values = read_series(write(tmp_path / "close.day.bin", 7, 1.5, np.nan, 2.5))
    assert first == 7 and values.dtype == np.float32
    np.testing.assert_array_equal(values, [1.5, np.nan, 2.5])


@pytest.mark.parametrize("numbers", [None, (), (7,)])
def test_a_file_that_is_missing_empty_or_without_values(tmp_path, numbers):
    path = tmp_path / "close.day.bin"
    if numbers is not None:
        write(path, *numbers)
    assert len(read_series(path)[1]) == 0


def test_a_grid_by_hand(tmp_path):
    write(tmp_path / "sh600000" / "close.day.bin", 3, 30, 40, 50, 60)
    write(tmp_path / "sh600001" / "close.day.bin", 0, 0, 10, 20, 30, 40)
    write(tmp_path / "sh600002" / "close.day.bin")
    codes = ["SH600000", "SH600001", "SH600002", "SH600003"]
    nan = np.nan
    expected = [[nan, 20, nan, nan], [30, 30, nan, nan], [40, 40, nan, nan]]  # positions 2, 3 and 4
    np.testing.assert_array_equal(field_grid(tmp_path, codes, "$close", 2, 5), expected)
    np.testing.assert_array_equal(
        field_grid(tmp_path, codes, "$close", 5, 8)[:, :2], [[50, nan], [60, nan], [nan, nan]]
    )


def test_ages_by_hand():
    # listed at positions 0 (or before), 2 and never; looked at on 1, 2 and 3
    inf = np.inf
    expected = [[inf, 0, -2], [inf, 1, -1], [inf, 2, 0]]
    np.testing.assert_array_equal(ages(np.array([0, 2, 4]), np.arange(1, 4)), expected)
