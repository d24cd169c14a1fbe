"""The embedded base model, and how it is made."""

import lib  # noqa: F401  (before torch: sets what its threads read once)
