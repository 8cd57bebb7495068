"""The decoder of one stream or file: greedy, or beam search where there are keywords or a language model."""

from collections.abc import Sequence

from ko_asr.runtime.beam import BeamDecoder
from ko_asr.runtime.ctc import Vocabulary
from ko_asr.runtime.endpoint import EndpointRules
from ko_asr.runtime.greedy import GreedyDecoder
from ko_asr.runtime.keywords import Keyword
from ko_asr.runtime.prefix_search import BeamOptions, Scorer
from ko_asr.runtime.results import Decoder


def make_decoder(
    vocabulary: Vocabulary,
    blank_id: int,
    frame_ms: float,
    endpointing: EndpointRules | None = None,
    offset_ms: float = 0.0,
    keywords: Sequence[Keyword] = (),
    language_model: Scorer | None = None,
    options: BeamOptions | None = None,
) -> Decoder:
    """Beam search with ``keywords`` or a ``language_model``, greedy decoding without either."""
    if not keywords and language_model is None:
        return GreedyDecoder(vocabulary, blank_id, frame_ms, endpointing, offset_ms)
    return BeamDecoder(
        vocabulary, blank_id, frame_ms, endpointing, offset_ms, language_model, keywords, options
    )
