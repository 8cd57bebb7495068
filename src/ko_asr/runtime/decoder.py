"""The decoder of one stream or file: greedy, or beam search where there are keywords or a language model."""

from collections.abc import Sequence

from ko_asr.runtime.beam import BeamDecoder
from ko_asr.runtime.ctc_decoder import DecoderSettings
from ko_asr.runtime.greedy import GreedyDecoder
from ko_asr.runtime.keywords import Keyword
from ko_asr.runtime.prefix_search import BeamOptions, Scorer
from ko_asr.runtime.results import Decoder


def make_decoder(
    settings: DecoderSettings,
    keywords: Sequence[Keyword] = (),
    language_model: Scorer | None = None,
    options: BeamOptions | None = None,
) -> Decoder:
    """Beam search with ``keywords`` or a ``language_model``, greedy decoding without either."""
    if not keywords and language_model is None:
        return GreedyDecoder(settings)
    return BeamDecoder(settings, language_model, keywords, options)
