"""Mappings and sequences that spill: what an agent keeps in dicts and lists, within the budget."""
