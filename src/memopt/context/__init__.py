"""What enters a model's window: tokens, tool calls, shortening, pruning, summaries, assembly."""
