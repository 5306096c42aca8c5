"""The array cutter finds the same elements as a full parse, wherever the chunks are cut."""

import json

from hypothesis import given, settings
from hypothesis import strategies as st
from tests.helpers.examples import examples

from mithridate.data.json_array import ElementCutter

values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=10) | st.sampled_from(['"', "\\", '\\"', "[{", "],"]),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=5), inner, max_size=4),
    max_leaves=12,
)


@settings(max_examples=examples(200), deadline=None)
@given(
    items=st.lists(values, max_size=6), indent=st.sampled_from([None, 1]), size=st.integers(1, 50), raw=st.booleans()
)
def test_elements_equal_a_full_parse(items: list, indent: int | None, size: int, raw: bool) -> None:
    text = json.dumps(items, indent=indent, ensure_ascii=not raw).encode("utf-8", "surrogatepass")
    cutter = ElementCutter(10_000)
    found = [part for i in range(0, len(text), size) for part in cutter.feed(text[i : i + size])]
    cutter.close()
    assert [json.loads(raw or b"") for _, raw in found] == json.loads(text)
    lines = text.split(b"\n")
    assert all(
        lines[line - 1].lstrip().startswith((raw or b"?").split(b"\n")[0][:1]) or not indent for line, raw in found
    )
    assert cutter.line == len(lines)
