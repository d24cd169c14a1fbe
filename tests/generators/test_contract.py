"""What every generator promises, whatever its method: see `lib/generators/__init__.py`."""

from collections.abc import Iterator
from itertools import chain
from operator import attrgetter
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest

from lib.core.errors import UserError
from lib.core.geometry import box_mask
from lib.core.images import png_bytes, read_image, read_mask
from lib.core.params import Params, Section, methods
from lib.core.records import Placement, Synthetic, read_records
from lib.diffusion import training
from lib.finetuning import finetune
from lib.generators import Failed, Made, find, read_real
from lib.synthesis import synthesize_all
from tests.category import CATEGORY, placement, tiny_params, write_category

PLACEMENTS = [
    placement(0),
    placement(1, "good-1", (0, 0, 30, 14), like="scratch-1"),
    placement(2, "good-2", (25, 40, 40, 56), defect_type="dent", like="dent-0"),
    placement(3, box=(20, 4, 27, 40), like="scratch-1"),
    placement(4, "good-1"),
]
LEAST, MOST = 0, 2  # grey levels by which a sample may differ in another batch: a procedure, a network


class Trained(NamedTuple):
    """A generator with its model for the tiny category."""

    name: str
    params: Params
    model: Path
    folder: Path


@pytest.fixture(scope="module", params=methods("generators"))
def trained(
    request: pytest.FixtureRequest, raw_params: dict, tiny_base: Path, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Trained]:
    folder = tmp_path_factory.mktemp(request.param)
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        write_category()
        params = tiny_params(raw_params, tiny_base)
        finetune(params, read_real(CATEGORY), request.param, "key", Path("model"), Path("curves"))
        yield Trained(request.param, params, Path("model"), folder)


def answers(trained: Trained, *batches: list[Placement]) -> list[Made]:
    """The answers to all placements of all batches, each of them a picture."""
    module = find(trained.name)
    settings = trained.params.section(trained.name, module.Settings)
    stream = list(module.synthesize(trained.params, settings, read_real(CATEGORY), trained.model, batches))
    assert [len(batch) for batch in stream] == [len(batch) for batch in batches]
    assert not any(isinstance(answer, Failed) for answer in chain(*stream))
    return list(chain(*stream))


@pytest.fixture(scope="module")
def together(trained: Trained) -> list[Made]:
    """The answers to all placements in one batch."""
    return answers(trained, PLACEMENTS)


def test_its_settings_are_a_section_that_knows_its_keys(trained: Trained, raw_params: dict):
    settings = find(trained.name).Settings
    assert issubclass(settings, Section) and settings.__doc__
    assert trained.params.section(trained.name, settings)
    wrong = Params.model_validate(raw_params | {trained.name: {**raw_params[trained.name], "no_such_key": 1}})
    with pytest.raises(UserError, match=rf"{trained.name}\.no_such_key"):
        wrong.section(trained.name, settings)


def test_finetuning_leaves_a_model_that_says_what_it_is_a_curve_and_no_unfinished_work(trained: Trained):
    assert f'"generator": "{trained.name}"' in (trained.model / "model.json").read_text()
    assert any(path.is_file() for path in Path("curves").rglob("*"))
    assert not any(path.is_file() for path in Path(".work").rglob("finetune*/**/*"))


def test_a_training_that_was_killed_at_any_checkpoint_ends_with_the_same_weights(
    trained: Trained, monkeypatch: pytest.MonkeyPatch
):
    if not hasattr(find(trained.name), "finetune"):
        pytest.skip("learns nothing")
    budget = {"steps": 4, "checkpoint_every": 2}
    params = trained.params.model_copy(update={"finetune": trained.params.finetune.model_copy(update=budget)})
    save, deaths = training.save, 0

    def save_and_die(*args: Any, **kwargs: Any) -> None:
        save(*args, **kwargs)
        raise KeyboardInterrupt

    finetune(params, read_real(CATEGORY), trained.name, "key", Path("whole"), Path("curves"))
    while not Path("killed").exists():
        monkeypatch.setattr(training, "save", save_and_die)
        try:
            finetune(params, read_real(CATEGORY), trained.name, "key", Path("killed"), Path("curves"))
        except KeyboardInterrupt:
            deaths += 1
            assert deaths < 10 and not list(Path().glob("killed*")), "nothing half-written is seen"
    weights = sorted(path.relative_to("whole") for path in Path("whole").rglob("*.safetensors"))
    assert weights and deaths >= 2
    for name in weights:
        assert Path("killed", name).read_bytes() == Path("whole", name).read_bytes(), name


