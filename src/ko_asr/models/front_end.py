"""The numpy front end of a NeMo model, with its own window and filters."""

from ko_asr.errors import UserError
from ko_asr.models.nemo_ctc import NemoCtc
from ko_asr.runtime.log_mel import LogMel


def log_mel_of(model: NemoCtc) -> LogMel:
    """The numpy front end with the model's own window and filters. UserError on settings it does not have."""
    featurizer = model.preprocessor.featurizer
    supported = {
        "exact_pad": (featurizer.exact_pad, False),
        "mag_power": (featurizer.mag_power, 2.0),
        "log": (featurizer.log, True),
        "log_zero_guard_type": (featurizer.log_zero_guard_type, "add"),
        "frame_splicing": (featurizer.frame_splicing, 1),
    }
    for key, (value, wanted) in supported.items():
        if value != wanted:
            raise UserError(f"the model's preprocessor has {key}={value}; only {wanted} has a front end here")
    if featurizer.normalize not in ("per_feature", "NA"):
        raise UserError(f"the model normalizes features by {featurizer.normalize!r}: per_feature or NA only")
    return LogMel(
        window=featurizer.window.float().numpy(),
        filters=featurizer.fb[0].float().numpy(),
        n_fft=int(featurizer.n_fft),
        hop=int(featurizer.hop_length),
        preemphasis=float(featurizer.preemph or 0.0),
        log_guard=float(featurizer.log_zero_guard_value_fn(featurizer.fb)),
        normalize=str(featurizer.normalize),
    )
