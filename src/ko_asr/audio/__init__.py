"""Files to samples: reading, checking, converting and synthesising audio."""
