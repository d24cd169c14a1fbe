"""Run a module alone, or on several devices: `python -m lib.launch stages.synth --generator ...`.

Several devices are used if there is a file of `accelerate config --config_file FILE`: the one that the variable
ACCELERATE_CONFIG_FILE names, else accelerate.yaml in the root of the repository. Accelerate's default file in the home
folder is ignored: another project may have written it, and the number of devices affects the last bits of results. The
command in dvc.yaml is the same on a laptop and on a cluster, so that moving between them invalidates no cache.
"""

import os
import runpy
import subprocess
import sys
from pathlib import Path

from lib.core.errors import UserError

VARIABLE = "ACCELERATE_CONFIG_FILE"
FILE = Path("accelerate.yaml")


def config_file() -> Path | None:
    """The file that says which devices to use, if there is one. Raises UserError when the named file is not there."""
    name = os.environ.get(VARIABLE)
    if not name:
        return FILE if FILE.is_file() else None
    if not Path(name).is_file():
        raise UserError(
            f"{VARIABLE}: there is no file {name}; write it with `accelerate config --config_file {name}`, or unset "
            f"the variable to use one device"
        )
    return Path(name)


def main() -> None:
    """Become the accelerate launcher of the module that the arguments name, or run that module here."""
    if len(sys.argv) < 2:
        print("expected the module to run, such as stages.finetune, and its arguments", file=sys.stderr)
        sys.exit(2)
    try:
        config = config_file()
    except UserError as error:
        print(error, file=sys.stderr)
        sys.exit(2)
    if config is not None:
        launcher = [sys.executable, "-m", "accelerate.commands.launch", "--config_file", str(config), "--module"]
        if os.name == "nt":  # there, execv leaves the caller at once, and DVC would take the stage for finished
            sys.exit(subprocess.call([*launcher, *sys.argv[1:]]))
        os.execv(sys.executable, [*launcher, *sys.argv[1:]])
    sys.argv = sys.argv[1:]
    runpy.run_module(sys.argv[0], run_name="__main__", alter_sys=True)


if __name__ == "__main__":
    main()
