"""Bytes as they are stored: records, pages, frames, compression, dictionaries, deltas."""
