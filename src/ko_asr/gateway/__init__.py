"""HTTP in front of a served model: OpenAI's transcription API and a plain one. No torch, no NeMo."""
