"""The wire format of docs/wire-format.md with tritonclient and numpy alone: 16 kHz 16-bit mono WAV to text.

python recipes/minimal_stream_client.py speech.wav [HOST:PORT] [MODEL]
"""

import json
import random
import sys
import wave

import numpy as np
import tritonclient.grpc as grpc


def main(path, url="127.0.0.1:8001", model="asr_streaming"):
    with wave.open(path) as file:
        if (file.getframerate(), file.getsampwidth(), file.getnchannels()) != (16000, 2, 1):
            sys.exit(f"error: {path} is not 16 kHz 16-bit mono")
        audio = np.frombuffer(file.readframes(file.getnframes()), "<i2").astype(np.float32) / 32768
    client = grpc.InferenceServerClient(url)
    parameters = client.get_model_config(model).config.parameters
    first, shift, end = (
        int(parameters[f"{name}_samples"].string_value) for name in ("first", "shift", "end")
    )
    sequence, sent, chunk, last = random.randrange(1, 2**63), 0, 0, False
    try:
        while not last:
            last = len(audio) - shift * chunk <= end
            stop = len(audio) if last else shift * chunk + first
            tensor = grpc.InferInput("audio", [1, stop - sent], "FP32")
            tensor.set_data_from_numpy(audio[None, sent:stop])
            answer = client.infer(
                model,
                [tensor],
                sequence_id=sequence,
                sequence_start=chunk == 0,
                sequence_end=last,
                client_timeout=10,
            )
            names = ("text", "is_final", "words")
            for text, final, words in zip(*(answer.as_numpy(name)[0] for name in names), strict=True):
                print("final  " if final else "partial", text.decode(), *(json.loads(words) if final else []))
            sent, chunk = stop, chunk + 1
    except BaseException:  # an abandoned sequence would keep its place until it is idle for too long
        tensor = grpc.InferInput("audio", [1, 0], "FP32")
        tensor.set_data_from_numpy(np.zeros((1, 0), np.float32))
        client.infer(model, [tensor], sequence_id=sequence, sequence_end=True, client_timeout=2)
        raise


if __name__ == "__main__":
    main(*sys.argv[1:])
