"""A FastConformer-CTC with random weights, for benchmarks: the speed of a trained one, and noise for words.

python bench/random_model.py --size s --out /tmp/s.nemo
"""

import argparse
import tempfile
from pathlib import Path
from typing import Any

from omegaconf import OmegaConf

from ko_asr.errors import run_main

ROOT = Path(__file__).resolve().parents[1]
SIZES = {"xs": (96, 4, 4), "s": (176, 4, 16), "m": (256, 4, 16), "l": (512, 8, 17)}  # d_model, heads, layers


def tokenizer(folder: Path, vocabulary: int) -> Path:
    """Train a syllable tokenizer of exactly ``vocabulary`` pieces, <unk> and the word boundary among them."""
    from ko_asr.text.tokenizer import train

    syllables = [chr(0xAC00 + 11 * i) for i in range(vocabulary - 2)]
    train("syllable", [" ".join(syllables)], folder)
    return folder


def configuration(size: str, subsampling: int, tokenizer_folder: Path, streaming: bool = False) -> dict:
    """Return NeMo's model configuration: the published FastConformer-CTC, ``streaming`` cache-aware."""
    d_model, heads, layers = SIZES[size]
    modules = "nemo.collections.asr.modules"
    values = {
        "sample_rate": 16000,
        "train_ds": None,
        "validation_ds": None,
        "test_ds": None,
        "tokenizer": {"dir": str(tokenizer_folder), "type": "bpe"},
        "preprocessor": {
            "_target_": f"{modules}.AudioToMelSpectrogramPreprocessor",
            "sample_rate": 16000,
            "normalize": "per_feature",
            "window_size": 0.025,
            "window_stride": 0.01,
            "window": "hann",
            "features": 80,
            "n_fft": 512,
            "dither": 1e-5,
            "pad_to": 0,
        },
        "encoder": {
            "_target_": f"{modules}.ConformerEncoder",
            "feat_in": 80,
            "n_layers": layers,
            "d_model": d_model,
            "subsampling": "dw_striding",
            "subsampling_factor": subsampling,
            "subsampling_conv_channels": 256,
            "ff_expansion_factor": 4,
            "self_attention_model": "rel_pos",
            "n_heads": heads,
            "att_context_size": [-1, -1],
            "xscaling": True,
            "untie_biases": True,
            "pos_emb_max_len": 5000,
            "conv_kernel_size": 9,
            "conv_norm_type": "batch_norm",
            "dropout": 0.1,
            "dropout_pre_encoder": 0.1,
            "dropout_emb": 0.0,
            "dropout_att": 0.1,
        },
        "decoder": {
            "_target_": f"{modules}.ConvASRDecoder",
            "feat_in": None,
            "num_classes": -1,
            "vocabulary": [],
        },
        "decoding": {"strategy": "greedy_batch"},
        "optim": {"name": "adamw", "lr": 1e-3},
    }
    if streaming:
        changes = OmegaConf.load(ROOT / "conf" / "streaming" / "cache_aware.yaml")
        values = OmegaConf.to_container(OmegaConf.merge(values, changes))
    return values


def write_model(
    out: Path, size: str, vocabulary: int = 1024, subsampling: int = 8, streaming: bool = False, seed: int = 0
) -> Any:
    """Write the .nemo ``out`` and return the model."""
    import torch
    from nemo.collections.asr.models import EncDecCTCModelBPE

    torch.manual_seed(seed)
    with tempfile.TemporaryDirectory() as folder:
        pieces = tokenizer(Path(folder), vocabulary)
        values = configuration(size, subsampling, pieces, streaming)
        model = EncDecCTCModelBPE(OmegaConf.create(values))
        with torch.no_grad():
            # An untrained head hardly prefers any token; scaled up, the greedy text varies as real text does.
            model.decoder.decoder_layers[0].weight.mul_(20)
        model.eval().save_to(str(out))
    return model


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--size", choices=SIZES, default="s")
    parser.add_argument("--vocabulary", type=int, default=1024, help="pieces (default 1024)")
    parser.add_argument("--subsampling", type=int, default=8, choices=[4, 8])
    parser.add_argument("--streaming", action="store_true", help="cache-aware, as fastconformer_ko_streaming")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, required=True, help="the .nemo to write")
    options = parser.parse_args()
    model = write_model(**vars(options))
    millions = sum(parameter.numel() for parameter in model.parameters()) / 1e6
    print(f"wrote {options.out}: {millions:.1f} M parameters, {len(model.decoder.vocabulary)} pieces")
    print(f"next: python export/to_triton.py --model {options.out} --repository DIR")


if __name__ == "__main__":
    run_main(main)
