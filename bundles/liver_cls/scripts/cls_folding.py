# A copy of folding.py in bundles/shared, made by copy_into_bundles.py there: change that file, not this one.
"""Batch norm folded into the convolutions before it, for inference."""

from __future__ import annotations

import copy

from monai.networks.blocks.dynunet_block import UnetBasicBlock, UnetResBlock
from torch import nn
from torch.nn.utils.fusion import fuse_conv_bn_eval


def fold_batch_norm(network: nn.Module) -> nn.Module:
    """A copy of a network for inference, in which the blocks of a DynUNet hold no batch norm any more.

    Its passes over memory are a tenth of such a network's time on the CPU. torch.fx folds in any network that it can
    trace, which is none with a layer that leaves autocast.

    Args:
        network: set to evaluate, with its weights; it stays as it is. Of another kind than a DynUNet it is given back.

    Returns:
        The same function of its input, to rounding.
    """
    blocks = [name for name, module in network.named_modules() if isinstance(module, (UnetBasicBlock, UnetResBlock))]
    if not blocks:
        return network
    folded = copy.deepcopy(network)
    for name in blocks:
        fold_block(folded.get_submodule(name))
    return folded


def fold_block(block: nn.Module) -> None:
    """Fold each batch norm of a DynUNet's block into its convolution; one that holds dropout between them stays."""
    for number in "123":
        layer, norm = getattr(block, f"conv{number}", None), getattr(block, f"norm{number}", None)
        if isinstance(norm, nn.BatchNorm2d) and norm.running_mean is not None and len([*layer.children()]) == 1:
            layer.conv = fuse_conv_bn_eval(layer.conv, norm)
            setattr(block, f"norm{number}", nn.Identity())
