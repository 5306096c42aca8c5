"""Parts of matrices: main directions, and minima of quadratic forms."""

import torch
from torch import Tensor


def top_eigenvectors(gram: Tensor, k: int) -> Tensor:
    """Eigenvectors of the k largest eigenvalues of a symmetric matrix, (size, k), those of the largest last."""
    vectors: Tensor = torch.linalg.eigh(gram).eigenvectors[:, -k:]
    return vectors


def low_rank_factors(matrix: Tensor, k: int) -> tuple[Tensor, Tensor]:
    """Return the best approximation of rank k as two factors: U_k and U_kᵀM, or M·V_k and V_kᵀ if M is tall.

    The directions are eigenvectors of the smaller Gram matrix in float64, exact down to singular values of about 1e-8
    of the largest. Where k is no less than the smaller side, the product is all of M.

    Args:
        matrix: M, (outputs, inputs).
        k: Number of singular directions.

    Returns:
        (outputs, k) and (k, inputs), float64.
    """
    matrix = matrix.double()
    # Of the smaller side, since the cost is its cube.
    if matrix.shape[0] <= matrix.shape[1]:
        left = top_eigenvectors(matrix @ matrix.T, k)
        return left, left.T @ matrix
    right = top_eigenvectors(matrix.T @ matrix, k)
    return matrix @ right, right.T


def low_rank(matrix: Tensor, k: int) -> Tensor:
    """Return the best approximation of rank k, in float64."""
    left, right = low_rank_factors(matrix, k)
    return left @ right


def least_with_columns(values: Tensor, columns: Tensor, hessian: Tensor) -> Tensor:
    """Return the E that minimizes tr(E·H·Eᵀ) among those with some columns given: E_K = Δ_K, E_R = −Δ_K·H_KR·H_RR⁻¹.

    Args:
        values: Δ, (outputs, inputs).
        columns: K, which columns of E are those of Δ, (inputs,); R are the others.
        hessian: H, symmetric and positive definite, (inputs, inputs).
    """
    free = ~columns
    least = torch.where(columns, values, torch.zeros_like(values))
    if columns.any() and free.any():
        # Setting the derivative of tr(E·H·Eᵀ) by E_R to zero: E_K·H_KR + E_R·H_RR = 0.
        push = values[:, columns] @ hessian[columns][:, free]
        least[:, free] = -torch.linalg.solve(hessian[free][:, free], push.T).T
    return least
