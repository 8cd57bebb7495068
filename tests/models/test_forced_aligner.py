"""NeMo's forced aligner takes a jamo model whose text is given as its pieces: docs/faq.md."""

import unicodedata

import pytest


def decomposed(processor, text: str) -> str:
    """``text`` in the characters of its pieces."""
    return "".join(processor.encode(text, out_type=str)).replace("▁", " ").strip()


def test_words_of_a_given_text_get_their_times(demo) -> None:
    from ko_asr import FrameModel, transcribe_file
    from ko_asr.data.manifest import read_manifest
    from ko_asr.models.nemo_file import restore_model

    model = restore_model(demo.model)
    from nemo.collections.asr.parts.utils import aligner_utils as nfa

    processor = model.tokenizer.tokenizer
    entries = list(read_manifest(demo.manifests["eval_clean"]))[:8]
    texts = [decomposed(processor, entry["text"]) for entry in entries]
    with pytest.raises(RuntimeError, match="failed to recover capitalization"):
        nfa.get_utt_obj(entries[0]["text"], 500, model)
    laughs = "닭이 ㅋㅋ 왔다ㅠㅠ"
    made = nfa.get_utt_obj(decomposed(processor, laughs), 500, model)
    assert [i for i in made.token_ids_with_blanks if i != processor.get_piece_size()] == processor.encode(
        laughs
    )

    files = [entry["audio_filepath"] for entry in entries]
    log_probs, tokens, frames, counts, utterances, seconds = nfa.get_batch_variables(
        files, model, gt_text_batch=texts, verbose=False
    )
    paths = nfa.viterbi_decoding(log_probs, tokens, frames, counts)
    recogniser, compared = FrameModel(model), 0
    for entry, utterance, path in zip(entries, utterances, paths, strict=True):
        nfa.add_t_start_end_to_utt_obj(utterance, path, seconds)
        segments = [part for part in utterance.segments_and_tokens if isinstance(part, nfa.Segment)]
        words = [word for s in segments for word in s.words_and_tokens if isinstance(word, nfa.Word)]
        theirs = [(unicodedata.normalize("NFC", word.text), word.t_end) for word in words]
        assert [text for text, _ in theirs] == entry["text"].split()
        heard = transcribe_file(recogniser, entry["audio_filepath"]).utterances
        ours = [(word.text, word.end_ms / 1000) for result in heard for word in result.words]
        if [text for text, _ in ours] == entry["text"].split():
            compared += 1
            assert [end for _, end in ours] == pytest.approx([end for _, end in theirs], abs=0.09)
    assert compared >= 2
