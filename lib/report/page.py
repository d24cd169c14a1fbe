"""The report as one page that opens from the disk: verdict, tables, every sample, distributions, errors."""

import html
import re
from pathlib import Path
from typing import Any

import pandas as pd
from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup

from lib.core.params import Params
from lib.core.records import DefectBox, read_records, read_train
from lib.core.runtime import write_text
from lib.report.cells import Part
from lib.report.gallery import VERDICTS, Answers, gallery, outcome, outcomes, read_answers
from lib.report.goods import forms, good_pictures
from lib.report.histograms import histograms
from lib.report.limits import Limit, described, limits, titled
from lib.report.scores import COLUMNS, MEANINGS
from lib.report.sheets import error_sheets, place_sheets, uri
from lib.report.tables import Evidence, pictures

LIMIT = 20_000_000  # bytes of the whole page, which a phone still opens
NOTE = 1_000  # bytes kept for the sentence that says how many samples there are
SHEETS = 0.25  # of them, at most, for sheets of errors
GOODS = 0.15  # of them, at most, for good pictures on which a person can draw
PLACES = 0.1  # of them, at most, for sheets of places
NUMBER = re.compile(r"-$|[-+±\[]*\d[^a-z]*(within|beyond|no samples)?$")  # with the verdict on it
PLOTS = {
    "pixel_ap": "pixel AP of every arm",
    "aupro": "AUPRO of every arm",
    "training": "loss of fine-tuning",
}


def write_page(params: Params, metrics: Path, evidence: Evidence, limit: int = LIMIT) -> None:
    """Write `report/index.html` below `metrics`, at most `limit` bytes: after `write_report`, whose plots it embeds.

    It is one file that loads nothing. Where the limit leaves no room for all samples or sheets, it says how many are
    missing.
    """
    answers, sections = read_answers(params), evidence.sections
    counts = outcomes(answers)
    sheets, sheets_note = error_sheets(params, metrics, evidence.scores, int(SHEETS * limit))
    places, places_note = place_sheets(params, metrics, int(PLACES * limit))
    goods, goods_note = good_pictures(params, int(GOODS * limit))
    bounds = limits(params.gate)
    page: dict[str, Any] = {
        "headline": evidence.headline,
        "on_the_line": evidence.on_the_line,
        "verdict": evidence.verdict,
        "harvest": evidence.harvest,
        "line": sections[0],
        "trade": sections[1],
        "arms": sections[2],
        "parts": sections[3:],
        "meanings": {COLUMNS[name]: MEANINGS[name] for name in evidence.scores["metric"].cat.categories},
        "pictures": pictures(params),
        "alarms": uri("png", (metrics / "plots/pictures/alarms.png").read_bytes()),
        "plots": _plots(metrics / "plots"),
        "outcomes": _counts(counts),
        "boxes": _box_histograms(params, answers),
        "scores": _score_histograms(answers, bounds),
        "limits": described(bounds),
        "places": places,
        "places_note": places_note,
        "sheets": sheets,
        "sheets_note": sheets_note,
        "generators": list(params.generators),
        "goods": goods,
        "goods_note": goods_note,
        "forms": forms(answers),
    }
    template = environment().get_template("page.html")
    empty = template.render(page, gallery={"samples": [], "pictures": []}, gallery_note="")
    content, note = gallery(params, answers, limit - len(empty.encode()) - NOTE)
    write_text(metrics / "report" / "index.html", template.render(page, gallery=content, gallery_note=note))


def environment() -> Environment:
    """Templates of this folder; what they are given is text, never markup, unless it says so itself."""
    environment = Environment(
        loader=FileSystemLoader(Path(__file__).parent),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.policies["json.dumps_kwargs"] = {"separators": (",", ":"), "allow_nan": False}
    environment.filters["prose"] = prose
    environment.filters["numeric"] = numeric
    return environment


def numeric(frame: pd.DataFrame) -> list[bool]:
    """For each column of a table, whether it holds numbers, which stand flush right."""
    return [all(NUMBER.match(str(cell)) for cell in column) for _, column in frame.items()]


def prose(text: str) -> Markup:
    """The little Markdown of our notes as HTML: paragraphs, lists, `code` and *stress*; all else is text."""
    blocks = []
    for block in html.escape(text).split("\n\n"):
        block = re.sub(r"`([^`]+)`", r"<code>\1</code>", block)
        block = re.sub(r"\*([^*]+)\*", r"<em>\1</em>", block)
        if block.startswith("- "):
            items = "".join(f"<li>{item}</li>" for item in re.split(r"^- ", block, flags=re.M)[1:])
            blocks.append(f"<ul>{items}</ul>")
        elif block.strip():
            blocks.append(f"<p>{block}</p>")
    return Markup("".join(blocks))


def _counts(table: pd.DataFrame) -> Part:
    """The table of outcomes with its total. Raises ValueError where a request has no outcome."""
    counts = table[["asked", *VERDICTS]].sum()
    if counts["asked"] != counts[list(VERDICTS)].sum():
        raise ValueError(f"{counts['asked']} requests, {counts[list(VERDICTS)].sum()} with an outcome")
    total = {"generator": "all", "category": "all", "type": "all", **counts, "because": "-"}
    return Part("Requests and their outcomes", pd.concat([table, pd.DataFrame([total])]))


def _box_histograms(params: Params, answers: Answers) -> list[Markup]:
    """Area and aspect of the boxes asked for, beside the real ones of the train part that they were drawn from.

    A box counts once, through however many generators it went; one around what a generator with a background of its
    own painted is no placement.
    """
    boxes: dict[str, dict[str, list[Any]]] = {}
    for category in params.dataset.categories:
        train = read_train(category)
        real = read_records(Path(f"data/boxes/{category}.jsonl"), DefectBox)
        boxes_of = {r.placement: r.box for of in answers.values() for r in of[category] if r.normal is not None}
        boxes[category] = {
            "real boxes": [box.box for box in real if box.sample in train],
            "placements": list(boxes_of.values()),
        }
    drawings = []
    for name, label, measure in (
        ("area", "area of the box, px", lambda box: (box[2] - box[0]) * (box[3] - box[1])),
        ("aspect", "width / height of the box", lambda box: (box[2] - box[0]) / (box[3] - box[1])),
    ):
        rows = {row: {kind: list(map(measure, those)) for kind, those in kinds.items()} for row, kinds in boxes.items()}
        drawings.append(Markup(histograms(f"boxes-{name}", rows, label)))
    return drawings


def _score_histograms(answers: Answers, bounds: dict[str, Limit]) -> list[Markup]:
    """The gate's scores of every generator, of accepted and of rejected samples."""
    records = {generator: [r for of in by.values() for r in of] for generator, by in answers.items()}
    names = dict.fromkeys(name for of in records.values() for record in of for name in record.scores)
    drawings = []
    for name in names:
        rows = {
            generator: {
                kind: [r.scores[name] for r in of if outcome(r) == kind and name in r.scores]
                for kind in ("rejected", "accepted")
            }
            for generator, of in records.items()
        }
        drawings.append(
            Markup(
                histograms(f"score-{name}", rows, titled(name, bounds), bounds[name].values() if name in bounds else ())
            )
        )
    return drawings


def _plots(folder: Path) -> dict[str, str]:
    """What `write_report` drew, by titles; the curves only where a generator learns."""
    drawn = [name for name in PLOTS if name != "training" or any((folder / "training").glob("*.csv"))]
    return {PLOTS[name]: uri("png", (folder / "pictures" / f"{name}.png").read_bytes()) for name in drawn}
