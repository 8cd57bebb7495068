"""OpenAI's API: files, server-sent events."""
