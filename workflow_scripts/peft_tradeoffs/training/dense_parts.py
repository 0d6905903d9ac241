"""The dense tensors that a tensor is kept in: itself, or of a sparse one its indices and values."""

import torch


def dense_parts(tensor: torch.Tensor) -> list[torch.Tensor]:
    """What holds the tensor's bytes; a sparse tensor, as some adapters have, has no storage of its own."""
    tensor = tensor.detach()
    match tensor.layout:
        case torch.sparse_coo:
            return [tensor._indices(), tensor._values()]
        case torch.sparse_csr | torch.sparse_bsr:
            return [tensor.crow_indices(), tensor.col_indices(), tensor.values()]
        case torch.sparse_csc | torch.sparse_bsc:
            return [tensor.ccol_indices(), tensor.row_indices(), tensor.values()]
    return [tensor]
