"""Checks, defaults and advice before a model is built."""

import codecs
import math
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from omegaconf import open_dict

from ko_asr.data.manifest import read_manifest
from ko_asr.data.schema import validate_manifest
from ko_asr.data.shards import bucket_duration_bins
from ko_asr.errors import UserError
from ko_asr.text.feasibility import TokenStatistics, refuse_infeasible, refuse_unknown, token_statistics
from ko_asr.text.tokenizer import load
from ko_asr.training.readable import check_audio
from ko_asr.training.record import check_tracker
from ko_asr.training.start import check_sources

if TYPE_CHECKING:
    from omegaconf import DictConfig


def check_run(config: "DictConfig") -> TokenStatistics:
    """Check tracker, data and feasibility without the slow imports; UserError for what cannot be trained.

    Returns the statistics of the training manifest's tokens.
    """
    check_tracker(config)
    check_data(config)
    check_audio(config)
    return check_feasibility(config)


def check_data(config: "DictConfig") -> None:
    """Raise UserError, before the slow imports, when manifests or tokenizer are missing."""
    for dataset in (config.model.train_ds, config.model.validation_ds):
        manifest = Path(dataset.manifest_filepath)
        if not manifest.is_file():
            raise UserError(
                f"no training data at {manifest}: prepare KsponSpeech with "
                f"'python recipes/prepare_ksponspeech.py --corpus DIR --out {manifest.parent}', "
                "or run 'make demo' to see the whole recipe on a synthetic corpus"
            )
        with manifest.open("rb") as stream:
            if stream.read(3) == codecs.BOM_UTF8:
                raise UserError(
                    f"{manifest} begins with a byte order mark, which NeMo's loader does not read: remove it "
                    f"with sed -i '1s/^\\xEF\\xBB\\xBF//' {manifest}"
                )
        # Audio in shards is found by NeMo's own loader; the manifest still says what they hold.
        validate_manifest(manifest, check_audio=not dataset.get("input_cfg"))
    for key, recipe in (
        ("noise_path", "prepare_noise.py"),
        ("rir_path", "prepare_noise.py"),
        ("input_cfg", "shard_manifest.py"),
    ):
        path = config.model.train_ds.get(key)
        if isinstance(path, str) and not Path(path).is_file():
            raise UserError(f"no file {path} (model.train_ds.{key}): write it with recipes/{recipe}")
    load(config.model.tokenizer.dir)
    check_sources(config)


def check_feasibility(config: "DictConfig") -> TokenStatistics:
    """Print how tokens and frames go together; UserError above ``max_infeasible`` or ``max_unknown``."""
    encoder = config.model.encoder
    factor = encoder.subsampling_factor
    entries = read_manifest(config.model.train_ds.manifest_filepath)
    statistics = token_statistics(
        entries, load(config.model.tokenizer.dir), (factor,), encoder.causal_downsampling
    )
    print(
        f"CTC feasibility: {statistics.infeasible_share(factor):.2%} of {statistics.utterances} utterances "
        f"have more tokens than frames at {factor}x ({statistics.tokens_per_second:.1f} tokens/s, "
        f"{statistics.unknown_rate:.2%} unknown)",
        flush=True,
    )
    refuse_unknown(statistics, config.max_unknown, config.model.tokenizer.dir)
    refuse_infeasible(statistics, factor, config.max_infeasible, base_model=config.get("base_model"))
    return statistics


def advise_batch(config: "DictConfig", statistics: TokenStatistics, devices: int) -> None:
    """Print how many utterances a step of the optimiser sees, and what to set when they are too few."""
    train_ds, accumulated = config.model.train_ds, config.trainer.accumulate_grad_batches
    if not train_ds.get("batch_duration"):
        return
    utterances = train_ds.batch_duration * devices * statistics.utterances / statistics.seconds
    advice = f"a step sees about {utterances * accumulated:.0f} utterances"
    if utterances * accumulated < config.advised_batch:
        enough = math.ceil(config.advised_batch / utterances)
        advice += f", fewer than the {config.advised_batch} advised: trainer.accumulate_grad_batches={enough}"
    print(advice, flush=True)


def fill_buckets(dataset: "DictConfig") -> None:
    """Fill in bucket edges that hold equal seconds of the manifest, where ``train_ds`` has none.

    NeMo's default spaces them evenly up to ``max_duration``, so that clips of 2 to 5 s with a limit of 20 s
    share two buckets of six, and batches are as padded as without any.
    """
    if not dataset.get("use_bucketing") or dataset.get("bucket_duration_bins"):
        return
    durations = np.array([entry["duration"] for entry in read_manifest(dataset.manifest_filepath)])
    shortest, longest = dataset.get("min_duration") or 0.0, dataset.get("max_duration") or np.inf
    kept = durations[(durations >= shortest) & (durations <= longest)]
    if bins := bucket_duration_bins(kept, dataset.num_buckets) if len(kept) else []:
        with open_dict(dataset):
            dataset.bucket_duration_bins = bins
