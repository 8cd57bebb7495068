"""The decoder of one stream or file: greedy, or beam search where there are keywords or a language model.

Either gives the written form too where it is asked for."""

from collections.abc import Sequence

from ko_asr.finishing.options import FinishOptions
from ko_asr.runtime.beam import BeamDecoder
from ko_asr.runtime.ctc_decoder import DecoderSettings
from ko_asr.runtime.greedy import GreedyDecoder
from ko_asr.runtime.keywords import Keyword
from ko_asr.runtime.prefix_search import BeamOptions, Scorer
from ko_asr.runtime.results import Decoder
from ko_asr.runtime.written import WrittenDecoder


def make_decoder(
    settings: DecoderSettings,
    keywords: Sequence[Keyword] = (),
    language_model: Scorer | None = None,
    options: BeamOptions | None = None,
    written: FinishOptions | None = None,
) -> Decoder:
    """Beam search with ``keywords`` or a ``language_model``, greedy decoding without either.

    With ``written`` the results have their written form. UserError for such options that cannot be.
    """
    beam = keywords or language_model is not None
    spoken = BeamDecoder(settings, language_model, keywords, options) if beam else GreedyDecoder(settings)
    return spoken if written is None else WrittenDecoder(spoken, written)
