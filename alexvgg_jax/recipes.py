"""Complete runs to start from: `python -m alexvgg_jax train RECIPE`.

A recipe changes another with `dataclasses.replace`. Its `about` gives the source, the
published error, and the hardware and time.
"""

from dataclasses import dataclass, replace

from alexvgg_jax.config import Augment, Data, Optim, Run
from alexvgg_jax.models import build


@dataclass(frozen=True)
class Recipe:
    about: str  # source, published error, hardware and time
    run: Run


CIFAR_80SEC = Run(
    name="cifar-80sec",
    data=Data("cifar10"),
    augment=Augment(),
    net=build("cifar-80sec"),
    optim=Optim(
        rate=0.001,
        weight_decay=0.004,
        layer_decay={"fc64": 0.03, "fc10": 0.03},
        drop_epochs=(8.0,),
    ),
)

# layers-19pct.cfg gives no schedule; this is the 18% net's (layer-params-18pct.cfg).
CIFAR_19PCT = Run(
    name="cifar-19pct",
    data=Data("cifar10"),
    augment=Augment(),
    net=build("cifar-19pct"),
    optim=Optim(
        rate=0.001,
        weight_decay=0.004,
        layer_decay={"fc10": 3.0},
        drop_epochs=(120.0, 130.0),
    ),
    epochs=140,
)

CIFAR_18PCT = replace(
    CIFAR_19PCT,
    name="cifar-18pct",
    net=build("cifar-18pct"),
    optim=replace(CIFAR_19PCT.optim, layer_decay={"fc10": 1.0}),
)

# "Set wc to 0 for translations -- 14.2%", says layer-params-19pct.cfg. The program also
# mirrors its cropped images (convdata_cifar.py).
CIFAR_14PCT = replace(
    CIFAR_19PCT,
    name="cifar-14pct",
    augment=Augment(crop=24, mirror=True),
    optim=replace(CIFAR_19PCT.optim, weight_decay=0.0, layer_decay={}),
)

# The program's page "Methodology" trains this net for 100 epochs without batch 5 of 5
# and 40 with it, then 10 and 10 at a tenth and a hundredth of epsW, the weights' rate.
# In passes over all images that is 80 + 40 + 10 + 10.
CIFAR_13PCT = Run(
    name="cifar-13pct",
    data=Data("cifar10"),
    augment=Augment(crop=24, mirror=True),
    net=build("cifar-13pct"),
    optim=Optim(
        rate=0.001,
        weight_decay=0.004,
        layer_decay={"conv1": 0.0, "conv2": 0.0},
        drop_epochs=(120.0, 130.0),
        drop_biases=False,
    ),
    epochs=140,
)

# Its file says 350 epochs without batch 5, 150 with it, 10 and 10. In passes over all
# images that is 280 + 150 + 10 + 10.
CIFAR_11PCT = replace(
    CIFAR_13PCT,
    name="cifar-11pct",
    net=build("cifar-11pct"),
    optim=replace(
        CIFAR_13PCT.optim,
        layer_decay={"conv1": 0.0, "conv2": 0.0, "fc10": 0.01},
        drop_epochs=(430.0, 440.0),
    ),
    epochs=450,
)

# A crop of 28 from 32 pixels is the paper's 224 from 256.
ALEXNET_SMALL = Run(
    name="alexnet-small",
    data=Data("cifar10"),
    augment=Augment(crop=28, mirror=True, colour=0.1),
    net=build("alexnet-small"),
    optim=Optim(rate=0.01, drop_epochs=(12.0, 16.0)),
    epochs=18,
)

DIGITS = replace(
    CIFAR_80SEC,
    name="digits",
    data=Data("digits"),
    optim=replace(CIFAR_80SEC.optim, drop_epochs=(16.0,)),
    epochs=20,
)

ALEXNET_PAPER = Run(
    name="alexnet-paper",
    data=Data("imagenet2012", size=256),
    augment=Augment(crop=224, mirror=True, colour=0.1),
    net=build("alexnet-paper"),
    optim=Optim(rate=0.01, plateau=5),
    epochs=90,
)

# The log of net 145 (layer-params-145.cfg) tells when the rates were divided, when the
# colour noise ended and when conv1 was frozen. The biases' rate stayed, except, by
# assumption, that of conv1: the log does not tell.
ALEXNET_SOURCE = replace(
    ALEXNET_PAPER,
    name="alexnet-source",
    augment=replace(ALEXNET_PAPER.augment, colour_epochs=67.0),
    net=build("alexnet-source"),
    optim=Optim(
        rate=0.01,
        drop_epochs=(25.0, 51.0, 79.0),
        drop_biases=False,
        layer_drop={"conv1": 67.0},
        layer_freeze={"conv1": 72.0},
    ),
    epochs=91,
)

VGG_A = replace(
    ALEXNET_PAPER,
    name="vgg-a",
    augment=Augment(crop=224, mirror=True, colour=0.1, mean="channel"),
    net=build("vgg-a"),
    batch=256,
    epochs=74,
)

# "When training deeper architectures, we initialised the first four convolutional
# layers and the last three fully-connected layers with the layers of net A" (VGG §3.1).
# They are copied where --init-from names a run of net A.
OF_NET_A = ("conv1_1", "conv2_1", "conv3_1", "conv3_2", "fc6", "fc7", "fc8")


def _vgg(name: str) -> Run:
    return replace(VGG_A, name=name, net=build(name), init_layers=OF_NET_A)


