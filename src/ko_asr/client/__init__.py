"""What talks to a served model: tritonclient, never torch."""
