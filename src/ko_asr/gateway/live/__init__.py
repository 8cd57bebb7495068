"""Live speech, as every WebSocket of the gateway brings it."""
