"""HTTP and WebSockets before a served model: OpenAI's API, RTZR's and a plain one. No torch, no NeMo."""
