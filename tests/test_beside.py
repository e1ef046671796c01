"""Files are replaced whole or not at all."""

import errno
import os
from pathlib import Path

import pytest

from qlib_ext.beside import beside, write_text


def test_a_file_that_cannot_be_written_stays_as_it_was(tmp_path):
    file = tmp_path / "page.html"
    file.write_text("old")
    with pytest.raises(
        OSError, match="page.html cannot be written: No space left .*: make room, .*; what was there is as it"
    ):
        with beside(file) as partial:
            partial.write_text("half of the n")
            raise OSError(errno.ENOSPC, "No space left on device")
    with pytest.raises(ZeroDivisionError), beside(file) as partial:
        partial.write_text(f"{1 / 0}")
    assert file.read_text() == "old" and list(tmp_path.iterdir()) == [file]


def test_a_link_keeps_pointing_and_a_file_keeps_its_mode(tmp_path):
    file, link = tmp_path / "page.html", tmp_path / "link.html"
    file.write_text("old")
    file.chmod(0o640)
    link.symlink_to(file)
    write_text(link, "新\n")
    assert link.is_symlink() and file.read_text(encoding="utf-8") == "新\n" and file.stat().st_mode & 0o777 == 0o640
    assert sorted(tmp_path.iterdir()) == [link, file]


def test_what_is_no_file_is_written_itself():
    write_text("/dev/null", "gone")
    assert Path("/dev/null").is_char_device()


@pytest.mark.parametrize("name", ["", "there_is_no/page.html", "file/page.html", f"{'x' * 300}.html"])
def test_a_place_that_cannot_be_is_named(tmp_path, name):
    (tmp_path / "file").write_text("")
    with pytest.raises(OSError, match="cannot be written: "):
        write_text(tmp_path / name, "text")
    assert os.listdir(tmp_path) == ["file"]  # noqa: PTH208
