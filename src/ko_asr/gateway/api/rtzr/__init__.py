"""RTZR's API, under /rtzr."""
