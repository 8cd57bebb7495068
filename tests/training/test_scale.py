"""What training does on more devices, in less precision and with less memory than there might be."""

import json
import os
import signal
import socket
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from omegaconf import OmegaConf

from ko_asr.errors import UserError
from ko_asr.training.checks import fill_buckets
from ko_asr.training.memory import ActivationLaw, MemoryEstimate, largest_batch, shortage

ROOT = Path(__file__).resolve().parents[2]
# LayerNorm, because batches that are split over devices have other statistics than whole ones.
TINY = (
    "--config-name", "fastconformer_ko_demo", "model.encoder.n_layers=1", "model.encoder.d_model=32",
    "model.encoder.dropout=0.1", "model.encoder.conv_norm_type=layer_norm", "trainer.log_every_n_steps=1",
    "model.train_ds.batch_duration=10", "model.train_ds.use_bucketing=false",
    "model.validation_ds.batch_duration=1",  # one utterance a batch, so that ranks average alike
)  # fmt: skip


@pytest.fixture
def tiny(few_utterances: tuple[str, ...]) -> tuple[str, ...]:
    return (*TINY, *few_utterances)


TORCHRUN = (sys.executable, "-m", "torch.distributed.run")


def start(*arguments: str, cwd: Path, launcher: tuple[str, ...] = (sys.executable,)) -> subprocess.Popen:
    return subprocess.Popen(
        [*launcher, ROOT / "recipes/train_ctc.py", *arguments], cwd=cwd, start_new_session=True,
        env=os.environ | {"OMP_NUM_THREADS": "1"}, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
        encoding="utf-8", preexec_fn=hear_ctrl_c,
    )  # fmt: skip


def hear_ctrl_c() -> None:
    """Whatever runs in the background of a script, these tests perhaps, inherits that it is ignored."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)


def finish(process: subprocess.Popen, status: int = 0) -> tuple[str, str]:
    """What a run has written to standard output and standard error, when all of its processes have ended."""
    try:
        output, error = process.communicate(timeout=300)
    except subprocess.TimeoutExpired:
        os.killpg(process.pid, signal.SIGKILL)  # every process of the run with the first
        raise
    assert process.returncode == status, error[-3000:]
    return output, error


def train(*arguments: str, cwd: Path, launcher: tuple[str, ...] = (sys.executable,)) -> str:
    return finish(start(*arguments, cwd=cwd, launcher=launcher))[0]


def free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return listener.getsockname()[1]


def weights(run: Path) -> dict[str, torch.Tensor]:
    checkpoint = next((run / "checkpoints").glob("*last.ckpt"))
    return torch.load(checkpoint, map_location="cpu", weights_only=False)["state_dict"]


def curve(run: Path) -> list[dict]:
    return [json.loads(line) for line in (run / "run/curve.jsonl").read_text(encoding="utf-8").splitlines()]


FOUR_STEPS = ("trainer.max_steps=4", "trainer.val_check_interval=4", "trainer.strategy=ddp")


@pytest.fixture(scope="module")
def two(few_utterances: tuple[str, ...], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a run of two processes, started by Lightning."""
    folder = tmp_path_factory.mktemp("two")
    train(*TINY, *few_utterances, *FOUR_STEPS, "name=two", "trainer.devices=2", cwd=folder)
    return folder / "experiments/two"


def test_two_processes_learn_what_one_learns_from_the_same_batches(tiny, two: Path, tmp_path: Path) -> None:
    """Two ranks with a batch each take the step of one process that accumulates both."""
    train(*tiny, "trainer.max_steps=4", "name=one", "trainer.accumulate_grad_batches=2",
          "trainer.val_check_interval=8", cwd=tmp_path)  # fmt: skip
    one = tmp_path / "experiments/one"
    (before, after), expected = (curve(one)[-1], curve(two)[-1]), weights(one)
    print(f"validation loss: one process {before['val_loss']:.6f}, two {after['val_loss']:.6f}")
    assert after["val_loss"] == pytest.approx(before["val_loss"], rel=1e-5)
    found = weights(two)
    assert found.keys() == expected.keys()
    for name, tensor in expected.items():
        torch.testing.assert_close(found[name], tensor, rtol=1e-4, atol=1e-6)


