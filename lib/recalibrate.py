"""Set the thresholds of a trained detector anew, from good pictures: for a new lamp, a new camera, another line.

    python -m lib.recalibrate models/detectors/unet/bracket/none/seed-0 FOLDER-OF-GOOD --false-alarm-rate 0.01

The pictures in the folder must show no defects; afterwards at most this share of them is an alarm. Of new pictures more
are: about (k + 1) of (n + 1), where k of the folder's n pictures may be one, so take several hundred for a rate of
0.01. The threshold of masks is what training chose, or higher where half of the pictures would have some otherwise; an
earlier recalibration has no part in it. The model's threshold.json stores how they were chosen, and what training
chose. A `model.onnx` in the folder looks at the pictures and gets the new thresholds, too, but copies elsewhere do not,
nor does a `lib.predict --watch` that runs. Nothing else changes. A folder below models/detectors is an output of DVC,
and the next `dvc repro` sets its thresholds back: recalibrate the copy that runs on the line.
"""

import argparse
import json
import math
import sys
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np

from lib.alarms import Decision, alarm_level, refuse_small, threshold_for
from lib.core.command import end_with
from lib.core.errors import UserError, shortlist
from lib.core.runtime import progress, write_bytes, write_json
from lib.exchange import FILE, load_exchanged, with_decision
from lib.intake import Picture, listed
from lib.trained import checked_decision, load_trained


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", type=Path, help="folder of one trained seed, models/detectors/DETECTOR/.../seed-N")
    parser.add_argument("good", type=Path, nargs="+", help="good pictures, or folders of them")
    parser.add_argument("--false-alarm-rate", type=float, default=0.0, help="share of them that may be an alarm; 0")
    parser.add_argument("--min-area", type=int, help="pixels in one piece that are an alarm; as the model has it")
    parser.add_argument("--dry-run", action="store_true", help="say what would change, and change nothing")
    args = parser.parse_args()
    # One by one: two folders may hold pictures of one name, of which no results are written here.
    good = list({one.path: one for place in args.good for one in listed([place], args.model)}.values())
    before, after, alarms = recalibrated(args.model, good, args.false_alarm_rate, args.min_area)
    if not args.dry_run:
        graph = args.model / FILE
        data = with_decision(graph, checked_decision(after, args.model)) if graph.exists() else None
        write_json(args.model / "threshold.json", after)
        if data is not None:
            write_bytes(graph, data)
    if alarms:
        print(
            f"{len(alarms)} of the good pictures gave an alarm before: {shortlist(alarms)}. Look at them: a defect "
            f"among them raises the threshold, and passes from now on",
            file=sys.stderr,
        )
    was, now = (checked_decision(values, args.model) for values in (before, after))
    print(
        f"threshold of alarms {was.alarm_threshold:.6g} -> {now.alarm_threshold:.6g}, of masks {was.threshold:.6g} -> "
        f"{now.threshold:.6g}, on {after['good_pictures']} good pictures"
    )


def recalibrated(
    folder: Path, good: Sequence[Picture], rate: float, min_area: int | None
) -> tuple[dict[str, Any], dict[str, Any], list[str]]:
    """What threshold.json of the trained seed in `folder` says, what it is to say after these good pictures, and which
    of them gave an alarm so far, the highest first, with their scores.

    Raises UserError where there is no trained seed, for a rate that is no share below 1 or no area, for a rate that so
    few pictures cannot show, for an area above that of a picture, for a picture that cannot be read, and for a
    `model.onnx` in the folder that is broken or made of other weights.
    """
    if not 0 <= rate < 1:
        raise UserError(f"--false-alarm-rate: a share from 0 to below 1 (found {rate})")
    if min_area is not None and min_area < 1:
        raise UserError(f"--min-area: at least one pixel (found {min_area})")
    if 0 < rate < 1 / len(good):
        raise UserError(
            f"--false-alarm-rate: {rate} is less than one of {len(good)} pictures: give more of them, or ask for 0"
        )
    trained = load_trained(folder)
    before = json.loads((folder / "threshold.json").read_text(encoding="utf-8"))
    area, inspectors = min_area or trained.decision.min_area, [trained.inspector()]
    if (folder / FILE).exists():  # its scores differ in their last digits, and the promise is kept for both
        inspectors.append(load_exchanged(folder))
    key = "--min-area" if min_area else "min_area of threshold.json"

    areas = trained.decision.min_area, area

    def levels_of(picture: Picture) -> list[float]:
        """The picture's alarm levels by the area so far and by the new one; minus infinity if it is smaller."""
        image = inspectors[0].read(picture.path)
        refuse_small(image[..., 0].size, area, key, picture.path)
        try:
            maps = [inspector.predict(image) for inspector in inspectors]
        except UserError as error:
            raise UserError(f"{picture.path}: {error}") from error
        return [max(alarm_level(one, each) if one.size >= each else -math.inf for one in maps) for each in areas]

    before_levels, levels = zip(
        *(levels_of(picture) for picture in progress(good, "look at good pictures")), strict=True
    )
    # What training chose, not what is now: a recalibration with the wrong pictures could never be undone.
    chosen = before.get("trained", before)
    of_masks = max(checked_decision(chosen, folder).threshold, float(np.median(levels)))
    highest = sorted(zip(before_levels, good, strict=True), key=lambda one: -one[0])
    alarms = [
        f"{one.display_name} ({score:.6g})" for score, one in highest if score >= trained.decision.alarm_threshold
    ]
    after = asdict(Decision(of_masks, threshold_for(levels, rate), area)) | {
        "chosen_on": "good pictures, recalibrated",
        "false_alarm_rate": rate,
        "good_pictures": len(levels),
        "trained": chosen,
    }
    return before, after, alarms


if __name__ == "__main__":
    end_with(main)
