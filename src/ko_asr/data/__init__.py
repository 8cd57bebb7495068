"""From a corpus to manifests, FLAC files, shards and the audit."""
