"""Labels of synthetic defects: measured masks, the quality gate, and their score against exact truth."""
