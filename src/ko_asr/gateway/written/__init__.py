"""The written form of what was recognised: asked for, made beside the event loop, put into answers."""
