"""What all tests share."""

import os

import torch

# Tests are small work, which a second thread only slows down, tenfold where the other core is busy.
# Processes that tests start inherit the first line; a test of threads sets their number itself.
os.environ.setdefault("OMP_NUM_THREADS", "1")
torch.set_num_threads(1)
