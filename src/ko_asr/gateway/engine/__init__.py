"""The recogniser behind the gateway: servers, turns, long audio, live streams."""
