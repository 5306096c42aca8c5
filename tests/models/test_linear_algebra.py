"""Main directions and constrained minima against their definitions."""

import pytest
import torch

from mithridate.models.linear_algebra import least_with_columns, low_rank, low_rank_factors, top_eigenvectors


def _random(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


@pytest.mark.parametrize("shape", [(5, 9), (9, 5), (6, 6)])
@pytest.mark.parametrize("k", [1, 3, 5])
def test_the_best_approximation_of_a_rank_is_the_truncated_svd(shape, k):
    matrix = _random(*shape)
    u, s, vt = torch.linalg.svd(matrix, full_matrices=False)
    left, right = low_rank_factors(matrix, k)
    assert (left.shape[1], right.shape[0]) == (k, k)
    torch.testing.assert_close(left @ right, u[:, :k] @ s[:k].diag() @ vt[:k], atol=1e-12, rtol=1e-10)
    torch.testing.assert_close(low_rank(matrix.float(), 99), matrix.float().double(), atol=1e-12, rtol=1e-10)


def test_top_eigenvectors_are_orthonormal_and_those_of_the_largest_values():
    outputs = _random(6, 40)
    top = top_eigenvectors(outputs @ outputs.T, 2)
    torch.testing.assert_close(top.T @ top, torch.eye(2, dtype=torch.float64), atol=1e-12, rtol=0)
    expected = torch.linalg.svd(outputs)[0][:, :2]
    torch.testing.assert_close((top.T @ expected).abs().sum(dim=0), torch.ones(2, dtype=torch.float64))


@pytest.mark.parametrize("kept", [[], [0, 3], [0, 1, 2, 3, 4]])
def test_free_columns_stand_where_the_form_has_no_slope(kept):
    values, x = _random(3, 5), _random(5, 12, seed=1)
    hessian = x @ x.T
    columns = torch.tensor([j in kept for j in range(5)])
    before = values.clone()
    found = least_with_columns(values, columns, hessian).requires_grad_()
    ((found @ hessian) * found).sum().backward()
    assert torch.equal(found[:, columns].detach(), values[:, columns])
    assert float(found.grad[:, ~columns].abs().sum()) < 1e-9
    assert torch.equal(values, before)
