"""Judgement: exact ranking metrics of scores against truth, and intervals that say what is noise."""
