"""Tries: nothing. Cells change settings of the whole process, as notebooks do while people try things.

A correct grader: gives the points; other people's tests do not see it.
"""

EXTRA = """
import os
import random
import sys
import warnings

import numpy as np
import torch

torch.set_grad_enabled(False)
torch.set_printoptions(precision=2)
torch.use_deterministic_algorithms(True)
np.seterr(all="raise")
np.set_printoptions(threshold=3)
warnings.simplefilter("error")
random.seed(1)
sys.setrecursionlimit(200)
os.environ["OMP_NUM_THREADS"] = "8"
os.chdir("/")
sys.stdout.close()
"""
LAB = "layer"
EARNS = {"affine": 4, "squash": 3}
