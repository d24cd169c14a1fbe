"""The layouts that a data set may have: each file reads one, and says by which sign it knows it."""
