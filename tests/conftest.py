"""What all tests share."""

import torch

from lightkeel.testing import restored_environment as restored_environment

torch.set_num_threads(1)  # tensors are tiny here, and another process may want the other core
