"""Exact counts and shapes that tests compare our nets with."""

from collections.abc import Mapping

# Weights and biases. The papers round them: 60 million for AlexNet, and
# paper.py has VGG's in millions.
PARAMETERS: Mapping[str, int] = {
    "alexnet-paper": 60_965_224,  # two towers; 62,378,344 without the split
    "alexnet-source": 60_965_224,
    "alexnet-caffe": 60_965_224,
    "alexnet-caffenet": 60_965_224,
    "alexnet-owt": 61_100_840,
    "vgg-a": 132_863_336,
    "vgg-a-lrn": 132_863_336,  # LRN has no parameters
    "vgg-b": 133_047_848,
    "vgg-b-5x5": 134_503_528,
    "vgg-c": 133_638_952,
    "vgg-d": 138_357_544,
    "vgg-e": 143_667_240,
    "cifar-80sec": 145_578,
    "cifar-19pct": 89_578,
    "cifar-18pct": 89_578,
    "cifar-13pct": 1_116_490,  # at 24 pixels
    "cifar-11pct": 2_112_970,
}

# AlexNet §3.5 and figure 2, as printed. conv1 is 55 * 48 * 96 there; the 55 x 55 x 96
# maps that the program computes hold 290,400. The other counts are exact. With 290,400
# the layers sum to 659,272, the paper's "650,000 neurons"; as printed, to 622,312.
ALEXNET_NEURONS: Mapping[str, int] = {
    "conv1": 253_440,
    "conv2": 186_624,
    "conv3": 64_896,
    "conv4": 64_896,
    "conv5": 43_264,
    "fc6": 4096,
    "fc7": 4096,
    "fc8": 1000,
}

# (height, width, maps), both towers together. 55 needs 227 pixels: the program reads
# zeros right of and below its 224 (layers-145.cfg).
ALEXNET_SHAPES: Mapping[str, tuple[int, int, int]] = {
    "conv1": (55, 55, 96),
    "pool1": (27, 27, 96),
    "conv2": (27, 27, 256),
    "pool2": (13, 13, 256),
    "conv3": (13, 13, 384),
    "conv4": (13, 13, 384),
    "conv5": (13, 13, 256),
    "pool5": (6, 6, 256),
}
