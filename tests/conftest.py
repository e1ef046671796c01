"""One thread for all tests: tiny tensors are slower on several, and small machines run other things beside."""

import torch

torch.set_num_threads(1)
