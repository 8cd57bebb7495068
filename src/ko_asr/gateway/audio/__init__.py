"""Uploads to samples: forms, temporary files, decoders."""
