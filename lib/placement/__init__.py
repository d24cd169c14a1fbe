"""Where new defects go: on the part, at places like those of real ones, and where people ask for them."""
