"""The released PyTorch models once more, small: the names of their parameters, and what they compute at every cut.

Each twin's ``forward`` takes images (N, C, H, W) and returns the activation at every cut of our model of the same name,
in order, maps as (N, C, H, W). Nothing is done in place, so that each is what its name says.
"""

import pytest

torch = pytest.importorskip("torch")  # the doctests' collector imports this file wherever it runs

nn, F = torch.nn, torch.nn.functional


def conv_norm_relu(c, d, stride=1):
    return nn.Sequential(nn.Conv2d(c, d, 3, stride, 1, bias=False), nn.BatchNorm2d(d), nn.ReLU())


class CNN(nn.Module):
    def __init__(self, *, classes, channels, size, width):
        super().__init__()
        c = channels
        for n in range(1, 5):
            d = width * 2 ** (n - 1)
            layers = nn.Conv2d(c, d, 3, padding=1), nn.BatchNorm2d(d), nn.MaxPool2d(2), nn.ReLU()
            self.add_module(f"block{n}", nn.Sequential(*layers))
            c = d
        self.fc = nn.Sequential(
            nn.Linear(c * (size // 16) ** 2, 5 * classes), nn.Dropout(0.5), nn.Linear(5 * classes, classes)
        )

    def forward(self, x):
        cuts = []
        for block in (self.block1, self.block2, self.block3, self.block4):
            x = block(x)
            cuts.append(x)
        hidden = self.fc[0](x.flatten(1))
        return [*cuts, hidden, self.fc[2](self.fc[1](hidden))]


class Residual(nn.Module):
    def __init__(self, c, d, stride):
        super().__init__()
        self.left = nn.Sequential(
            *conv_norm_relu(c, d, stride), nn.Conv2d(d, d, 3, padding=1, bias=False), nn.BatchNorm2d(d)
        )
        self.shortcut = nn.Sequential()
        if stride > 1 or c != d:
            self.shortcut = nn.Sequential(nn.Conv2d(c, d, 1, stride, bias=False), nn.BatchNorm2d(d))

    def forward(self, x):
        return F.relu(self.left(x) + self.shortcut(x))


class ResNet(nn.Module):
    def __init__(self, stages, *, classes, channels, size, width):
        super().__init__()
        self.conv1 = conv_norm_relu(channels, width)
        c = width
        for stage, count in enumerate(stages):
            d = width * 2**stage
            blocks = [Residual(d if i else c, d, 2 if stage and not i else 1) for i in range(count)]
            self.add_module(f"layer{stage + 1}", nn.Sequential(*blocks))
            c = d
        self.fc = nn.Linear(c * (size // 32) ** 2, classes)

    def forward(self, x):
        cuts = [self.conv1(x)]
        for block in (*self.layer1, *self.layer2, *self.layer3, *self.layer4):
            cuts.append(block(cuts[-1]))
        pooled = F.avg_pool2d(cuts[-1], 4)
        return [*cuts, pooled, self.fc(pooled.flatten(1))]


class VGG(nn.Module):
    def __init__(self, stages, *, classes, channels, size, width):
        super().__init__()
        layers, c = [], channels
        for stage, count in enumerate(stages):
            d = width * min(8, 2**stage)
            for i in range(count):
                layers += [nn.Conv2d(d if i else c, d, 3, padding=1), nn.BatchNorm2d(d), nn.ReLU()]
            layers += [nn.MaxPool2d(2)]
            c = d
        self.features = nn.Sequential(*layers)
        wide = 64 * width
        self.classifier = nn.Sequential(
            *(nn.Linear(c * (size // 32) ** 2, wide), nn.ReLU(), nn.Dropout(0.3)),
            *(nn.Linear(wide, wide), nn.ReLU(), nn.Dropout(0.2)),
            nn.Linear(wide, classes),
        )

    def forward(self, x):
        cuts = []
        for layer in self.features:
            x = layer(x)
            cuts.append(x)
        first = self.classifier[:2](x.flatten(1))
        second = self.classifier[2:5](first)
        return [*cuts, first, second, self.classifier[5:](second)]


class Unit(nn.Module):
    def __init__(self, c, d, stride):
        super().__init__()
        self.res_layer = nn.Sequential(
            nn.BatchNorm2d(c),
            nn.Conv2d(c, d, 3, 1, 1, bias=False),
            nn.PReLU(d),
            nn.Conv2d(d, d, 3, stride, 1, bias=False),
            nn.BatchNorm2d(d),
        )
        self.shortcut_layer = nn.MaxPool2d(1, stride)  # every other pixel: it has no parameters
        if c != d:
            self.shortcut_layer = nn.Sequential(nn.Conv2d(c, d, 1, stride, bias=False), nn.BatchNorm2d(d))

    def forward(self, x):
        return self.res_layer(x) + self.shortcut_layer(x)


def embedding(c, inputs, outputs):
    return nn.Sequential(nn.BatchNorm2d(c), nn.Dropout(), nn.Flatten(), nn.Linear(inputs, outputs))


class IR(nn.Module):
    def __init__(self, stages, *, classes, channels, size, width):
        super().__init__()
        units, c = [], width
        for stage, count in enumerate(stages):
            d = width * 2**stage
            units += [Unit(d if i else c, d, 1 if i else 2) for i in range(count)]
            c = d
        self.feature = nn.Module()
        self.feature.input_layer = nn.Sequential(
            nn.Conv2d(channels, width, 3, 1, 1, bias=False), nn.BatchNorm2d(width), nn.PReLU(width)
        )
        # Never run, in the release either; there it is for maps of 14 x 14.
        self.feature.output_layer = nn.Sequential(*embedding(c, 14 * 14 * c, 10), nn.BatchNorm1d(c))
        self.feature.body = nn.Sequential(*units)
        self.output_layer = nn.Sequential(*embedding(c, (size // 16) ** 2 * c, 8 * width), nn.BatchNorm1d(8 * width))
        self.fc_layer = nn.Linear(8 * width, classes)

    def forward(self, x):
        cuts = [self.feature.input_layer(x)]
        for unit in self.feature.body:
            cuts.append(unit(cuts[-1]))
        vector = self.output_layer(cuts[-1])
        return [*cuts, vector, self.fc_layer(vector)]


class Transformer(nn.Module):
    def __init__(self, width, heads):
        super().__init__()
        self.norm1 = nn.LayerNorm(width)
        self.attn = nn.MultiheadAttention(width, heads, batch_first=True)
        self.norm2 = nn.LayerNorm(width)
        self.mlp = nn.Module()
        self.mlp.fc1 = nn.Linear(width, 4 * width)
        self.mlp.fc2 = nn.Linear(4 * width, width)

    def forward(self, x):
        y = self.norm1(x)
        x = x + self.attn(y, y, y, need_weights=False)[0]
        return x + self.mlp.fc2(F.gelu(self.mlp.fc1(self.norm2(x))))


class ViT(nn.Module):
    def __init__(self, *, classes, channels, size, width, patch=4, blocks=6, heads=8):
        super().__init__()
        self.patch_embed = nn.Module()
        self.patch_embed.proj = nn.Conv2d(channels, width, patch, patch)
        self.cls_token = nn.Parameter(torch.zeros(1, 1, width))
        self.pos_embed = nn.Parameter(torch.zeros(1, (size // patch) ** 2 + 1, width))
        self.blocks = nn.Sequential(*(Transformer(width, heads) for _ in range(blocks)))
        self.norm = nn.LayerNorm(width)
        self.head = nn.Linear(width, classes)

    def forward(self, x):
        x = self.patch_embed.proj(x).flatten(2).mT
        x = torch.cat([self.cls_token.expand(len(x), -1, -1), x], dim=1) + self.pos_embed
        cuts = []
        for block in self.blocks:
            x = block(x)
            cuts.append(x)
        vector = self.norm(x)[:, 0]
        return [*cuts, vector, self.head(vector)]
