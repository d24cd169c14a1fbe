"""Blemish: labelled defects from a handful of examples.

Importing the package ends a run outside of the virtual environment with one clear sentence, and sets a variable that
torch's OpenMP runtime reads when it is loaded: without a bound on its spinning, a training step on a busy two-core
machine takes up to twenty times as long. A value that the user has set is left alone.
"""

import os
import sys
import time
from importlib.util import find_spec

STARTED = time.monotonic()  # before the slow imports, which are part of what a stage takes
if find_spec("filelock") is None:  # one of requirements.txt that every stage needs
    sys.exit(f"The packages of requirements.txt are not in {sys.prefix}: say `source .venv/bin/activate` first")
os.environ.setdefault("GOMP_SPINCOUNT", "3000")
os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")  # silences "requires torchvision, falling back to Pil"
