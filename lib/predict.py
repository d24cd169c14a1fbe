"""Look for defects in new pictures with a trained detector, and write what it marks.

    python -m lib.predict models/detectors/unet/bracket/none/seed-0 FOLDER-OR-PICTURES... --out FOLDER
    python -m lib.predict models/detectors/unet/bracket/none/seed-0 FOLDER --out FOLDER --watch

Folders are searched with their subfolders, which the results mirror; hidden files are skipped, and so is what this
command has written. FOLDER gets for each picture NAME, where a.png and a.jpg of one shot are a and a.png:

    NAME_mask.png   255 where a defect is marked, by the two thresholds that were chosen on the val part
    NAME_found.png  the picture with these places outlined
    NAME_heat.png   the scores as colours, of all pictures alike: black is 0, the middle colour the threshold of
                    masks, pale yellow twice that
    scores.csv      the picture's anomaly score, by which pictures are ranked, how many pixels are marked, alarm yes or
                    no, what went wrong, and NAME. The score is the mean of the highest 0.1 % of the pixels: do not
                    compare it with "alarm_threshold"
    boxes.json      boxes as COCO results: image_id is the picture's row in scores.csv, category_id the type's place in
                    the types of run.json, both from 1 on; 1 where no types are told, as by an ONNX file
    run.json        what looked: detector, weights, thresholds, min_area, types, the range of the heat map;
                    `looks`: size and time of every picture when it was looked at

A picture is an alarm if "min_area" connected pixels reach the "alarm_threshold" of the model's threshold.json. Marked
is then the region around them in which pixels reach "threshold", or, if that is the higher one, what of them reaches
it, if anything does. Without an alarm nothing is marked. A picture that cannot be read, or that is smaller itself, is
named in scores.csv, and the others are looked at all the same; the exit code is then 1. An earlier run on these
pictures is replaced; no other file is.

--watch goes on until Ctrl-C: pictures are looked at as they arrive or change, once they no longer grow. It goes on with
what it wrote before, where the model is the same; a folder of results without `looks` is of an earlier version, and its
pictures are looked at once more. Tables are written whole, at once while they are small; of a hundred thousand pictures
that takes seconds, so give each day a folder of its own.

--runtime onnx runs the `model.onnx` that `python -m lib.exchange` writes; MODEL may then be that file alone.
"""

import argparse
import itertools
import signal
import sys
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import asdict
from pathlib import Path
from typing import Any

from lib.alarms import refuse_small
from lib.core.command import end_with
from lib.core.errors import UserError
from lib.core.pipeline import refuse_outputs
from lib.core.runtime import progress
from lib.exchange import load_exchanged
from lib.intake import Picture, arrivals, listed
from lib.results import Results, heat_range, one_at_a_time, refuse_clash, refuse_loss, summary
from lib.scoring import image_score
from lib.trained import Inspector, load_trained

WRITTEN_EVERY = 10.0  # seconds between tables while pictures are looked at, at least
LONGEST = 86400.0  # seconds between two looks into folders: a day


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", type=Path, help="folder of one trained seed, models/detectors/DETECTOR/.../seed-N")
    parser.add_argument("pictures", type=Path, nargs="+", help="pictures, or folders of pictures")
    parser.add_argument("--out", type=Path, required=True, help="folder for the results, none of the pictures' own")
    parser.add_argument("--runtime", choices=["torch", "onnx"], default="torch", help="what runs the detector")
    parser.add_argument(
        "--watch",
        action="store_true",
        help="wait for new and changed pictures in the folders, until Ctrl-C; go on from an earlier run",
    )
    parser.add_argument("--every", type=float, default=1.0, help="seconds between two looks into watched folders")
    args = parser.parse_args()
    if not 0 < args.every <= LONGEST:  # never so with NaN
        parser.error(f"--every: expected seconds above 0, at most {LONGEST:.0f} (found {args.every:g})")
    refuse_outputs(args.out)
    if args.watch:
        for stop in (signal.SIGINT, signal.SIGTERM):  # a service gets the one, and shells may have it ignore the other
            signal.signal(stop, signal.default_int_handler)
        results = watch(
            loaded(args.model, args.runtime), args.pictures, args.out, lambda: time.sleep(args.every), say=_tell
        )
    else:
        pictures = listed(args.pictures, args.out)
        results = predict_all(loaded(args.model, args.runtime), pictures, args.out)
    failed = any(row.error for row in results.rows.values())
    print(f"{args.out}: {summary(results.rows.values())}", file=sys.stderr)
    return 1 if failed else 0


def _tell(line: str) -> None:
    print(line, file=sys.stderr, flush=True)


