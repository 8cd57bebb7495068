"""The memory that the encoders of an export take on a CPU, measured in a process like the server's.

Triton runs each encoder session in a process of its own. Here such a process opens the graph, is fed zeros of
the shapes that a server would feed it, and reports its largest resident size after each.
"""

import json
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from ko_asr.errors import UserError
from ko_asr.export.session import open_session
from ko_asr.runtime import file_names, tensors
from ko_asr.runtime.contract import Contract
from ko_asr.runtime.stream_contract import StreamingContract
from ko_asr.serving.staging import VERSION

if TYPE_CHECKING:
    from ko_asr.serving.offline import Serving
    from ko_asr.serving.streaming import StreamServing

Shapes = dict[str, tuple[str, list[int]]]  # input -> its dtype and shape
_MEASURED_FRAMES = 6000  # a minute; longer clips are reckoned, for they might not fit into this machine


def offline_memory(repository: Path, contract: Contract, serving: "Serving") -> str:
    """What an encoder process of the offline ensemble takes, in words.

    Attention grows with the square of a clip's length, the rest of the encoder with the length: beyond a
    minute a parabola through three measured lengths tells what the longest clip takes.
    """
    graph = repository / tensors.ENCODER / VERSION / file_names.GRAPH
    longest = max(contract.bucket_frames)
    measured = min(longest, _MEASURED_FRAMES)
    lengths = [contract.bucket(size) for size in (100, measured // 4, measured // 2, measured)]
    feeds: list[Shapes] = [
        {tensors.FEATURES: ("float32", [1, contract.mels, n]), tensors.LENGTH: ("int64", [1, 1])}
        for n in lengths
    ]
    wanted = [tensors.TOKEN_IDS, tensors.TOKEN_LOG_PROBS, tensors.ENCODED_LENGTH]
    idle, *most = largest_sizes(graph, feeds, wanted, serving.threads)
    clip = most[-1] - idle
    if longest > measured:
        clip = float(np.polyval(np.polyfit(lengths[1:], most, 2), longest)) - idle
    return (
        f"memory of an encoder process: {idle:.0f} MB, and up to {clip:.0f} MB more for each clip of "
        f"{contract.max_samples / contract.sample_rate:g} s that it works on; with {serving.instances} "
        f"processes and so many such clips at once {serving.instances * (idle + clip):.0f} MB"
    )


def streaming_memory(repository: Path, contract: StreamingContract, serving: "StreamServing") -> str:
    """What an encoder process of the default streaming ensemble takes, in words."""
    graph = repository / tensors.STREAM_ENCODER / VERSION / file_names.GRAPH
    feeds = [_chunks(contract, rows) for rows in (1, serving.max_batch_size)]
    idle, most = largest_sizes(graph, feeds, [tensors.TOKEN_IDS, tensors.TOKEN_LOG_PROBS], serving.threads)
    state = sum(np.dtype(entry["dtype"]).itemsize * np.prod(entry["shape"]) for entry in contract.states)
    streams = serving.max_streams
    return (
        f"memory of an encoder process: {idle:.0f} MB, up to {most:.0f} MB while {serving.max_batch_size} "
        f"streams share a batch; a stream keeps {state / 2**20:.1f} MB, {streams} streams "
        f"{streams * state / 2**20:.0f} MB"
    )


def _chunks(contract: StreamingContract, rows: int) -> Shapes:
    """One chunk of each of ``rows`` streams, with their states."""
    window = [rows, contract.mels, contract.window_frames]
    states = {entry["input"]: (entry["dtype"], [rows, *entry["shape"]]) for entry in contract.states}
    return {tensors.FEATURES: ("float32", window), tensors.LENGTH: ("int64", [rows, 1]), **states}


def largest_sizes(graph: Path, feeds: Sequence[Shapes], outputs: list[str], threads: int) -> list[float]:
    """Megabytes of a new process that runs ``graph``, at most until it has run each of ``feeds``, in turn.

    UserError, with the end of what the process wrote, when the graph does not run.
    """
    command = [sys.executable, "-m", __name__]
    order = json.dumps({"graph": str(graph), "feeds": feeds, "outputs": outputs, "threads": threads})
    done = subprocess.run(command, input=order, capture_output=True, encoding="utf-8", check=False)
    if done.returncode:
        last = (done.stderr.strip().splitlines() or [f"status {done.returncode}"])[-1]
        raise UserError(f"{graph} did not run on zeros to measure its memory: {last}")
    return json.loads(done.stdout)


def _measure() -> None:
    order = json.load(sys.stdin)
    session = open_session(order["graph"], order["threads"])
    sizes = []
    for shapes in order["feeds"]:
        feed = {name: np.zeros(shape, dtype) for name, (dtype, shape) in shapes.items()}
        for _ in range(2):  # in the second run of a shape ONNX Runtime takes the memory that it planned
            session.run(order["outputs"], feed)
        sizes.append(_largest_size())
    print(json.dumps(sizes))


def _largest_size() -> float:
    """The largest resident size of this process so far, in MB (proc(5), VmHWM)."""
    lines = Path("/proc/self/status").read_text(encoding="utf-8").splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("VmHWM")) / 1024


if __name__ == "__main__":
    _measure()
