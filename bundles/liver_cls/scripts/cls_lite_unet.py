"""A 2D U-Net on the features of EfficientNet-Lite0, which may begin from what ImageNet has taught it."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from monai.networks.blocks import Convolution
from monai.networks.layers import SkipConnection
from monai.networks.nets.basic_unet import TwoConv
from scripts.cls_errors import StudyError
from torch import nn

# EfficientNet-Lite0 up to a sixteenth of the input's size: kernel, stride, expansion, channels, blocks of each stage
STAGES = ((3, 1, 1, 16, 1), (3, 2, 6, 24, 2), (5, 2, 6, 40, 2), (3, 2, 6, 80, 3), (5, 1, 6, 112, 3))
STEM = 32  # channels after the first convolution
BATCH = ("batch", {"eps": 1e-3})
ENCODER = ("stem.", "stages.")  # begin the names of its weights
IMAGE_SHARE = 0.5  # of ImageNet's range is that of a CT in units of 30 HU


class LiteUNet(nn.Module):
    """EfficientNet-Lite0 as the encoder of a U-Net with skips at every size, the full one too.

    MONAI's FlexibleUNet has EfficientNet-B0, whose weights have to be fetched, in four times the time, and no skip at
    full size, where a small lesion is seen. Blocks are MONAI's, without squeeze and excitation and with ReLU6, which is
    what "Lite" means: https://github.com/tensorflow/tpu/tree/master/models/official/efficientnet/lite

    Args:
        in_channels: of the input.
        out_channels: of the answer.
        decoder: channels of the decoder at an eighth of the size, a quarter, a half and all of it.
        full: channels of the skip at full size.
        pretrained: state dict of the encoder, ``stem.*`` and ``stages.*``, to begin from, with three channels of
            input; "" for none.
        image_channels: the first channels of the input, which are image and get the filters of colours; the filters of
            the others begin at random.

    Raises:
        StudyError: ``pretrained`` is no such encoder, or cannot be read.
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int = 1,
        decoder: Sequence[int] = (96, 48, 32, 16),
        full: int = 16,
        pretrained: str = "",
        image_channels: int = 3,
    ) -> None:
        super().__init__()
        self.full = TwoConv(2, in_channels, full, act="relu", norm="batch", bias=False)
        self.stem = nn.Sequential(
            nn.ConstantPad2d((0, 1, 0, 1), 0.0),
            Convolution(2, in_channels, STEM, 2, padding=0, act="relu6", norm=BATCH, bias=False),
        )
        self.stages = nn.ModuleList()
        sizes, channels = [full], STEM
        for kernel, stride, expansion, out, count in STAGES:
            blocks = [lite_block(channels if i == 0 else out, out, kernel, stride if i == 0 else 1, expansion)
                      for i in range(count)]  # fmt: skip
            if stride == 1 and len(self.stages):
                self.stages[-1].extend(blocks)
                sizes[-1] = out
            else:
                self.stages.append(nn.Sequential(*blocks))
                sizes.append(out)
            channels = out
        self.upsample = nn.Upsample(scale_factor=2.0)
        deeper = [sizes[-1], *decoder[:-1]]
        skips = zip(deeper, sizes[-2::-1], decoder)
        self.decoder = nn.ModuleList(TwoConv(2, a + b, c, act="relu", norm="batch", bias=False) for a, b, c in skips)
        self.head = nn.Conv2d(decoder[-1], out_channels, 1)
        if pretrained:
            self._begin_from(encoder_of(pretrained), image_channels)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """``[N, C, X, Y]``, X and Y multiples of 16, to logits ``[N, out_channels, X, Y]``."""
        skips = [self.full(x)]
        x = self.stem(x)
        for stage in self.stages:
            x = stage(x)
            skips.append(x)
        for i, block in enumerate(self.decoder):
            x = block(torch.cat([self.upsample(x), skips[len(skips) - 2 - i]], dim=1))
        logits: torch.Tensor = self.head(x)
        return logits

    def _begin_from(self, state: dict[str, torch.Tensor], image_channels: int) -> None:
        """Take over an encoder's weights; its filters of three colours become those of the image's channels."""
        first = "stem.1.conv.weight"
        colours, own = state[first] * IMAGE_SHARE, self.state_dict()[first]
        filters = torch.randn_like(own) * 0.02
        if image_channels == colours.shape[1]:
            filters[:, :image_channels] = colours
        else:
            filters[:, :image_channels] = colours.sum(1, keepdim=True) / image_channels
        self.load_state_dict({**state, first: filters}, strict=False)


def encoder_of(path: str) -> dict[str, torch.Tensor]:
    """The state dict of an encoder to begin from.

    Raises:
        StudyError: there is none, or it is another network's.
    """
    fix = "Fetch the bundle again, or give --network_def#pretrained '' to begin from nothing."
    try:
        state: dict[str, torch.Tensor] = torch.load(path, map_location="cpu", weights_only=True)
    except FileNotFoundError:
        raise StudyError(f"{path}: no such weights to begin from. {fix}") from None
    except Exception as e:
        raise StudyError(f"{path}: damaged, or no weights to begin from. {fix}") from e
    own = {key: value.shape[2:] for key, value in LiteUNet(3).state_dict().items() if key.startswith(ENCODER)}
    if not isinstance(state, dict) or own != {key: getattr(value, "shape", ())[2:] for key, value in state.items()}:
        raise StudyError(f"{path}: not the encoder of this network, a LiteUNet. {fix}")
    return state


def lite_block(channels: int, out: int, kernel: int, stride: int, expansion: int) -> nn.Module:
    """One inverted residual block: widened, filtered channel by channel, narrowed again, added to its input.

    MONAI's MBConvBlock is not taken by TorchScript without its squeeze and excitation.
    """
    wide = channels * expansion
    layers: list[nn.Module] = []
    if expansion > 1:
        layers.append(Convolution(2, channels, wide, kernel_size=1, act="relu6", norm=BATCH, bias=False))
    if stride == 2:  # as TensorFlow pads an even size
        layers.append(nn.ConstantPad2d(2 * (kernel // 2 - 1, kernel // 2), 0.0))
    padding, groups = 0 if stride == 2 else kernel // 2, wide
    layers.append(Convolution(2, wide, wide, stride, kernel, act="relu6", norm=BATCH, bias=False, groups=groups,
                              padding=padding))  # fmt: skip
    layers.append(Convolution(2, wide, out, kernel_size=1, act=None, norm=BATCH, bias=False))
    block = nn.Sequential(*layers)
    return SkipConnection(block, mode="add") if stride == 1 and channels == out else block
