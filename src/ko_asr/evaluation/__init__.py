"""Error rates, the figures around them, and the reports that show them."""
