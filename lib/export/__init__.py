"""Data sets in the formats that other tools read; each file of a format offers `write(folder, items)`."""
