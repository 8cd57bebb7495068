"""Clients of a served model: tritonclient, never torch."""
