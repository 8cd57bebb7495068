"""The page at /: a microphone, files, a transcript that plays, corrections. Plain HTML and JavaScript."""