def loaded(model: Path, runtime: str = "torch") -> Inspector:
    """The detector of a trained seed's folder, or of an ONNX file. Raises UserError, which names the broken file."""
    if runtime == "torch" and model.suffix == ".onnx":
        raise UserError(f"{model}: a graph for onnxruntime; add --runtime onnx")
    return load_exchanged(model) if runtime == "onnx" else load_trained(model).inspector()


def predict_all(inspector: Inspector, pictures: Sequence[Picture], out: Path) -> Results:
    """Look at all pictures, and write what was found into the folder `out`.

    Raises UserError where `out` holds files that are not of an earlier run on these pictures and would be lost, or be
    taken for its results, and where another process writes there.
    """
    with one_at_a_time(out):
        results = Results(out, described(inspector))
        refuse_loss(pictures, out)
        results.expect(pictures)
        results.write()
        try:
            _look(inspector, progress(pictures, "look for defects"), results)
        finally:
            results.write()
    return results


def watch(
    inspector: Inspector,
    folders: Sequence[Path],
    out: Path,
    wait: Callable[[], None],
    turns: int | None = None,
    say: Callable[[str], None] = lambda line: None,
) -> Results:
    """Look at pictures as they arrive in the folders, until Ctrl-C, or for a number of turns, between which `wait` is
    called. `say` gets a line for each picture.

    Raises UserError where a folder is none, `out` holds other results than those of this detector, or another process
    writes there.
    """
    with one_at_a_time(out):
        results = Results(out, described(inspector), resume=True)
        incoming = arrivals(folders, out, wait, results.owners(), results.done(), say)
        complete = False  # whether the tables hold everything
        try:
            for pictures in itertools.islice(incoming, turns):
                if pictures:
                    _look_at_new(inspector, pictures, results, say)
                    complete = False
                if not complete and results.is_due():
                    results.write()
                    complete = True
        except KeyboardInterrupt:
            pass
        finally:
            results.write()
    return results


def _look_at_new(
    inspector: Inspector, pictures: Sequence[Picture], results: Results, say: Callable[[str], None]
) -> None:
    """Look at pictures that arrived, and tell a line of each."""
    own = []
    for picture in pictures:
        try:
            refuse_clash(picture)
            if foreign := results.foreign(picture):
                raise UserError(f"{foreign} exists and is not from this run")
            own.append(picture)
        except UserError as error:
            results.fail(picture, str(error))
    results.expect(own)
    results.write()
    _look(inspector, own, results)
    for picture in pictures:
        row = results.rows[picture.name]
        reason = row.error.removeprefix(f"{row.picture}: ")
        say(f"{row.picture}: {reason or f'alarm {row.alarm}, score {row.anomaly_score}'}")


def described(inspector: Inspector) -> dict[str, Any]:
    """What looks, fit for JSON."""
    decision = inspector.decision
    return {
        "detector": inspector.provenance,
        "weights": inspector.weights,
        **asdict(decision),
        "types": list(inspector.types),
        "heat": list(heat_range(decision.threshold)),
    }


def _look(inspector: Inspector, pictures: Iterable[Picture], results: Results) -> None:
    """Look at the pictures, and keep what was found, or that one cannot be read."""

    def look(picture: Picture) -> None:
        try:
            if picture.display_name != picture.path.as_posix():
                raise UserError(f"{picture.display_name}: a name that is no UTF-8, as all results are; rename it")
            if picture.path.is_dir():
                raise UserError(f"{picture.display_name}: a folder that cannot be read; nothing in it is looked at")
            image = inspector.read(picture.path)
            refuse_small(image[..., 0].size, inspector.decision.min_area, "min_area of the model", picture.path)
            answer = inspector.look(image)
        except (UserError, OSError) as error:
            results.fail(picture, str(error))
            return
        mask = inspector.decision.mask(answer.scores)
        boxes = inspector.boxes(answer, mask)
        results.add(picture, image, answer.scores, mask, boxes, image_score(answer.scores))

    for _ in _side_by_side(look, pictures, inspector.at_once):
        if results.is_due(WRITTEN_EVERY):
            results.write()


def _side_by_side(look: Callable[[Picture], None], pictures: Iterable[Picture], most: int) -> Iterator[None]:
    """Look at up to `most` pictures at a time, begun in order; yields once for each."""
    if most == 1:
        yield from map(look, pictures)
        return
    with ThreadPoolExecutor(most, "look") as pool:
        futures: deque[Future[None]] = deque()
        for picture in pictures:
            futures.append(pool.submit(look, picture))
            if len(futures) > most:  # one waits, so that no core does
                yield futures.popleft().result()
        while futures:
            yield futures.popleft().result()


if __name__ == "__main__":
    end_with(main)
