"""Conversations: what was said, on which branch, and the state of the agent that said it."""
