"""Blemish: labelled defects from a handful of examples.

Importing the package sets one variable that torch's OpenMP runtime reads when it is loaded: without a bound on its
spinning, a training step on a busy two-core machine takes up to twenty times as long. A value that the user has set
is left alone.
"""

import os

os.environ.setdefault("GOMP_SPINCOUNT", "3000")
os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")  # silences "requires torchvision, falling back to Pil"
