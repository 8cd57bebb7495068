"""One gateway in front of the demo's server, for all tests of this folder."""

from collections.abc import Iterator
from pathlib import Path

import pytest
from gateway_process import GatewayProcess

from ko_asr.data.manifest import read_manifest


@pytest.fixture(scope="session")
def gateway(demo, tmp_path_factory: pytest.TempPathFactory) -> Iterator[GatewayProcess]:
    """A gateway with the name whisper-1 besides its own."""
    folder = tmp_path_factory.mktemp("gateway") / "g"
    with GatewayProcess(demo.url, folder, "--alias", "whisper-1") as running:
        yield running


@pytest.fixture(scope="session")
def files(demo) -> list[Path]:
    """Forty utterances of the demo."""
    splits = ("eval_clean", "eval_other")
    entries = [entry for split in splits for entry in list(read_manifest(demo.manifests[split]))[:20]]
    return [Path(entry["audio_filepath"]) for entry in entries]