# For one's own photographs, of any number. Glorot's weights and biases of 0 learn at
# once from images that AlexNet's N(0, 0.01^2) and biases of 1 need ImageNet for. Small
# sets have few steps an epoch, so the plateau is long.
PHOTOS_ALEXNET = Run(
    name="photos-alexnet",
    data=Data("photos", size=128),
    augment=Augment(crop=112, mirror=True, colour=0.1, mean="channel"),
    net=build("alexnet-paper", width=0.5, weight_init="glorot", bias_init=0.0),
    optim=Optim(rate=0.003, plateau=20),
    batch=16,
    epochs=60,
)

PHOTOS_VGG = replace(
    PHOTOS_ALEXNET,
    name="photos-vgg",
    net=build("vgg-a", width=0.25),
)

# The new fully-connected layers learn first, on trained convolutions, then all layers
# at a tenth of the rate. The first convolution stays as it is: weights for inputs that
# were divided by their deviation have it folded in, so its gradients are large.
FINETUNE_ALEXNET = Run(
    name="finetune-alexnet",
    data=Data("photos", size=256),
    augment=Augment(crop=224, mirror=True, mean="channel"),
    net=build("alexnet-owt"),
    optim=Optim(
        rate=0.001,
        layer_rate={"conv1": 0.0},
        frozen_epochs=5.0,
        drop_epochs=(5.0,),
    ),
    batch=16,
    epochs=10,
)

FINETUNE_VGG = replace(
    FINETUNE_ALEXNET,
    name="finetune-vgg",
    net=build("vgg-d"),
    optim=replace(FINETUNE_ALEXNET.optim, layer_rate={"conv1_1": 0.0}),
)

_RECIPES = (
    Recipe(
        "The 80-second net on scikit-learn's digits: a minute on two CPU cores.",
        DIGITS,
    ),
    Recipe(
        "The original program's small net with its own hyper-parameters "
        "(layers-80sec.cfg): 26% test error, 80 s on a GTX 580, 6 minutes on two CPU "
        "cores.",
        CIFAR_80SEC,
    ),
    Recipe(
        "The program's 20-minute net (layers-19pct.cfg): 19% test error.",
        CIFAR_19PCT,
    ),
    Recipe(
        "The 20-minute net with normalisation over 3x3 pixels (layers-18pct.cfg): 18% "
        "test error.",
        CIFAR_18PCT,
    ),
    Recipe(
        "The 19% net on crops of 24 pixels, without weight decay: 14.2% test error.",
        CIFAR_14PCT,
    ),
    Recipe(
        "Two convolutions and two locally connected layers on crops of 24 pixels "
        "(layers-conv-local-13pct.cfg): 13% test error.",
        CIFAR_13PCT,
    ),
    Recipe(
        "The 13% net with normalisation over maps (layers-conv-local-11pct.cfg): 11% "
        "test error, averaged over several views.",
        CIFAR_11PCT,
    ),
    Recipe(
        "AlexNet §3.5 for 32-pixel images, a quarter as wide: the net of the "
        "experiments, 4 minutes on two CPU cores.",
        ALEXNET_SMALL,
    ),
    Recipe(
        "AlexNet §5 on ImageNet: 40.7% top-1 and 18.2% top-5 error with ten crops, 5 "
        "to 6 days on two GTX 580.",
        ALEXNET_PAPER,
    ),
    Recipe(
        "The original program's net 145 with the schedule of its log "
        "(layer-params-145.cfg): 40.7% and 18.2% on ImageNet with ten crops.",
        ALEXNET_SOURCE,
    ),
    Recipe(
        "VGG §3.1, column A: 29.6% top-1 and 10.4% top-5 error (VGG Table 3, dense), 2 "
        "to 3 weeks on four Titan Black.",
        VGG_A,
    ),
    Recipe(
        "VGG §3.1, column A-LRN: 29.7% top-1 and 10.5% top-5 error (VGG Table 3, "
        "dense).",
        replace(VGG_A, name="vgg-a-lrn", net=build("vgg-a-lrn")),
    ),
    Recipe(
        "VGG §3.1, column B: 28.7% top-1 and 9.9% top-5 error (VGG Table 3, dense).",
        _vgg("vgg-b"),
    ),
    Recipe(
        "VGG §3.1, column C: 28.1% top-1 and 9.4% top-5 error (VGG Table 3, dense).",
        _vgg("vgg-c"),
    ),
    Recipe(
        "VGG §3.1, column D: 27.0% top-1 and 8.8% top-5 error (VGG Table 3, dense).",
        _vgg("vgg-d"),
    ),
    Recipe(
        "VGG §3.1, column E: 27.3% top-1 and 9.0% top-5 error (VGG Table 3, dense).",
        _vgg("vgg-e"),
    ),
    Recipe(
        "AlexNet, half as wide, on a folder of your own photographs: name it with "
        "--data.name.",
        PHOTOS_ALEXNET,
    ),
    Recipe(
        "VGG's column A, a quarter as wide, on a folder of your own photographs: name "
        "it with --data.name.",
        PHOTOS_VGG,
    ),
    Recipe(
        "AlexNet from trained weights (torchvision's) on your own photographs: name "
        "both with --init-from and --data.name.",
        FINETUNE_ALEXNET,
    ),
    Recipe(
        "VGG-16 from trained weights on your own photographs: name both with "
        "--init-from and --data.name.",
        FINETUNE_VGG,
    ),
)

RECIPES = {recipe.run.name: recipe for recipe in _RECIPES}
