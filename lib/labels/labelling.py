"""Label synthetic pictures: measure each one's mask, judge it, and count what was rejected and why."""

from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from lib.boxes import box_around
from lib.core.defects import defect_mask, types_of, unsound_pixels
from lib.core.geometry import RGB, Box, Mask, crop, window_around
from lib.core.images import contact_sheet, outlined, read_image, read_mask, recent, write_png
from lib.core.params import Params
from lib.core.records import Sample, Synthetic
from lib.core.runtime import in_threads
from lib.labels.gate import Traits, judge, measure, real_acceptance, too_small
from lib.labels.masks import METHODS, only_what_changed
from lib.labels.review import REVIEWED, Verdicts

ACCEPTED, REJECTED = (40, 220, 80), (255, 40, 40)  # outlines on the contact sheet
SHEET = 12  # samples of each type on the contact sheet
NO_VERDICTS = Verdicts()
COLUMNS, TILE = 12, 128  # of the contact sheet: four samples in a row; px


@dataclass(frozen=True)
class Judgement:
    """A labelled record, and what a contact sheet shows of it: good picture (if any), picture, mask."""

    record: Synthetic
    tiles: tuple[RGB, ...] = ()


@dataclass(frozen=True)
class Labeller:
    """Labels single records. Called from several threads: a record's files and verdict depend on nothing else.

    real: the samples of the train and val parts by their ids. traits: those of all real defects, by type. read: reads
    a good picture, through a memory. folder: for new pictures and masks; `final`: where it will lie. on_sheet: the
    placements whose windows are asked for. verdicts: what people said.
    """

    params: Params
    real: Mapping[str, Sample]
    traits: Mapping[str, list[Traits]]
    read: Callable[[Path], RGB]
    folder: Path
    final: Path
    on_sheet: frozenset[str]
    verdicts: Verdicts = NO_VERDICTS

    def __call__(self, record: Synthetic) -> Judgement:
        if record.image is None:
            return Judgement(replace(record, accepted=False))
        image, normal = read_image(Path(record.image)), self._normal(record)
        record = replace(record, painted_sha256=record.sha256)
        (height, width), margin = image.shape[:2], self.params.boxes.margin
        allowed: Box = record.box if record.normal is not None else (0, 0, width, height)
        corrected, known = self.verdicts.masks.get(record.placement), record.mask
        if corrected is not None or known is not None:
            mask = read_mask(corrected or Path(str(known)))
            record = replace(record, mask_source="known" if corrected is None else "corrected")
        elif normal is None:
            raise ValueError(f"{record.image}: neither a mask nor a normal picture to measure it against")
        else:
            masks = self.params.masks
            mask = METHODS[masks.method](image, normal, allowed, masks.component_ratio)
            record = replace(record, mask_source="measured", knobs=record.knobs | masks.model_dump())
        painted = image  # trimming would hide what a generator changed outside of its box
        # Of a mask that the generator knew nothing lies beside it, unless a person drew another one.
        if (known is None or corrected is not None) and normal is not None:
            record, image = self._trimmed(record, image, normal, mask)
        if record.normal is None and record.mask_source != "known" and mask.any():
            record = replace(record, box=box_around(mask, margin))
        real = self.traits[record.defect_type]
        own = record.normal is None
        gate, is_drawn = self.params.gate, record.shape is not None
        scores, accepted, reason = judge(image, normal, mask, allowed, gate, real, own, painted, is_drawn)
        if record.placement in self.verdicts.bad:
            accepted, reason = False, REVIEWED
        path, digest = self._write("masks", record, mask)
        record = replace(
            record,
            mask=path,
            mask_sha256=digest,
            scores={name: round(value, 6) for name, value in scores.items()},
            accepted=accepted,
            reason=reason,
        )
        tiles = self._tiles(record, image, normal, mask) if record.placement in self.on_sheet else ()
        return Judgement(record, tiles)

    def _normal(self, record: Synthetic) -> RGB | None:
        """The picture without the defect: the good one, or the twin that the generator made; None if there is none."""
        if record.normal is not None:
            return self.read(Path(self.real[record.normal].image))
        image = Path(str(record.image))
        twin = image.parent.with_name("normals") / image.name
        return read_image(twin) if twin.exists() else None

    def _trimmed(self, record: Synthetic, image: RGB, normal: RGB, mask: Mask) -> tuple[Synthetic, RGB]:
        """Put the normal back where nothing is to be seen: nobody knew the mask when the picture was painted."""
        if self.params.masks.keep == "changed":
            image = only_what_changed(image, normal, mask, self.params.synth.feather)
            path, digest = self._write("images", record, image)
            record = replace(record, image=path, sha256=digest)
        return record, image

    def _write(self, folder: str, record: Synthetic, pixels: RGB | Mask) -> tuple[str, str]:
        """Write one picture or mask; its final path, and the digest of the file."""
        file = f"{record.placement}.png"
        return (self.final / folder / file).as_posix(), write_png(self.folder / folder / file, pixels)

    def _tiles(self, record: Synthetic, image: RGB, normal: RGB | None, mask: Mask) -> tuple[RGB, ...]:
        """The window around the defect: without it, with it, with its outline in the colour of the verdict."""
        window = window_around(record.box, image.shape, self.params.window.context, self.params.window.min_side)
        drawn = outlined(image, mask, ACCEPTED if record.accepted else REJECTED)
        return tuple(crop(picture, window) for picture in (image if normal is None else normal, image, drawn))


