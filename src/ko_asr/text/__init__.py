"""Lines to tokens: text rules, tokenizers, n-gram language models."""
