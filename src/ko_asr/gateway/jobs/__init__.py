"""Jobs: long recordings that are recognised while nobody waits, and survive whoever dies meanwhile."""
