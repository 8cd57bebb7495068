"""The same models heard in this process: files of any length, live audio, subtitles."""
