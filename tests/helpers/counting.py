"""Passes through a model, counted by hooks."""


class Counted:
    """Rows that went forward and backward through the last block of a model.

    PEFT calls the causal model's ``forward`` past its hooks, so the hook sits on a block.
    """

    def __init__(self, model):
        block = next(module for name, module in model.named_modules() if name.endswith("layers.1"))
        self.forward = self.backward = 0
        self._handles = [block.register_forward_hook(self._forth), block.register_full_backward_hook(self._back)]

    def _forth(self, module, inputs, output):
        self.forward += inputs[0].shape[0]

    def _back(self, module, grad_input, grad_output):
        self.backward += grad_output[0].shape[0]

    def __enter__(self):
        return self

    def __exit__(self, *_):
        for handle in self._handles:
            handle.remove()
