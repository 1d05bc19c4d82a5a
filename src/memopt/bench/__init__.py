"""One question a file. Floor 6: everything here uses memopt's public API, and nothing below it."""
