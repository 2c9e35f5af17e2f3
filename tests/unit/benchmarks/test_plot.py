from __future__ import annotations

from xml.etree import ElementTree

from benchmarks.plot import lines

SVG = "{http://www.w3.org/2000/svg}"


def test_each_series_is_a_line_that_rises_as_its_values():
    drawn = ElementTree.fromstring(lines("Title", "size", "tokens/s", (1, 4, 16), {
        "slow": [10, 20, 40], "fast": [40, 95, 180]}))
    polylines = [[tuple(map(float, point.split(","))) for point in line.get("points").split()]
                 for line in drawn.iter(f"{SVG}polyline")]
    slow, fast = polylines
    assert [x for x, _ in slow] == [x for x, _ in fast] == sorted(x for x, _ in slow)
    assert slow[1][0] - slow[0][0] == slow[2][0] - slow[1][0]  # equal steps of doubling
    assert slow[0][1] > slow[1][1] > slow[2][1] == fast[0][1] > fast[2][1]
    texts = [text.text for text in drawn.iter(f"{SVG}text")]
    assert {"Title", "slow", "fast", "size", "tokens/s", "1", "4", "16", "200"} <= {*texts}


def test_one_size_is_a_plot_too():
    assert "polyline" in lines("", "", "", (8,), {"a": [3.0]})