def label_all(
    params: Params,
    real: Mapping[str, Sample],
    records: list[Synthetic],
    folder: Path,
    final: Path,
    verdicts: Verdicts = NO_VERDICTS,
) -> tuple[list[Synthetic], dict[str, Any], RGB]:
    """Label the records of one category; returns them with mask, scores and verdict, the gate's numbers, and a contact
    sheet. Masks, and the pictures that were trimmed to them, are written into `folder`, which will be `final`.

    real: the samples of the train and val parts by their ids, since the gate selects and does not train. A mask that
    the generator knows exactly is taken as it is, and so is one that a person corrected; the gate judges it all the
    same. A sample that a person refused is rejected, whatever the gate says. A request without a picture is not
    accepted, and keeps its reason.
    """
    of_pictures = _real_traits(real)
    traits = {name: list(of_type.values()) for name, of_type in of_pictures.items()}
    groups = {name: [real[picture].group for picture in of_type] for name, of_type in of_pictures.items()}
    label = Labeller(params, real, traits, recent(read_image), folder, final, _first_of_each_type(records), verdicts)
    judgements = in_threads(label, records, "measure masks")
    labelled = [judgement.record for judgement in judgements]
    passed = [real_acceptance(of_type, groups[name], params.gate) for name, of_type in traits.items()]
    numbers = gate_numbers(labelled, passed)
    small = {name: sum(too_small(one.total, params.gate) for one in of_type) for name, of_type in traits.items()}
    numbers["real_too_small"] = {name: count for name, count in sorted(small.items()) if count}
    numbers["masks"] = "measured" if any(r.image and r.mask is None for r in records) else "known"
    numbers["review"] = {name: len(getattr(verdicts, name)) for name in ("bad", "masks", "stale")}
    tiles = [tile for judgement in judgements for tile in judgement.tiles]
    rows = [tiles[start : start + COLUMNS] for start in range(0, len(tiles), COLUMNS)]
    return labelled, numbers, contact_sheet(rows, tile=TILE)


def _first_of_each_type(records: list[Synthetic]) -> frozenset[str]:
    """The placements of the first SHEET pictures of every type."""
    of_type: dict[str, list[str]] = {}
    for record in records:
        if record.image is not None:
            of_type.setdefault(record.defect_type, []).append(record.placement)
    return frozenset(name for names in of_type.values() for name in names[:SHEET])


def gate_numbers(records: list[Synthetic], of_real: list[list[bool]]) -> dict[str, Any]:
    """How many samples were accepted, overall and per type, why the others were not, and pixels changed outside.

    samples = accepted + failed + the sum over `rejected`; `failures` says why there was no picture. Rates are shares
    of the samples. of_real: for each type, whether each real defect would pass beside the others: a gate that refuses
    real defects is too narrow.
    """
    passed = [verdict for verdicts in of_real for verdict in verdicts]
    verdicts: dict[str, list[bool]] = {}
    for record in records:
        verdicts.setdefault(record.defect_type, []).append(bool(record.accepted))
    pictures, failures = ([r for r in records if (r.image is None) == failed] for failed in (False, True))
    return {
        "samples": len(records),
        "accepted": sum(bool(record.accepted) for record in records),
        "failed": len(failures),
        "acceptance_rate": _share([bool(record.accepted) for record in records]),
        "accepted_per_type": {name: sum(of_type) for name, of_type in sorted(verdicts.items())},
        "acceptance_rate_per_type": {name: _share(of_type) for name, of_type in sorted(verdicts.items())},
        "real_acceptance_rate": _share(passed),
        "rejected": _reasons(pictures),
        "failures": _reasons(failures),
        "pixels_changed_outside": int(sum(record.scores["outside"] for record in pictures)),
    }


def _share(verdicts: list[bool]) -> float | None:
    return round(float(np.mean(verdicts)), 6) if verdicts else None


def _reasons(records: Iterable[Synthetic]) -> dict[str, int]:
    return dict(sorted(Counter(record.reason for record in records if record.reason).items()))


def _real_traits(real: Mapping[str, Sample]) -> dict[str, dict[str, Traits]]:
    """The traits of all real defects, by their type and picture; none of a defect of which no pixel counts."""
    defects = [sample for sample in real.values() if sample.mask is not None]

    def traits_of(sample: Sample) -> dict[str, Traits]:
        image = read_image(Path(sample.image))
        masks = {name: defect_mask(sample, name) for name in types_of(sample)}
        unsound = unsound_pixels(sample)
        return {name: measure(image, mask, unsound & ~mask) for name, mask in masks.items() if mask.any()}

    traits: dict[str, dict[str, Traits]] = {}
    for sample, of_types in zip(defects, in_threads(traits_of, defects, "measure real defects"), strict=True):
        for name, measured in of_types.items():
            traits.setdefault(name, {})[sample.id] = measured
    return traits
