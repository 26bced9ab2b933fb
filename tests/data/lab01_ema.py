# ---
# title: Exponential moving averages
# lab: ch90/lab01
# minutes: 25
# difficulty: 2
# hardware: cpu
# needs: []
# builds: [ema, steps_to]
# ---

# %% [markdown]
# # Lab 90.1 · Exponential moving averages
#
# A small lab for the tests of the machinery: it has every kind of cell, and runs in milliseconds.

# %% given
import torch

# %% [markdown]
# ## Exercise 1 · `ema`


# %% exercise="ema" difficulty=2 minutes=10 forbid=["scipy.signal.lfilter", "cumsum"]
def ema(x: torch.Tensor, beta: float, correct_bias: bool = True) -> torch.Tensor:
    """Exponential moving average along the first axis of ``x`` (T, D), starting from zero.

    Raises:
        ValueError: if beta is outside [0, 1).
    """
    ### BEGIN SOLUTION
    if not 0 <= beta < 1:
        raise ValueError(f"beta must be in [0, 1), got {beta}")
    average, steps = 0.0, []
    for t, value in enumerate(x, start=1):
        average = beta * average + (1 - beta) * value
        steps.append(average / (1 - beta**t) if correct_bias else average)
    return torch.stack(steps) if steps else x.clone()
    ### END SOLUTION


# %% test="ema" points=2
from coursekit import check
import torch

five = torch.full((3, 1), 5.0)
check.close(ema(five, 0.9, correct_bias=False)[:, 0], torch.tensor([0.5, 0.95, 1.355]), "a constant 5, uncorrected")
check.close(ema(five, 0.9), five, "a constant stays that constant once the bias is corrected")
check.raises(ValueError, lambda: ema(five, 1.0))

# %% test="ema" points=2
from coursekit import check
import torch

check.close(ema(torch.zeros(2, 1), 0.5), torch.zeros(2, 1), "zeros stay zeros")
### BEGIN HIDDEN TESTS
from scipy.signal import lfilter

secret_marker = torch.randn(63, 5, dtype=torch.float64, generator=torch.Generator().manual_seed(check.seed(1)))
for beta in (0.0, 0.5, 0.99):
    oracle = torch.from_numpy(lfilter([1 - beta], [1, -beta], secret_marker.numpy(), axis=0))
    check.close(ema(secret_marker, beta, correct_bias=False), oracle, f"random steps, beta={beta}", atol=1e-12)
check.close(ema(secret_marker[:0], 0.9), secret_marker[:0], "no steps, no averages")
check.raises(ValueError, lambda: ema(secret_marker, -0.1))
### END HIDDEN TESTS

# %% mistakes="ema"
{
    "steps are counted from 0, so the correction is one step behind": ("beta**t", "beta ** (t - 1)"),
    "beta and 1 - beta have changed places": (
        "beta * average + (1 - beta) * value",
        "(1 - beta) * average + beta * value",
    ),
    "the corrected average is fed back into the next step": (
        "steps.append(average / (1 - beta**t) if correct_bias else average)",
        "average = average / (1 - beta**t) if correct_bias else average; steps.append(average)",
    ),
    "the average starts from the first value, not from zero": ("steps = 0.0, []", "steps = x[0], []"),
}


# %% alternative="ema"
def ema(x, beta, correct_bias=True):
    import warnings

    ### BEGIN SOLUTION
    warnings.warn("a harmless warning costs nothing")
    if beta < 0 or beta >= 1:
        raise ValueError("beta out of range")
    out = torch.zeros_like(x)
    for t in range(len(x)):
        weights = (1 - beta) * beta ** torch.arange(t, -1, -1, dtype=x.dtype)
        out[t] = (weights[:, None] * x[: t + 1]).sum(0) / ((1 - beta ** (t + 1)) if correct_bias else 1)
    return out
    ### END SOLUTION


# %% [markdown]
# ## Exercise 2 · `steps_to`


# %% exercise="steps_to" difficulty=1 minutes=5
def steps_to(share: float, beta: float) -> int:
    """How many steps until a value's weight has fallen below ``share`` of what it was."""
    ### BEGIN SOLUTION
    steps = 0
    while beta**steps >= share:
        steps += 1
    return steps
    ### END SOLUTION


# %% test="steps_to" points=1
from coursekit import check

check.equal(steps_to(0.5, 0.9), 7, "0.9**7 is the first power below one half")
check.equal(steps_to(1.5, 0.9), 0, "a weight below the share from the start needs no step")
### BEGIN HIDDEN TESTS
import math

for share, beta in ((0.1, 0.99), (0.3, 0.5), (0.25, 0.5)):
    check.equal(steps_to(share, beta), math.floor(math.log(share) / math.log(beta)) + 1, f"share={share}, beta={beta}")
### END HIDDEN TESTS

# %% mistakes="steps_to"
{
    "the step before is returned": ("return steps", "return steps - 1"),
    "the comparison leaves out equality": (">= share", "> share"),
    "counting starts at one": ("steps = 0", "steps = 1; beta = beta"),
}

# %% [markdown]
# ## Look at it

# %%
print("averages of a step:", ema(torch.ones(4, 1), 0.9, correct_bias=False)[:, 0].tolist())
