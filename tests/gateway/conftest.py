"""One gateway in front of one server of both ensembles, for all tests of this folder."""

import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
from gateway_process import QUICK_JOBS, GatewayProcess
from webhook_receiver import Receiver

from ko_asr.data.manifest import read_manifest


@pytest.fixture(scope="session")
def both_models(demo, streaming_repository: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model repository with the ensembles of files and of streams."""
    repository = tmp_path_factory.mktemp("both") / "triton"
    for models in (demo.repository, streaming_repository):
        shutil.copytree(models, repository, dirs_exist_ok=True)
    return repository


@pytest.fixture(scope="session")
def asr_server(demo, both_models: Path) -> Iterator[str]:
    """The gRPC address of a server of both."""
    from ko_asr.serving.server import TritonServer

    with TritonServer(both_models, demo.server) as server:
        yield server.url


@pytest.fixture(scope="session")
def gateway(asr_server: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[GatewayProcess]:
    """A gateway with the name whisper-1 besides its own."""
    folder = tmp_path_factory.mktemp("gateway") / "g"
    with GatewayProcess(asr_server, folder, "--alias", "whisper-1") as running:
        yield running


@pytest.fixture(scope="module")
def jobs(asr_server: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[GatewayProcess]:
    """A gateway with a worker that looks often, and takes 21 minutes of audio."""
    with GatewayProcess(asr_server, tmp_path_factory.mktemp("jobs") / "g", *QUICK_JOBS) as running:
        yield running


@pytest.fixture(scope="module")
def receiver() -> Iterator[Receiver]:
    """Where webhooks may go."""
    with Receiver() as running:
        yield running


@pytest.fixture(scope="session")
def files(demo) -> list[Path]:
    """Forty utterances of the demo."""
    splits = ("eval_clean", "eval_other")
    entries = [entry for split in splits for entry in list(read_manifest(demo.manifests[split]))[:20]]
    return [Path(entry["audio_filepath"]) for entry in entries]
