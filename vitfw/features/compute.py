"""Every image of a split through a frozen net, once.

M images, V views, C channels of a feature.
"""

from typing import NamedTuple

import torch
from torch import Tensor, nn

from vitfw.data.classification_data import ClassificationData
from vitfw.data.loaders import RawBatch
from vitfw.progress_bar import LongWork
from vitfw.training.pooled_features import pooled


class Features(NamedTuple):
    """values [M, V, C]: of the image as evaluation sees it, and its mirror image where V is 2;
    labels [M] int64.
    """

    values: Tensor
    labels: Tensor


def compute_features(
    net: nn.Module, data: ClassificationData, split: str, device: torch.device, views: int = 1
) -> Features:
    """Run every image of a split through `net`, which is on `device`, once; the result is on the
    CPU, in the order of the split. `data` belong to no trainer yet, which would take its share.

    Under autocast features are kept in its format, as the classifier would get them. Images that
    cannot be read are left out.
    """
    weights = next(net.parameters()).dtype
    autocast = torch.is_autocast_enabled(device.type)
    dtype = torch.get_autocast_dtype(device.type) if autocast else weights
    count, filled = data.count(split), 0
    values, labels = torch.empty(0), torch.empty(count, dtype=torch.int64)
    was_training = net.training
    net.eval()
    with torch.no_grad(), LongWork(f"features of {split} images", count) as work:
        for batch in data.loader(split, data.eval_batch_size, shuffle=False):
            images, given, keys = (part.to(device) for part in batch[:3])
            images, truth = data.prepare_evaluation(RawBatch(images, given, keys, batch.step))
            images = images.to(weights)
            seen = [images] if views == 1 else [images, images.flip(-1)]
            found = torch.stack([pooled(net, view) for view in seen], dim=1)  # [B, V, C]
            if filled == 0:
                values = torch.empty(count, *found.shape[1:], dtype=dtype)
            end = filled + len(truth)
            values[filled:end], labels[filled:end] = found, truth
            filled = end
            work.update(len(given))
    net.train(was_training)
    return Features(values[:filled], labels[:filled])
