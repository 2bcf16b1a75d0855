"""The published ResNeXt, whose first convolutions are grouped too, to count its parameters."""

from torch import nn


class Block(nn.Module):
    """1 x 1, 3 x 3 and 1 x 1 convolutions beside a shortcut, the first two in 32 groups."""

    def __init__(self, before, planes, stride):
        super().__init__()
        inside, after = 32 * 4 * planes // 64, 4 * planes
        self.inside = nn.Sequential(
            nn.Conv2d(before, inside, 1, groups=32, bias=False),
            nn.BatchNorm2d(inside),
            nn.ELU(),
            nn.Conv2d(inside, inside, 3, stride, 1, groups=32, bias=False),
            nn.BatchNorm2d(inside),
            nn.ELU(),
            nn.Conv2d(inside, after, 1, bias=False),
            nn.BatchNorm2d(after),
        )
        self.shortcut = nn.Sequential()
        if stride != 1 or before != after:
            convolution = nn.Conv2d(before, after, 1, stride, bias=False)
            self.shortcut.extend([convolution, nn.BatchNorm2d(after)])

    def forward(self, features):
        return nn.functional.elu(self.inside(features) + self.shortcut(features))


class PublishedResNeXt(nn.Module):
    """A stem that keeps the size of the images, four stages, ten classes."""

    latent_features = ("stage1", "stage2", "stage3", "stage4")

    def __init__(self, depths):
        super().__init__()
        convolution = nn.Conv2d(3, 64, 3, padding=1, bias=False)
        self.stem = nn.Sequential(convolution, nn.BatchNorm2d(64), nn.ELU())
        before = 64
        for number, depth in enumerate(depths):
            planes = 64 << number
            blocks = nn.Sequential()
            for index in range(depth):
                blocks.append(Block(before, planes, 2 if number and not index else 1))
                before = 4 * planes
            self.add_module(f"stage{number + 1}", blocks)
        self.linear = nn.Linear(2048, 10)

    def forward(self, images):
        features = self.stage4(self.stage3(self.stage2(self.stage1(self.stem(images)))))
        return self.linear(features.mean((2, 3)))
