"""Text files that people write: a byte order mark, line ends of three systems, another encoding."""

import pytest

from ko_asr.errors import UserError
from ko_asr.text.plain_files import text_lines


@pytest.mark.parametrize("mark", [b"", b"\xef\xbb\xbf"])
@pytest.mark.parametrize("end", ["\n", "\r\n", "\r"])
def test_lines(tmp_path, mark, end):
    file = tmp_path / "words.txt"
    file.write_bytes(mark + end.join(["철수", "", " 영희 "]).encode())
    assert list(text_lines(file)) == ["철수", "영희"]


@pytest.mark.parametrize("encoding", ["cp949", "utf-16"])
def test_another_encoding_is_named_with_line_and_byte(tmp_path, encoding):
    file = tmp_path / "words.txt"
    good = "가\n" * 20_000
    file.write_bytes(good.encode() + "철수".encode(encoding))
    with pytest.raises(UserError, match=r"words.txt:20001 is not UTF-8 text \(byte 8000\d .*iconv"):
        list(text_lines(file))
