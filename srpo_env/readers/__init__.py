"""Readers of files from other people: as data, in bounded memory."""
