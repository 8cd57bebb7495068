"""Who may use the gateway, how much, and from where: keys, limits, usage, tokens, browsers."""
