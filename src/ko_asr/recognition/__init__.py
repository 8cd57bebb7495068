"""The models run in this process: files of any length, live audio, subtitles."""
