"""Corrections of what was misheard, stored with consent: a manifest that labelling starts from."""
