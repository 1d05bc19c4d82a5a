"""The ground floor: words, records and contracts. No I/O, no threads of its own."""
