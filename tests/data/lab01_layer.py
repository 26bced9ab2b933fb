# ---
# title: A layer of one's own
# lab: ch91/lab01
# minutes: 25
# difficulty: 2
# hardware: cpu
# needs: []
# builds: [Affine, squash]
# ---

# %% [markdown]
# # Lab 91.1 · A layer of one's own
#
# A second small lab for the tests of the machinery: a class, its state, and gradients.

# %% given
import torch
from torch import nn

# %% [markdown]
# ## Exercise 1 · `Affine`


# %% exercise="affine" difficulty=2 minutes=10 forbid=["torch.addcmul"]
class Affine(nn.Module):
    """``x * scale + shift`` with one scale and one shift for each of the ``features`` on the last axis.

    Args:
        features: length of the last axis.
        start: what every scale is at first; the shifts are 0.
    """

    def __init__(self, features: int, start: float = 1.0):
        ### BEGIN SOLUTION
        super().__init__()
        self.scale = nn.Parameter(torch.full((features,), float(start)))
        self.shift = nn.Parameter(torch.zeros(features))
        ### END SOLUTION

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        ### BEGIN SOLUTION
        return x * self.scale + self.shift
        ### END SOLUTION


# %% test="affine" points=2
from coursekit import check
import torch

layer = Affine(2, start=3.0)
torch.testing.assert_close(layer(torch.tensor([[1.0, 2.0]])), torch.tensor([[3.0, 6.0]]))
check.equal(sorted(layer.state_dict()), ["scale", "shift"], "the layer has two parameters")

# %% test="affine" points=2
from coursekit import check
import torch

check.close(Affine(3)(torch.ones(2, 3)), torch.ones(2, 3), "a new layer changes nothing")
### BEGIN HIDDEN TESTS
import numpy as np

draw = torch.Generator().manual_seed(2)
secret_marker, scale, shift = (torch.randn(n, 3, generator=draw) for n in (7, 1, 1))
layer = Affine(3)
layer.load_state_dict({"scale": scale[0], "shift": shift[0]})
np.testing.assert_allclose(layer(secret_marker).detach().numpy(), (secret_marker * scale + shift).numpy(), rtol=1e-5)
check.gradients(layer, lambda x: x * scale + shift, [secret_marker], "gradients reach the input")
### END HIDDEN TESTS

# %% mistakes="affine"
{
    "the shift is left out": ("x * self.scale + self.shift", "x * self.scale + 0 * self.shift"),
    "the scale starts at one whatever was asked for": ("float(start)", "1.0"),
    "the scale is added and the shift multiplied": ("x * self.scale + self.shift", "x * self.shift + self.scale"),
}

# %% [markdown]
# ## Exercise 2 · `squash`


# %% exercise="squash" difficulty=1 minutes=5 forbid=["F.softsign"]
def squash(x: torch.Tensor) -> torch.Tensor:
    """``x / (1 + |x|)``, value by value."""
    ### BEGIN SOLUTION
    return x / (1 + x.abs())
    ### END SOLUTION


# %% test="squash" points=1
from coursekit import check
import torch

assert torch.allclose(squash(torch.tensor([-1.0, 0.0, 3.0])), torch.tensor([-0.5, 0.0, 0.75])), "by hand"

# %% test="squash" points=2
from coursekit import check
import torch

check.equal(squash(torch.zeros(2)).tolist(), [0.0, 0.0], "nothing stays nothing")
### BEGIN HIDDEN TESTS
from torch.nn.functional import softsign

secret_marker = torch.randn(9, 4, generator=torch.Generator().manual_seed(3))
check.close(squash(secret_marker), softsign(secret_marker), "random numbers")
check.gradients(squash, softsign, [secret_marker], "gradients of random numbers")
### END HIDDEN TESTS

# %% mistakes="squash"
{
    "the sign is lost": ("x / (1 + x.abs())", "x.abs() / (1 + x.abs())"),
    "the denominator is not one larger": ("(1 + x.abs())", "(2 + x.abs())"),
    "the absolute value is left out": ("x.abs()", "x"),
}
