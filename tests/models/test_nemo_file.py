"""A .nemo is opened in one place: plain or, as NeMo wrote them before 1.7, gzipped; never a cut one."""

import gzip
import io
import os
import tarfile
from pathlib import Path

import pytest

from ko_asr.errors import UserError
from ko_asr.models import nemo_file
from ko_asr.models.nemo_file import check_nemo_file, read_config, tokenizer_bytes

CONFIG = b"encoder:\n  d_model: 8\n"
WEIGHTS = os.urandom(200_000)


def nemo(members: dict[str, bytes], packed: bool) -> bytes:
    stream = io.BytesIO()
    with tarfile.open(fileobj=stream, mode="w:") as archive:
        for name, content in members.items():
            member = tarfile.TarInfo(name)
            member.size = len(content)
            archive.addfile(member, io.BytesIO(content))
    return gzip.compress(stream.getvalue(), 1) if packed else stream.getvalue()


WHOLE = {"./model_config.yaml": CONFIG, "./x_tokenizer.model": b"pieces", "./model_weights.ckpt": WEIGHTS}


@pytest.mark.parametrize("packed", [False, True])
def test_a_whole_one_is_read(packed: bool, tmp_path: Path) -> None:
    path = tmp_path / "model.nemo"
    path.write_bytes(nemo(WHOLE, packed))
    check_nemo_file(path)
    assert read_config(path) == {"encoder": {"d_model": 8}} and tokenizer_bytes(path) == b"pieces"


@pytest.mark.parametrize("packed", [False, True])
@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda whole: whole[:150_000], "not a whole .nemo file"),
        (lambda whole: whole[:3], "not a whole .nemo file"),
        (lambda whole: b"", "not a whole .nemo file"),
        (lambda whole: whole[:20] + bytes(len(whole) - 20), "not a whole .nemo file"),
    ],
)
def test_a_damaged_one_is_a_sentence(change, said: str, packed: bool, tmp_path: Path) -> None:
    path = tmp_path / "model.nemo"
    path.write_bytes(change(nemo(WHOLE, packed)))
    for read in (check_nemo_file, read_config, tokenizer_bytes):
        with pytest.raises(UserError, match=said):
            read(path)


@pytest.mark.parametrize("packed", [False, True])
def test_a_tar_that_is_no_model(packed: bool, tmp_path: Path) -> None:
    path = tmp_path / "model.nemo"
    path.write_bytes(nemo({"readme.txt": b"hello"}, packed))
    with pytest.raises(UserError, match="without model_config"):
        check_nemo_file(path)


def test_a_gzip_bomb_is_not_unpacked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(nemo_file, "MOST_BYTES", 1 << 20)
    path = tmp_path / "model.nemo"
    path.write_bytes(nemo(WHOLE | {"./model_weights.ckpt": bytes(30 << 20)}, packed=True))
    with pytest.raises(UserError, match="unpacks to more than 1 MB"):
        check_nemo_file(path)
