"""Run a generator over all placements: resumable, in fixed batches, sharded over processes where there are several."""

import json
import os
from dataclasses import replace
from pathlib import Path

from lib.core.geometry import crop, window_around
from lib.core.images import contact_sheet, read_image, write_png
from lib.core.params import Params
from lib.core.records import Placement, Synthetic, read_records, write_records
from lib.core.runtime import progress, replace_folder, work_folder
from lib.generators import Made, RealData, find
from lib.labels.masks import only_what_changed

SHEET = (6, 8)  # rows and columns of each defect type on the contact sheet


def synthesize_all(
    params: Params, real: RealData, name: str, model: Path, placements: list[Placement], key: str, out: Path
) -> list[Synthetic]:
    """Synthesize every placement and put `images/`, `masks/` and `manifest.jsonl` into the folder `out`.

    Batches are fixed, so that a sample's bytes do not depend on where a killed run stopped; a batch counts as done
    when its list of records is there, which is written after its pictures. `key`: fingerprint of all inputs.
    """
    size = params.synth.batch_size
    batches = [placements[start : start + size] for start in range(0, len(placements), size)]
    work = work_folder(f"synth-{name}-{real.category}", key)
    rank, world = int(os.environ.get("RANK", 0)), int(os.environ.get("WORLD_SIZE", 1))
    mine = [number for number in range(len(batches)) if number % world == rank]
    todo = [number for number in mine if not (work / f"batch-{number:06d}.jsonl").exists()]
    if todo:
        made = find(name).synthesize(params, real, model, [batches[number] for number in todo])
        done = len(mine) - len(todo)
        for number, pictures in progress(
            zip(todo, made, strict=True), f"{name} {real.category}", total=len(mine), initial=done
        ):
            records = [
                _keep(params, real, name, model, placement, picture, work, out)
                for placement, picture in zip(batches[number], pictures, strict=True)
            ]
            write_records(work / f"batch-{number:06d}.jsonl", records)
    if world > 1:
        from accelerate import PartialState

        PartialState().wait_for_everyone()
        if rank > 0:
            return []
    records = [
        record
        for number in range(len(batches))
        for record in read_records(work / f"batch-{number:06d}.jsonl", Synthetic)
    ]
    write_records(work / "manifest.jsonl", records)
    for left in [*work.glob("batch-*.jsonl"), *work.rglob("*.tmp-*")]:  # the latter: what a kill left half written
        left.unlink()
    replace_folder(work, out)
    return records


def _keep(
    params: Params, real: RealData, name: str, model: Path, placement: Placement, made: Made, work: Path, out: Path
) -> Synthetic:
    """Write one sample's picture, and its mask where the generator knows it, and say how it was made."""
    facts = json.loads((model / "model.json").read_text())
    file = f"{placement.id}.png"
    image = made.image
    if made.mask is None and params.synth.keep == "changed":
        normal = read_image(Path(real.samples[placement.normal].image))
        image = only_what_changed(image, normal, placement.box, params.synth.feather, params.masks.component_ratio)
    record = Synthetic(
        placement=placement.id,
        category=placement.category,
        defect_type=placement.defect_type,
        normal=placement.normal,
        box=placement.box,
        generator=name,
        model=name if facts.get("training_free") else f"{facts['base']}@{facts['revision']}+{facts['weights']}",
        prompt=placement.prompt,
        seed=placement.seed,
        knobs={} if facts.get("training_free") else params.synth.model_dump() | params.window.model_dump(),
        image=(out / "images" / file).as_posix(),
        sha256=write_png(work / "images" / file, image),
    )
    if made.mask is None:
        return record
    digest = write_png(work / "masks" / file, made.mask)
    return replace(record, mask=(out / "masks" / file).as_posix(), mask_sha256=digest)


def write_sheet(records: list[Synthetic], real: RealData, params: Params, path: Path) -> None:
    """A contact sheet of the first samples of every defect type, each window beside the good one it was made from."""
    rows, columns = SHEET
    types = sorted({record.defect_type for record in records})
    tiles = []
    for defect_type in types:
        for record in [record for record in records if record.defect_type == defect_type][: rows * columns // 2]:
            normal, image = read_image(Path(real.samples[record.normal].image)), read_image(Path(record.image))
            window = window_around(record.box, normal.shape, params.window.context, params.window.min_side)
            tiles += [crop(normal, window), crop(image, window)]
    write_png(path, contact_sheet([tiles[start : start + columns] for start in range(0, len(tiles), columns)]))
