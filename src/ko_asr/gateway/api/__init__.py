"""The routes: OpenAI's, RTZR's, jobs, corrections, the page."""