def test_torchrun_on_two_nodes_trains_the_same_model(tiny, two: Path, tmp_path: Path) -> None:
    """As conf/fastconformer_ko.yaml writes the commands; the two nodes are two launchers on this machine."""
    rendezvous = ("--rdzv-backend", "c10d", "--rdzv-endpoint", f"127.0.0.1:{free_port()}")
    node = (*TORCHRUN, "--nnodes", "2", "--nproc-per-node", "1", *rendezvous)
    options = (*tiny, *FOUR_STEPS, "name=nodes", "trainer.num_nodes=2", "trainer.devices=1")
    nodes = [start(*options, cwd=tmp_path, launcher=node) for _ in range(2)]
    said = "".join([finish(process)[0] for process in nodes])
    assert said.count("validation CER") == said.count("model: ") == 1  # of both together
    expected, found = weights(two), weights(tmp_path / "experiments/nodes")
    assert found.keys() == expected.keys()
    for name, tensor in expected.items():
        torch.testing.assert_close(found[name], tensor, rtol=1e-6, atol=1e-8)


@pytest.mark.parametrize(("number", "status"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_stopped_run_says_so_and_leaves_no_process(tiny, tmp_path: Path, number: int, status: int) -> None:
    process = start(*tiny, "name=stopped", "trainer.devices=2", "trainer.strategy=ddp",
                    "trainer.max_steps=100000", "trainer.val_check_interval=2", cwd=tmp_path)  # fmt: skip
    assert process.stdout is not None
    assert any("validation" in line for line in process.stdout)
    process.send_signal(number)
    said, error = finish(process, status)
    assert "the same command goes on" in said.splitlines()[-1]
    assert not error


def test_accumulated_gradients_equal_those_of_one_batch(tiny, tmp_path: Path) -> None:
    """Two batches of three utterances take the step of one of six: no dropout, no masks, no batch norm."""
    same = (
        *tiny, "trainer.max_steps=4", "model.encoder.dropout=0", "model.spec_augment.freq_masks=0",
        "model.spec_augment.time_masks=0", "model.train_ds.shuffle=false", "model.ctc_reduction=mean_batch",
        "model.train_ds.batch_duration=null",
    )  # fmt: skip
    train(*same, "name=whole", "+model.train_ds.batch_size=6", "trainer.val_check_interval=4", cwd=tmp_path)
    train(*same, "name=halves", "+model.train_ds.batch_size=3", "trainer.val_check_interval=8",
          "trainer.accumulate_grad_batches=2", cwd=tmp_path)  # fmt: skip
    expected, found = (weights(tmp_path / "experiments" / name) for name in ("whole", "halves"))
    for name, tensor in expected.items():
        torch.testing.assert_close(found[name], tensor, rtol=1e-4, atol=1e-6)


@settings(max_examples=20, deadline=None)
@given(st.lists(st.integers(100, 2500), max_size=60), st.integers(1, 12))
def test_buckets_hold_equal_seconds_of_what_is_trained_on(centiseconds: list[int], buckets: int) -> None:
    durations = [value / 100 for value in centiseconds]
    with tempfile.NamedTemporaryFile("w", encoding="utf-8", suffix=".jsonl") as manifest:
        for number, duration in enumerate(durations):
            entry = {"audio_filepath": f"/{number}.flac", "duration": duration, "text": "가"}
            manifest.write(json.dumps(entry) + "\n")
        manifest.flush()
        dataset = OmegaConf.create({
            "use_bucketing": True, "num_buckets": buckets, "manifest_filepath": manifest.name,
            "min_duration": 2.0, "max_duration": 20.0,
        })  # fmt: skip
        fill_buckets(dataset)
    trained = sorted(duration for duration in durations if 2.0 <= duration <= 20.0)
    edges = list(dataset.get("bucket_duration_bins") or [])
    assert edges == sorted(set(edges)) and len(edges) < buckets
    held = np.histogram(trained, [0.0, *edges, np.inf], weights=trained)[0]
    assert held.max() <= sum(trained) / buckets + 2 * max(trained, default=0.0) or len(edges) < buckets - 1


def test_bf16_trains_and_stops_early(tiny, tmp_path: Path) -> None:
    train(*tiny, "name=early", "trainer.max_steps=50", "trainer.precision=bf16-mixed",
          "trainer.val_check_interval=2", "exp_manager.create_early_stopping_callback=true",
          "exp_manager.early_stopping_callback_params.patience=1",
          "exp_manager.early_stopping_callback_params.min_delta=9", cwd=tmp_path)  # fmt: skip
    steps = curve(tmp_path / "experiments/early")
    assert [row["step"] for row in steps] == [2, 4]  # nothing gets better by 900 %
    assert all(4 < row["val_loss"] < 10 for row in steps)
    assert (tmp_path / "experiments/early/checkpoints/early.nemo").is_file()


MEASURE = """
import resource, sys, torch
from hydra import compose, initialize_config_dir
with initialize_config_dir(sys.argv[1], version_base="1.3"):
    config = compose("fastconformer_ko_demo", overrides=sys.argv[2:])
from ko_asr.models.nemo_file import quiet_nemo
quiet_nemo()
from nemo.collections.asr.models import EncDecCTCModelBPE
from ko_asr.training.memory import activation_law, estimate, noise_loss
from pathlib import Path

def resident(field="VmRSS"):
    lines = Path("/proc/self/status").read_text(encoding="utf-8").splitlines()
    return int(next(line for line in lines if line.startswith(field)).split()[1]) * 1024

def step(utterances, seconds):
    noise_loss(model, utterances, seconds).backward()
    optimiser.step()
    optimiser.zero_grad(set_to_none=True)

dataset = config.model.train_ds.copy()
model = EncDecCTCModelBPE(cfg=config.model).train()
optimiser = torch.optim.AdamW(model.parameters())
step(1, 1.0)
needed = estimate(model, dataset, 8.0, 32)
Path("/proc/self/clear_refs").write_text("5", encoding="utf-8")  # the peak starts again
rest = resident()
step(needed.utterances, needed.seconds)
print(needed.activations, resident("VmHWM") - rest)
"""


def test_memory_estimate_is_what_a_step_takes(tiny, tmp_path: Path) -> None:
    """Activations of the largest batch and the resident peak, with an allocator that gives memory back."""
    environment = os.environ | {
        "OMP_NUM_THREADS": "1", "MALLOC_TRIM_THRESHOLD_": "0", "MALLOC_MMAP_THRESHOLD_": "65536",
    }  # fmt: skip
    options = (*tiny[-3:], "model.train_ds.batch_duration=60")
    done = subprocess.run(
        [sys.executable, "-c", MEASURE, str(ROOT / "conf"), *options], cwd=tmp_path, env=environment,
        capture_output=True, encoding="utf-8", timeout=300,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-3000:]
    estimated, measured = map(float, done.stdout.split()[-2:])
    print(f"activations: estimated {estimated / 1e6:.0f} MB, measured {measured / 1e6:.0f} MB")
    assert 0.85 * measured < estimated < 1.15 * measured


def test_largest_batch_obeys_lhotse_rules() -> None:
    dataset = type("Dataset", (dict,), {"__getattr__": dict.__getitem__})(
        batch_duration=60, quadratic_duration=15, min_duration=1.0, max_duration=20.0, perturb_speed=False
    )
    linear = largest_batch(ActivationLaw(0, 1, 0), dataset, longest=30.0)
    assert linear[0] * (linear[1] + linear[1] ** 2 / 15) <= 60
    assert linear[1] < 2  # the penalty makes batches of long clips smaller
    dataset["batch_duration"] = 15
    count, seconds = largest_batch(ActivationLaw(0, 0, 1), dataset, longest=30.0)
    assert (count, round(seconds, 6)) == (1, 20.0)  # one clip always fits, up to max_duration


@pytest.mark.slow
def test_too_little_memory_or_disk_says_what_to_change(tmp_path: Path) -> None:
    from ko_asr.training.checkpoints import check_free_space

    needed = MemoryEstimate(10**8, 4e8, 4e8, 8e8, 6.4e9, utterances=20, seconds=15.0)
    said = shortage(needed, 5e9, batch_duration=600)
    assert "needs 8.0 GB and this device has 5.0 GB" in said
    fitting = float(said.split("batch_duration=")[1].split()[0])
    assert needed.activations * fitting / 600 + 1.6e9 < 5e9
    assert "choose a smaller size" in shortage(needed, 1e9, batch_duration=600)
    with pytest.raises(UserError, match="GB free and 1000000002 checkpoints"):
        check_free_space(tmp_path, torch.nn.Linear(1000, 1000), top_k=10**9)
    taken = check_free_space(tmp_path, torch.nn.Linear(1000, 1000), top_k=1)
    assert taken == pytest.approx(4e6 * (3 * 3 + 1), rel=0.01)
