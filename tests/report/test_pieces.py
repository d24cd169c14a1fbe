"""The pieces of the page: drawings, notes and tables, each equal for equal input and without markup of its own."""

import re

import pandas as pd

from lib.report.histograms import histograms
from lib.report.page import environment, numeric, prose


def test_histograms_are_themed_named_and_equal_for_equal_values():
    rows = {"slab": {"real boxes": [1.0, 2.0, 500.0], "placements": [3.0, 40.0]}}
    drawing = histograms("area", rows, "area & <more>")
    assert drawing == histograms("area", rows, "area & <more>")
    assert drawing.startswith('<svg role="img" aria-label="area &amp; &lt;more&gt;"')
    assert "currentColor" in drawing and "slab" in drawing and "http" not in drawing and "<style" not in drawing
    other = histograms("score", rows, "area & <more>")
    assert not set(re.findall(r' id="([^"]+)"', drawing)) & set(re.findall(r' id="([^"]+)"', other))
    assert drawing.count("stroke-dasharray") < histograms("area", rows, "area", (5.0, 900.0)).count(
        "stroke-dasharray"
    ), "a limit, where the axis has it"
    assert histograms("x", {"slab": {"accepted": [0.0, 0.0]}}, "outside") == "<p>outside: 0 in all 2.</p>"
    assert "no sample" in histograms("x", {"slab": {"accepted": []}}, "outside")


def test_columns_of_numbers_stand_flush_right_and_verdicts_beyond_chance_are_told_apart():
    table = pd.DataFrame({"arm": ["none", "2 perlin"], "change": ["-", "-37.0 beyond"], "share": ["0.5 ± 0.1", 3]})
    assert numeric(table) == [False, True, True]
    assert numeric(pd.DataFrame({"pairs": ["[+0.1, -0.2]", "-"], "because": ["3 too small", "-"]})) == [True, False]
    shown = environment().from_string('{% from "parts.html" import table %}{{ table(frame) }}').render(frame=table)
    assert '<td class="right beyond">-37.0 beyond</td>' in shown and "<td>2 perlin</td>" in shown


def test_notes_keep_their_marks_and_nothing_else():
    shown = prose("a *stress* and `code <b>`\n\n- one\n- two & three")
    assert shown == (
        "<p>a <em>stress</em> and <code>code &lt;b&gt;</code></p><ul><li>one\n</li><li>two &amp; three</li></ul>"
    )
