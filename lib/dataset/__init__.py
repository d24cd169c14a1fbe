"""Data sets: layouts, annotations, validation, splits, and the embedded rendered workpieces."""
