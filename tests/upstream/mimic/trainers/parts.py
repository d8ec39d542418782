from torch import nn
from torch.nn import functional as F


class Scaled(nn.Module):
    def __init__(self, rows, scale):
        super().__init__()
        self.rows, self.weight = nn.Parameter(rows.clone()), scale

    def forward(self, images):
        seen = F.adaptive_avg_pool2d(images, 4).flatten(1)
        return self.weight * seen @ self.rows.T
