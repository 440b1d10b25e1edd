"""Files appear whole or not at all."""

import pytest

from whole import write_text_whole, written_whole


def test_what_fails_leaves_the_old_file_and_nothing_beside_it(tmp_path):
    path = tmp_path / "a.txt"
    write_text_whole(path, "old")
    with pytest.raises(ValueError), written_whole(path) as aside:
        aside.write_text("half")
        raise ValueError
    assert path.read_text() == "old"
    assert list(tmp_path.iterdir()) == [path]


def test_errors_name_the_file_that_they_are_of(tmp_path):
    with pytest.raises(OSError) as found:
        write_text_whole(tmp_path / "none/a.txt", "")
    assert found.value.filename == str(tmp_path / "none/a.txt")
    with pytest.raises(OSError) as found, written_whole(tmp_path / "a.txt"):
        (tmp_path / "read").read_text()
    assert str(found.value.filename) == str(tmp_path / "read")
