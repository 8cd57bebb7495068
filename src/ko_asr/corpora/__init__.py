"""One module a corpus: each reads one publisher's layout into `ko_asr.corpora.base.Utterance` records."""
