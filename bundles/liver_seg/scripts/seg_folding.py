# A copy of folding.py in bundles/shared, made by copy_into_bundles.py there: change that file, not this one.
"""Batch norm folded into the convolutions before it, for inference."""

from __future__ import annotations

import copy

from monai.networks.blocks import ADN, Convolution
from monai.networks.blocks.dynunet_block import UnetBasicBlock, UnetResBlock
from torch import nn
from torch.nn.utils.fusion import fuse_conv_bn_eval

BLOCKS = (UnetBasicBlock, UnetResBlock, Convolution)


def fold_batch_norm(network: nn.Module) -> nn.Module:
    """A copy of a network for inference, in which MONAI's blocks of a DynUNet and Convolutions hold no batch norm more.

    Its passes over memory are a tenth of such a network's time on the CPU. torch.fx folds in any network that it can
    trace, which is none with a layer that leaves autocast.

    Args:
        network: set to evaluate, with its weights; it stays as it is. One without such blocks is given back.

    Returns:
        The same function of its input, to rounding.
    """
    blocks = [name for name, module in network.named_modules() if isinstance(module, BLOCKS)]
    if not blocks:
        return network
    folded = copy.deepcopy(network)
    for name in blocks:
        block = folded.get_submodule(name)
        fold_convolution(block) if isinstance(block, Convolution) else fold_block(block)
    return folded


def fold_convolution(block: Convolution) -> None:
    """Fold a Convolution's batch norm into it, where nothing lies between them."""
    conv, after = (getattr(block, name, None) for name in ("conv", "adn"))
    if type(conv) is nn.Conv2d and isinstance(after, ADN) and is_foldable(next(after.children(), None)):
        block.conv, after.N = fuse_conv_bn_eval(conv, after.N), nn.Identity()


def is_foldable(norm: nn.Module | None) -> bool:
    """Whether a layer is a batch norm that holds its mean and variance."""
    return isinstance(norm, nn.BatchNorm2d) and norm.running_mean is not None


def fold_block(block: nn.Module) -> None:
    """Fold each batch norm of a DynUNet's block into its convolution; one that holds dropout between them stays."""
    for number in "123":
        layer, norm = getattr(block, f"conv{number}", None), getattr(block, f"norm{number}", None)
        if is_foldable(norm) and len([*layer.children()]) == 1:
            layer.conv = fuse_conv_bn_eval(layer.conv, norm)
            setattr(block, f"norm{number}", nn.Identity())
