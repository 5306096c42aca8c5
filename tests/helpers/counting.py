"""Passes through a model, counted by hooks."""


class Counted:
    """Rows that went forward and backward through the last block of a model.

    PEFT calls the causal model's ``forward`` past its hooks, so the hook sits on a block.
    """

    def __init__(self, model):
        block = next(module for name, module in model.named_modules() if name.endswith("layers.1"))
        self.forward = self.backward = 0
        self._handle = block.register_forward_hook(self._forth)

    def _forth(self, module, inputs, output):
        self.forward += inputs[0].shape[0]
        hidden = output[0] if isinstance(output, tuple) else output
        if hidden.requires_grad:
            hidden.register_hook(self._back)

    def _back(self, gradient):
        self.backward += gradient.shape[0]

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self._handle.remove()
