"""Every tensor and model name of the served ensembles, once."""

# The models of the offline ensemble.
ENSEMBLE, PREPROCESSOR, ENCODER, DECODER = "asr", "asr_preprocessor", "asr_encoder", "asr_decoder"
LOG_MEL = "asr_log_mel"  # only with front_end "graph"; with "numpy" the preprocessor computes the features

# The models of the streaming ensemble.
STREAM_ENSEMBLE, STREAM_PREPROCESSOR, STREAM_ENCODER, STREAM_DECODER = (
    "asr_streaming",
    "asr_streaming_preprocessor",
    "asr_streaming_encoder",
    "asr_streaming_decoder",
)
STREAM_LOG_MEL = "asr_streaming_log_mel"  # only with front_end "graph"

# Tensors of the offline ensemble (what a client sees) and between its steps.
AUDIO, RATE, TEXT, CONFIDENCE, WORDS = "audio", "sample_rate", "text", "confidence", "words"
OPTIONS, WRITTEN = "options", "written"
FEATURES, LENGTH = "features", "length"
PADDED_AUDIO, SAMPLES = "padded_audio", "samples"  # to the log-mel graph: audio, and how much of it is valid
TOKEN_IDS, TOKEN_LOG_PROBS, ENCODED_LENGTH, LOG_PROBS = (
    "token_ids",
    "token_log_probs",
    "encoded_length",
    "log_probs",
)

# Tensors of the streaming ensemble besides those, and between its steps.
IS_FINAL, UTTERANCE, STABLE = "is_final", "utterance", "stable"
STREAM, FAILURE = "stream", "failure"
BEFORE = "before"  # to the log-mel graph: frames of the window that lie before the audio

# The states of a streaming graph.
CACHE_LAST_CHANNEL, CACHE_LAST_TIME, CACHE_LAST_CHANNEL_LEN = (
    "cache_last_channel",
    "cache_last_time",
    "cache_last_channel_len",
)
STATE_INPUTS = (CACHE_LAST_CHANNEL, CACHE_LAST_TIME, CACHE_LAST_CHANNEL_LEN)
STATE_OUTPUTS = tuple(f"{name}_next" for name in STATE_INPUTS)
STREAM_INPUTS = (FEATURES, LENGTH, *STATE_INPUTS)
STREAM_OUTPUTS = (TOKEN_IDS, TOKEN_LOG_PROBS, ENCODED_LENGTH, *STATE_OUTPUTS)
