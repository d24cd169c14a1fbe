"""Convert pictures and masks so that later stages can read all alike.

Pictures with more than 8 bits, and masks that do not have their picture's EXIF rotation, are written again; masks given
as regions are drawn; all other files stay where they are.
"""

import hashlib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Literal, cast

from lib.core.errors import shortlist
from lib.core.images import Depth, is_deep, read_image, read_mask, stored_orientation, top, turned, write_png
from lib.core.records import Sample, TypeMap
from lib.core.runtime import progress, write_bytes
from lib.dataset.examination import Drawn, Examination

INTEGERS: tuple[Depth, ...] = (8, 10, 12, 14, 16)  # bit depths of cameras


def dataset_depth(examinations: Sequence[Examination], setting: Depth | Literal["auto"]) -> tuple[Depth, list[str]]:
    """The depth of all pictures of a data set, so that all have the same scale, and the problems with it.

    setting: `auto`, or the user's setting. `auto` takes 8 if all files have 8 bits, the smallest of INTEGERS that holds
    the highest integer, and for floats `unit` up to 1 and 8 up to 255. It reports files of different kinds as a
    problem.
    """
    deep = [one for one in examinations if one.levels]
    plain = [one for one in examinations if not one.levels and one.sha256]
    highest = max((one.levels.highest for one in deep if one.levels), default=0.0)
    if setting == "auto":
        kinds = [[one for one in deep if one.levels and one.levels.floats is floats] for floats in (False, True)]
        present = [str(kind[0].picture.path) for kind in (plain, *kinds) if kind]
        if len(present) > 1:
            return 8, [
                f"pictures of different depth, such as {', '.join(present)}: the brightness of 8 bits, of integers "
                f"with more bits and of floats cannot be compared; save all in one format, or set dataset.depth to "
                f"that of the deeper ones"
            ]
        if kinds[1]:
            depths: Iterable[Depth] = ("unit", 8)
        else:
            depths = INTEGERS
        fitting = [one for one in depths if highest <= top(one)]
        if not fitting:
            return 8, [
                f"values up to {highest:g}, such as in {_highest(deep).picture.path}: expected integers up to 65535, "
                "or floats up to 1 or 255; save the pictures anew"
            ]
        return fitting[0], []
    depth = cast(Depth, setting)
    too_high = [str(one.picture.path) for one in deep if one.levels and one.levels.highest > top(depth)]
    if too_high:
        return depth, [
            f"dataset.depth is {depth}, but {len(too_high)} picture(s) hold values above {top(depth):g}: "
            f"{shortlist(too_high)}; set it to auto, or to what the camera gives"
        ]
    return depth, []


def _highest(deep: Sequence[Examination]) -> Examination:
    return max(deep, key=lambda one: one.levels.highest if one.levels else 0)


def converted(
    samples: Sequence[Sample], depth: Depth, folder: Path, final: Path, drawn: Mapping[str, Drawn] | None = None
) -> list[Sample]:
    """The samples, after their pictures, masks and twins were converted as necessary.

    drawn: masks from annotations, by the sample's id. They, and converted files, are written below `folder`, which will
    be moved to `final`, as PNG with 8 bits.
    """
    drawn = drawn or {}

    def convert(sample: Sample) -> Sample:
        def written(kind: str, pixels: object) -> tuple[str, str]:
            name = f"{kind}/{sample.id}.png"
            return (final / name).as_posix(), write_png(folder / name, pixels)  # type: ignore[arg-type]

        changes: dict[str, object] = {}
        if is_deep(Path(sample.image)):
            image, digest = written("images", read_image(Path(sample.image), depth))
            changes |= {"image": image, "sha256": digest, "depth": depth}
        if sample.twin and is_deep(Path(sample.twin)):
            twin, digest = written("twins", read_image(Path(sample.twin), depth))
            changes |= {"twin": twin, "twin_sha256": digest}
        if sample.id in drawn:
            changes |= _with_drawing(sample.id, drawn[sample.id], folder, final)
        elif sample.mask:
            mask = read_mask(Path(sample.mask))
            if mask.shape[::-1] != sample.size:
                path, digest = written("masks", turned(mask, stored_orientation(Path(sample.image))))
                changes |= {"mask": path, "mask_sha256": digest}
        return replace(sample, **changes) if changes else sample  # type: ignore[arg-type]

    return [convert(sample) for sample in progress(samples, "convert")]


def _with_drawing(name: str, drawn: Drawn, folder: Path, final: Path) -> dict[str, object]:
    """Write a drawn mask, and the map of its types where there are several; returns the fields of its record."""
    mask, types = f"masks/{name}.png", f"types/{name}.png"
    fields: dict[str, object] = {
        "mask": (final / mask).as_posix(),
        "mask_sha256": write_png(folder / mask, drawn.labels() > 0),
        "mask_source": drawn.source,
    }
    if len(drawn.types) > 1:
        write_bytes(folder / types, drawn.png)
        fields["type_map"] = TypeMap((final / types).as_posix(), hashlib.sha256(drawn.png).hexdigest(), drawn.types)
    return fields
