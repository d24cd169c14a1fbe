"""The stages of dvc.yaml, one thin script each, run as `python -m stages.NAME` from the root of the repository."""

import lib  # noqa: F401  (before torch: sets what its threads read once)