def test_equal_seeds_give_equal_bytes_and_other_seeds_another_defect(trained: Trained):
    first, second = (answers(trained, PLACEMENTS[:2]) for _ in range(2))
    assert [png_bytes(answer.image) for answer in first] == [png_bytes(answer.image) for answer in second]
    [other] = answers(trained, [placement(0, seed=7_000)])
    assert (other.image != first[0].image).any()


def test_neither_order_nor_batches_change_a_sample(trained: Trained, together: list[Made]):
    apart = answers(trained, PLACEMENTS[:1], PLACEMENTS[:2:-1], PLACEMENTS[2:0:-1])
    apart = [apart[0], *apart[:0:-1]]
    tolerance = MOST if hasattr(find(trained.name), "finetune") else LEAST
    for one, other in zip(together, apart, strict=True):
        assert np.abs(one.image.astype(int) - other.image).max() <= tolerance
        assert one.notes.keys() == other.notes.keys()
        for name, note in one.notes.items():
            if isinstance(note, str):
                assert note == other.notes[name]
            else:  # numbers, of pictures that may differ by as much as is allowed above
                assert note == pytest.approx(other.notes[name], abs=0 if tolerance == LEAST else 1e-4)


def test_outside_of_the_box_nothing_changes_and_the_mask_lies_within_it(together: list[Made]):
    for answer, request in zip(together, PLACEMENTS, strict=True):
        if answer.own_background:
            continue
        normal = read_image(Path(f"data/prepared/{CATEGORY}/images/{request.normal}.png"))
        inside = box_mask(request.box, *normal.shape[1::-1])
        assert answer.image.dtype == np.uint8 and answer.image.shape == normal.shape
        assert np.array_equal(answer.image[~inside], normal[~inside]) and (answer.image != normal).any()
        if answer.mask is not None:
            assert answer.mask.any() and not answer.mask[~inside].any()
            assert (answer.image != normal).any(axis=2)[answer.mask].all(), "what is labelled has changed"


def test_the_shared_settings_that_it_reads_are_those_that_it_names(trained: Trained):
    read: set[str] = set()

    def watched(name: str) -> Section:
        section = getattr(trained.params, name)

        class Watched(type(section)):  # type: ignore[misc]
            def __getattribute__(self, field: str) -> Any:
                if field in type(section).model_fields:
                    read.add(f"{name}.{field}")
                return super().__getattribute__(field)

        return Watched(**section.model_dump())

    params = trained.params.model_copy(
        update={name: watched(name) for name in ("synth", "window", "boxes", "placements", "masks")}
    )
    read.clear()
    answers(trained._replace(params=params), PLACEMENTS)
    assert read == set(find(trained.name).SHARED)


def test_every_record_holds_what_its_sample_was_made_from(trained: Trained):
    out = Path("data/synth")
    records = synthesize_all(trained.params, read_real(CATEGORY), trained.name, trained.model, PLACEMENTS, "key", out)
    assert read_records(out / "manifest.jsonl", Synthetic) == records
    settings = trained.params.section(trained.name, find(trained.name).Settings).model_dump(mode="json")
    for record, request in zip(records, PLACEMENTS, strict=True):
        for field in ("category", "defect_type", "prompt", "seed", "like", "component"):
            assert getattr(record, field) == getattr(request, field)
        assert record.placement == request.id and record.generator == trained.name
        shared = {name.split(".")[1]: attrgetter(name)(trained.params) for name in find(trained.name).SHARED}
        assert record.knobs == shared | settings and len(record.knobs) == len(shared) + len(settings)
        if hasattr(find(trained.name), "finetune"):
            bases = (trained.params.base.model, "scratch")  # the latter: trained from nothing
            assert record.model.startswith(tuple(f"{base}@" for base in bases))
        else:
            assert record.model == trained.name
        assert read_image(Path(str(record.image))).ndim == 3
        assert record.mask is None or read_mask(Path(record.mask)).any()
