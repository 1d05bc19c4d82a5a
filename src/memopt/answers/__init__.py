"""Semantic cache of model outputs: equal requests, and questions that mean the same."""
