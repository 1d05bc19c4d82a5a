"""The OpenAI-compatible proxy: `memopt serve` (docs/proxy.md)."""
