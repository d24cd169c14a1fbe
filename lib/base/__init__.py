"""The recipe of the embedded base model, models/base."""
