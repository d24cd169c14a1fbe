"""Make the embedded base model: `python -m lib.base autoencoder`, then `... unet`, as models/dvc.yaml does.

Both parts learn from endlessly varied rendered surfaces (lib/dataset/surfaces.py), never from the three workpiece
categories. A killed run continues.
"""

import argparse
from pathlib import Path

import yaml

from lib.base.autoencoder import make_autoencoder
from lib.base.pool import rendered_pool
from lib.base.settings import BaseParams
from lib.base.unet import make_unet

BASE = Path("models/base")
RECIPE = Path("models/base.yaml")


def main() -> None:
    parser = argparse.ArgumentParser(
        prog="python -m lib.base", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("part", choices=("autoencoder", "unet"))
    part = parser.parse_args().part
    params = BaseParams.model_validate(yaml.safe_load(RECIPE.read_text(encoding="utf-8")))
    pool = rendered_pool(params.pool.pairs, params.seed)
    (make_autoencoder if part == "autoencoder" else make_unet)(params, pool, BASE)


if __name__ == "__main__":
    main()
