"""What also runs inside Triton's Python models: numpy and `ko_asr.errors` only. Export copies this folder
whole."""
