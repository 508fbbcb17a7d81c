"""A 2D U-Net on the features of EfficientNet-Lite0, which may begin from what ImageNet has taught it."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from monai.networks.blocks import Convolution
from monai.networks.layers import SkipConnection
from monai.networks.nets.basic_unet import TwoConv
from scripts.cls_errors import StudyError
from torch import nn

# EfficientNet-Lite0 from a half to a sixteenth of the input's size: kernel, expansion, channels and number of blocks
SIZES = (((3, 1, 16, 1),), ((3, 6, 24, 2),), ((5, 6, 40, 2),), ((3, 6, 80, 3), (5, 6, 112, 3)))
STEM, COLOURS = 32, 3  # channels after the first convolution, and of ImageNet's pictures before it
BATCH = ("batch", {"eps": 1e-3})
ENCODER, FIRST = ("stem.", "stages."), "stem.1.conv.weight"  # begin the names of its weights; the first convolution's
IMAGE_SHARE = 0.5  # a CT in units of 30 HU above the liver spans more than ImageNet's -1 to 1


class LiteUNet(nn.Module):
    """EfficientNet-Lite0 as the encoder of a U-Net with skips at every size, the full one too.

    MONAI's FlexibleUNet has EfficientNet-B0, whose weights have to be fetched, and no skip at full size, where a small
    lesion is seen. "Lite" is without squeeze and excitation and with ReLU6:
    https://github.com/tensorflow/tpu/tree/master/models/official/efficientnet/lite

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
        channels, skips = STEM, [full]
        for size, kinds in enumerate(SIZES):
            blocks: list[nn.Module] = []
            for kernel, expansion, out, count in kinds:
                for _ in range(count):
                    stride = 2 if size and not blocks else 1  # the stem has halved the first size
                    blocks.append(lite_block(channels, out, kernel, stride, expansion))
                    channels = out
            self.stages.append(nn.Sequential(*blocks))
            skips.append(channels)
        self.upsample = nn.Upsample(scale_factor=2.0)
        self.decoder = nn.ModuleList()
        for skip, out in zip(skips[-2::-1], decoder):
            self.decoder.append(TwoConv(2, channels + skip, out, act="relu", norm="batch", bias=False))
            channels = out
        self.head = nn.Conv2d(channels, out_channels, 1)
        if pretrained:
            self._begin_from(pretrained, image_channels)

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

    def _begin_from(self, path: str, image_channels: int) -> None:
        """Take over an encoder's weights; its filters of three colours become those of the image's channels."""
        fix = "Fetch the bundle again, or give --encoder_path '' to begin from nothing."
        try:
            state = torch.load(path, map_location="cpu", weights_only=True)
        except FileNotFoundError:
            raise StudyError(f"{path}: no such weights to begin from. {fix}") from None
        except Exception as e:
            raise StudyError(f"{path}: damaged, or no weights to begin from. {fix}") from e
        own = {key: value for key, value in self.state_dict().items() if key.startswith(ENCODER)}
        wanted = {key: value.shape for key, value in own.items()} | {FIRST: (STEM, COLOURS, 3, 3)}
        if not isinstance(state, dict) or wanted != {
            key: getattr(value, "shape", None) for key, value in state.items()
        }:
            raise StudyError(f"{path}: not the encoder of this network, a LiteUNet. {fix}")
        filters, colours = torch.randn_like(own[FIRST]) * 0.02, state[FIRST] * IMAGE_SHARE
        gray = colours.sum(1, keepdim=True) / image_channels
        filters[:, :image_channels] = colours if image_channels == COLOURS else gray
        self.load_state_dict({**state, FIRST: filters}, strict=False)


def lite_block(channels: int, out: int, kernel: int, stride: int, expansion: int) -> nn.Module:
    """One inverted residual block: widened, filtered channel by channel, narrowed again, added to its input.

    MONAI's MBConvBlock is not taken by TorchScript without its squeeze and excitation.
    """
    wide, padding = channels * expansion, kernel // 2
    layers: list[nn.Module] = []
    if expansion > 1:
        layers.append(Convolution(2, channels, wide, kernel_size=1, act="relu6", norm=BATCH, bias=False))
    if stride == 2:  # as TensorFlow pads an even size
        layers.append(nn.ConstantPad2d(2 * (padding - 1, padding), 0.0))
        padding = 0
    each = {"groups": wide, "padding": padding}
    layers.append(Convolution(2, wide, wide, stride, kernel, act="relu6", norm=BATCH, bias=False, **each))
    layers.append(Convolution(2, wide, out, kernel_size=1, act=None, norm=BATCH, bias=False))
    block = nn.Sequential(*layers)
    return SkipConnection(block, mode="add") if stride == 1 and channels == out else block
