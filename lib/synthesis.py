"""Run a generator on all placements: resumable, in fixed batches, distributed over processes if there are several."""

import json
import os
from collections.abc import Iterator
from dataclasses import replace
from operator import attrgetter
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from lib.boxes import box_around
from lib.core.errors import UserError
from lib.core.geometry import RGB, Box, Mask, around, crop, paste_back, window_around
from lib.core.images import contact_sheet, in_grey, is_grey, read_image, recent, write_png
from lib.core.params import Params
from lib.core.records import Placement, Synthetic, read_records, write_records
from lib.core.runtime import progress, replace_folder, work_folder
from lib.generators import NON_FINITE, Answer, Failed, Made, RealData, find
from lib.placement.foreground import outer_mask, outline_error

SHEET = (6, 8)  # rows and columns of each defect type on the contact sheet


def synthesize_all(
    params: Params, real: RealData, name: str, model: Path, placements: list[Placement], key: str, out: Path
) -> list[Synthetic]:
    """Synthesize every placement and put `images/`, `masks/`, `normals/` and `manifest.jsonl` into the folder `out`.

    `masks/` holds the masks that the generator knows, `normals/` the clean versions of pictures with their own
    background; both have the names of their pictures.
    Batches are fixed, so that a sample does not depend on where a killed run stopped. A batch is done if its list of
    records exists, which is written after its pictures. key: fingerprint of all inputs.
    Raises UserError if all samples of a batch have non-finite output, and RuntimeError if the generator violates its
    contract (`lib/generators/__init__.py`).
    """
    size = params.synth.batch_size
    batches = [placements[start : start + size] for start in range(0, len(placements), size)]
    work = work_folder(f"synth-{name}-{real.category}", key)
    rank, world = int(os.environ.get("RANK", 0)), int(os.environ.get("WORLD_SIZE", 1))
    mine = [number for number in range(len(batches)) if number % world == rank]
    missing = [number for number in mine if not _batch_file(work, number).exists()]
    if missing:
        keep = _Keeper(params, real, name, model, work, out)
        answers = _answers(params, real, name, model, [batches[number] for number in missing])
        bar = progress(missing, f"{name} {real.category}", total=len(mine), initial=len(mine) - len(missing))
        for number in bar:
            records = [
                keep(placement, answer) for placement, answer in zip(batches[number], next(answers), strict=True)
            ]
            write_records(_batch_file(work, number), records)
    if world > 1:
        from accelerate import PartialState

        PartialState().wait_for_everyone()
        if rank > 0:
            return []
    return _publish(work, len(batches), out)


def _batch_file(work: Path, number: int) -> Path:
    return work / f"batch-{number:06d}.jsonl"


def _publish(work: Path, batches: int, out: Path) -> list[Synthetic]:
    """Merge the records of all batches, and move the finished folder to its place."""
    records = [record for number in range(batches) for record in read_records(_batch_file(work, number), Synthetic)]
    write_records(work / "manifest.jsonl", records)
    replace_folder(work, out, without=["batch-*.jsonl", "*.tmp-*"])  # the latter are partial files
    return records


def _answers(
    params: Params, real: RealData, name: str, model: Path, batches: list[list[Placement]]
) -> Iterator[list[Answer]]:
    """The generator's answers, batch by batch, one for each placement."""
    module = find(name)
    stream = iter(module.synthesize(params, params.section(name, module.Settings), real, model, batches))
    for batch in batches:
        answers: list[Answer] = next(stream, [])
        if len(answers) != len(batch):
            first = batch[min(len(answers), len(batch) - 1)].id
            raise RuntimeError(
                f"generator {name}: {len(answers)} pictures for a batch of {len(batch)} placements, "
                f"of which {first} is the first without its own"
            )
        if len(batch) > 1 and all(answer == Failed(NON_FINITE) for answer in answers):
            raise UserError(
                f"generator {name}: {NON_FINITE} for every sample of the batch from {batch[0].id} on: "
                f"synth.guidance_scale is too high, or the model is damaged; lower synth.guidance_scale, or delete "
                f"{model} and run `dvc repro`"
            )
        yield answers


