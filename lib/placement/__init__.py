"""Where new defects go: on the part, at places like those of real defects, and where people request them."""
