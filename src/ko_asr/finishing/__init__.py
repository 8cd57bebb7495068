"""Spoken text to text that is read: numbers in digits, terms, sentences, without fillers; pure Python."""