class _Keeper:
    """Writes the files of an answer and returns its record."""

    def __init__(self, params: Params, real: RealData, name: str, model: Path, work: Path, out: Path) -> None:
        facts = json.loads((model / "model.json").read_text(encoding="utf-8"))
        trained = not facts.get("training_free")
        self.real, self.name, self.work, self.out = real, name, work, out
        self.margin, self.feather = params.boxes.margin, params.synth.feather
        self.read, self.room = recent(read_image), recent(self._room)
        self.model = f"{facts['base']}@{facts['revision']}+{facts['weights']}" if trained else name
        module = find(name)
        shared = {setting.rpartition(".")[2]: attrgetter(setting)(params) for setting in module.SHARED}
        self.knobs = shared | params.section(name, module.Settings).model_dump(mode="json")

    def __call__(self, placement: Placement, answer: Answer) -> Synthetic:
        """The record of one answer, after its files were written. Raises RuntimeError for an invalid answer."""
        record = Synthetic(
            placement=placement.id,
            category=placement.category,
            defect_type=placement.defect_type,
            normal=placement.normal,
            box=placement.box,
            like=placement.like,
            component=placement.component,
            generator=self.name,
            model=self.model,
            prompt=placement.prompt,
            seed=placement.seed,
            knobs=self.knobs,
            image=None,
            sha256=None,
            shape=placement.shape,
        )
        if isinstance(answer, Failed):
            return replace(record, reason=answer.reason)
        if problem := _problem(answer, self.real.samples[placement.normal].size):
            raise RuntimeError(f"generator {self.name}, placement {placement.id}: {problem}")
        normal = self.read(Path(self.real.samples[placement.normal].image))
        if is_grey(normal):
            answer = without_colour(answer, normal)
        if placement.on_part and not answer.own_background:
            answer = kept_within(self.room(placement.normal), answer, normal, self.feather)
            record = replace(record, knobs={"feather": self.feather, **self.knobs, "on_part": True})
        image, digest = self._write("images", placement, answer.image)
        record = replace(record, image=image, sha256=digest, notes=answer.notes)
        if answer.own_background:
            record = replace(record, normal=None, box=self._box(answer))
        if answer.normal is not None:
            self._write("normals", placement, answer.normal)
        if answer.mask is None:
            return record
        mask, digest = self._write("masks", placement, answer.mask)
        return replace(record, mask=mask, mask_sha256=digest)

    def _room(self, normal: str) -> Mask:
        """Where a defect may change a good picture: on the part, as far around it as a detected outline may be off, and
        where the change fades out."""
        sample = self.real.samples[normal]
        part = outer_mask(sample, self.read(Path(sample.image)))
        error = outline_error(part.shape) if sample.foreground is None else 0
        # A dilation would take seconds with large pictures.
        away = cv2.distanceTransform((~part).astype(np.uint8), cv2.DIST_L2, cv2.DIST_MASK_5)
        return np.asarray(away <= error + self.feather)

    def _box(self, answer: Made) -> Box:
        """The box of a defect on its own background; the whole picture if there is no mask yet, or an empty one."""
        height, width = answer.image.shape[:2]
        if answer.mask is None or not answer.mask.any():
            return 0, 0, width, height
        return box_around(answer.mask, self.margin)

    def _write(self, folder: str, placement: Placement, pixels: Any) -> tuple[str, str]:
        """Write one picture or mask; returns its final path and its SHA-256."""
        file = f"{placement.id}.png"
        return (self.out / folder / file).as_posix(), write_png(self.work / folder / file, pixels)


def without_colour(answer: Made, normal: RGB) -> Made:
    """The answer in grey, for a good picture (H, W, 3) from a camera without colour.

    Models of colour pictures paint some all the same, and a detector would learn that defects have it.
    """
    image = in_grey(answer.image)
    if answer.own_background:
        return replace(answer, image=image, normal=None if answer.normal is None else in_grey(answer.normal))
    undone = (answer.image != normal).any(axis=2) & (image == normal).all(axis=2)
    return replace(answer, image=image, mask=_without(answer.mask, undone))


def kept_within(room: Mask, answer: Made, normal: RGB, feather: int) -> Made:
    """The answer, with what it changed of the good picture (H, W, 3) undone outside `room` (H, W).

    Inside, the change fades in over `feather` px. Notes: `undone`, the number of px that are as before.
    """
    changed = (answer.image != normal).any(axis=2)
    near = around(changed, feather + 1)  # from farther away the edge of the room has no influence
    image = answer.image.copy()
    image[near] = paste_back(answer.image[near], normal[near], room[near], feather)
    undone = changed & (image == normal).all(axis=2)
    notes = {**answer.notes, "undone": int(undone.sum())}
    return replace(answer, image=image, mask=_without(answer.mask, undone), notes=notes)


def _without(mask: Mask | None, undone: Mask) -> Mask | None:
    """A known mask, less the changes that were undone."""
    return None if mask is None else mask & ~undone


def _problem(answer: Made, size: tuple[int, int]) -> str | None:
    """What is wrong with an answer for a good picture of `size` (width, height), or None."""
    shape = (*(answer.image.shape[:2] if answer.own_background else size[::-1]), 3)
    for what, pixels in (("image", answer.image), ("normal", answer.normal)):
        if pixels is not None and (pixels.shape != shape or pixels.dtype != np.uint8):
            return f"{what} is {pixels.dtype} {pixels.shape}, expected uint8 {shape}"
    if answer.mask is not None and (answer.mask.shape != shape[:2] or answer.mask.dtype != bool):
        return f"mask is {answer.mask.dtype} {answer.mask.shape}, expected bool {shape[:2]}"
    if answer.own_background and answer.mask is None and answer.normal is None:
        return "a picture with a background of its own needs a mask, or a normal to measure it against"
    if answer.normal is not None and not answer.own_background:
        return "a normal is given although the good picture is the background"
    return None


def write_sheet(records: list[Synthetic], real: RealData, params: Params, path: Path) -> None:
    """A contact sheet of the first samples of every defect type, each window next to that of its good picture.

    A picture with its own background is shown next to the real defect that its placement was drawn from.
    """
    rows, columns = SHEET
    read = recent(read_image)
    boxes = {(item.sample, item.component): item.box for item in real.boxes}

    def window(image: RGB, box: Box) -> RGB:
        return crop(image, window_around(box, image.shape, params.window.context, params.window.min_side))

    tiles = []
    for defect_type in sorted({record.defect_type for record in records}):
        pictured = [record for record in records if record.defect_type == defect_type and record.image]
        for record in pictured[: rows * columns // 2]:
            if record.normal is None:
                source, box = record.like, boxes[record.like, record.component]
            else:
                source, box = record.normal, record.box
            tiles += [
                window(read(Path(real.samples[source].image)), box),
                window(read_image(Path(str(record.image))), record.box),
            ]
    write_png(path, contact_sheet([tiles[start : start + columns] for start in range(0, len(tiles), columns)]))
