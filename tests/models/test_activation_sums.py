import pytest
import torch

from mithridate.models.activation_sums import input_grams, input_norms
from mithridate.models.adapter_layers import linear_layers
from mithridate.models.batches import of_equal_length
from mithridate.models.tokenization import TokenizedRow
from tests.helpers import tiny

LENGTHS = [7, 3, 7, 12, 3, 7, 5]


def _rows(lengths):
    drawn = torch.Generator().manual_seed(0)
    ids = [torch.randint(5, 20, (length,), generator=drawn).tolist() for length in lengths]
    return [TokenizedRow(row, [-100, *row[1:]], number) for number, row in enumerate(ids)]


def test_rows_of_one_length_are_grouped_in_their_order_up_to_a_number_of_tokens():
    groups = of_equal_length(_rows(LENGTHS), tokens=15)
    assert [[row.row for row in group] for group in groups] == [[1, 4], [6], [0, 2], [5], [3]]


def test_a_row_longer_than_a_group_may_be_goes_alone():
    assert [len(group) for group in of_equal_length(_rows([9, 9]), tokens=4)] == [1, 1]


def test_a_pass_holds_no_more_than_256_tokens_of_several_rows():
    assert [len(group) for group in of_equal_length(_rows([100] * 5))] == [2, 2, 1]


@pytest.mark.parametrize("measure", [input_norms, input_grams])
def test_sums_are_those_of_rows_passed_one_at_a_time(measure):
    model = tiny.model().double()
    layers, rows = linear_layers(model), _rows(LENGTHS)
    seen = []
    model.register_forward_pre_hook(lambda _, args, given: seen.append(given), with_kwargs=True)
    together = measure(model, layers, rows)
    assert [tuple(given["input_ids"].shape) for given in seen] == [(2, 3), (1, 5), (3, 7), (1, 12)]
    assert all(bool(given["attention_mask"].all()) for given in seen)
    apart = [measure(model, layers, [row]) for row in rows]
    for name, found in together.items():
        parts = [part[name].double() for part in apart]
        expected = sum(part.square() for part in parts).div(len(rows)).sqrt() if measure is input_norms else sum(parts)
        assert torch.allclose(found.double(), expected, rtol=1e-12, atol=0)
