"""Texts to vectors: static, local or remote embedders, and what `embedder=` means."""
