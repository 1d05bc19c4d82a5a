"""What a text is made of, for whatever searches or compares texts: terms, times, pieces."""
