"""Run a module alone, or on all devices that the user's `accelerate config` names: `python -m lib.launch stages.synth`.

The command in dvc.yaml is the same on a laptop and on a cluster, so moving between them invalidates no cache.
"""

import os
import runpy
import sys
from pathlib import Path


def main() -> None:
    cache = Path(os.environ.get("HF_HOME", Path.home() / ".cache" / "huggingface"))
    config = Path(os.environ.get("ACCELERATE_CONFIG_FILE", cache / "accelerate" / "default_config.yaml"))
    if config.is_file():
        launcher = [sys.executable, "-m", "accelerate.commands.launch", "--config_file", str(config), "--module"]
        os.execv(sys.executable, [*launcher, *sys.argv[1:]])
    sys.argv = sys.argv[1:]
    runpy.run_module(sys.argv[0], run_name="__main__", alter_sys=True)


if __name__ == "__main__":
    main()
