"""Both papers as data: every claim, the figure published for it, and where it lives.

- AlexNet: A. Krizhevsky, I. Sutskever, G. Hinton, "ImageNet Classification with Deep
  Convolutional Neural Networks", NIPS 2012.
- One weird trick: A. Krizhevsky, "One weird trick for parallelizing convolutional
  neural networks", 2014, arXiv:1404.5997.
- VGG: K. Simonyan, A. Zisserman, "Very Deep Convolutional Networks for Large-Scale
  Image Recognition", ICLR 2015, arXiv:1409.1556v6.
- The original program: computerhistory/AlexNet-Source-Code on GitHub. Its CIFAR-10 nets
  are the "cuda-convnet" rows; the 11% net is only in the public cuda-convnet releases.

A tag such as `AlexNet §3.3` opens the docstring of the code that implements the claim,
of the test that pins it and of the experiment that measures it, and keys its row here:

    grep -rn "AlexNet §3.3"

shows all four. Errors are percentages, differences of errors are percentage points.
Published figures never change; ours stand beside them in experiments/results/.
"""

import difflib
from collections.abc import Mapping
from dataclasses import dataclass, field


@dataclass(frozen=True)
class Claim:
    tag: str  # paper and section, table or figure; one row a tag
    sentence: str  # the claim, close to the paper's words
    # Figure name, unit included -> published figure; empty where the paper gives none.
    # A mapping has no hash, and the tag alone identifies a row.
    published: Mapping[str, float | int] = field(hash=False)
    code: str = ""  # dotted path of the object that implements it; empty while none
    # The command in experiments/ that measures it; empty while none.
    experiment: str = ""


def _table(
    columns: tuple[str, ...], rows: Mapping[str, tuple[float | None, ...]]
) -> dict[str, float]:
    """{"D": (24.4, 7.2)} -> {"D, top-1": 24.4, "D, top-5": 7.2}; None is a dash."""
    return {
        f"{row}, {column}": figure
        for row, figures in rows.items()
        for column, figure in zip(columns, figures, strict=True)
        if figure is not None
    }


# Exact counts, weights and biases. The papers round them: 60 million for AlexNet, and
# VGG_PARAMETERS_MILLIONS below.
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
    "figure1": 89_578,  # taken for cifar-19pct's layers
}

# VGG Table 2
VGG_PARAMETERS_MILLIONS: Mapping[str, int] = {
    "A": 133,
    "A-LRN": 133,
    "B": 133,
    "C": 134,
    "D": 138,
    "E": 144,
}

# AlexNet §3.5 and figure 2, as printed. conv1 is 55 * 48 * 96 there; the 55 x 55 x 96
# maps that the program computes hold 290,400. The other rows are exact. With 290,400
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

CLAIMS: tuple[Claim, ...] = (
    Claim(
        tag="AlexNet §2",
        sentence="Images are scaled to a short side of 256, the central 256x256 is cut "
        "out, and the mean over the training set is subtracted from each pixel.",
        published={"image size, pixels": 256},
        code="alexvgg_jax.augment.subtract_mean",
    ),
    Claim(
        tag="AlexNet §3.1",
        sentence="A four-layer CNN with ReLUs reaches 25% training error on CIFAR-10 "
        "six times faster than the same net with tanh (figure 1).",
        published={"speed-up to 25% training error, times": 6.0},
        code="alexvgg_jax.models.cifar.FourLayers",
        experiment="alexnet_relu.py --data cifar10",
    ),
    Claim(
        tag="AlexNet §3.2",
        sentence="Two GPUs lower the errors of a one-GPU net with half the kernels in "
        "each convolution, and take slightly less time.",
        published={"top-1 error points": -1.7, "top-5 error points": -1.2},
        code="alexvgg_jax.models.layers.Conv",
        experiment="alexnet_towers.py --data cifar10",
    ),
    Claim(
        tag="AlexNet §3.3",
        sentence="Local response normalisation (k=2, n=5, alpha=1e-4, beta=0.75) after "
        "the ReLU of conv1 and conv2 lowers the errors.",
        published={"top-1 error points": -1.4, "top-5 error points": -1.2},
        code="alexvgg_jax.models.layers.LRN",
        experiment="alexnet_lrn.py --data cifar10",
    ),
    Claim(
        tag="AlexNet §3.3 CIFAR-10",
        sentence="Response normalisation takes a four-layer CNN on CIFAR-10 from 13% "
        "to 11% test error.",
        published={
            "CIFAR-10 test error without LRN, %": 13.0,
            "CIFAR-10 test error with LRN, %": 11.0,
        },
        code="alexvgg_jax.models.cifar.ConvLocal",
        experiment="cifar_lrn.py --data cifar10",
    ),
    Claim(
        tag="AlexNet §3.4",
        sentence="Overlapping pooling, size 3 and stride 2 against size 2 and stride "
        "2, lowers the errors and makes the net slightly harder to overfit.",
        published={"top-1 error points": -0.4, "top-5 error points": -0.3},
        code="alexvgg_jax.models.layers.Pool",
        experiment="alexnet_pool.py --data cifar10",
    ),
    Claim(
        tag="AlexNet §3.5",
        sentence="Five convolutional and three fully-connected layers over two GPUs, "
        "which meet at conv3 and in the fully-connected layers, have 60 million "
        "parameters and 650,000 neurons (figure 2).",
        published={"parameters": 60_000_000, "neurons": 650_000},
        code="alexvgg_jax.models.alexnet.AlexNet",
    ),
    Claim(
        tag="AlexNet §4.1 crops",
        sentence="Random 224 crops of 256 x 256 images and their mirror images make "
        "the training set 2048 times larger; without them the net overfits "
        "substantially.",
        published={"training set, times": 2048},
        code="alexvgg_jax.augment.random_crop",
        experiment="alexnet_augment.py --data cifar10",
    ),
    Claim(
        tag="AlexNet §4.1 colour",
        sentence="Adding multiples of the principal components of RGB, drawn once an "
        "image from N(0, 0.1) times the eigenvalues, lowers the top-1 error by more "
        "than 1 point.",
        published={"top-1 error points, or lower": -1.0},
        code="alexvgg_jax.augment.pca_colour",
        experiment="alexnet_augment.py --data cifar10",
    ),
    Claim(
        tag="AlexNet §4.2",
        sentence="Dropout 0.5 on fc6 and fc7, with all units and their outputs times "
        "0.5 at test time, prevents substantial overfitting and about doubles the "
        "iterations to converge.",
        published={"iterations to converge, times": 2.0},
        code="alexvgg_jax.models.layers.Dropout",
        experiment="alexnet_dropout.py --data cifar10",
    ),
    Claim(
        tag="AlexNet §5 decay",
        sentence="SGD with batch 128, momentum 0.9 and weight decay 0.0005, the rate "
        'inside the velocity; the decay is "not merely a regularizer": it lowers the '
        "training error.",
        published={"batch": 128, "momentum": 0.9, "weight decay": 0.0005},
        code="alexvgg_jax.optim.original_sgd",
        experiment="alexnet_decay.py --data cifar10",
    ),
    Claim(
        tag="AlexNet §5 biases",
        sentence="Weights start from N(0, 0.01^2); biases of 1 in conv2, conv4, conv5 "
        "and the hidden fully-connected layers, and of 0 elsewhere, accelerate the "
        "early stages of learning.",
        published={
            "weights, standard deviation": 0.01,
            "biases of conv2, conv4, conv5, fc6, fc7": 1.0,
            "other biases": 0.0,
        },
        code="alexvgg_jax.models.alexnet.AlexNet",
        experiment="alexnet_init.py --data cifar10",
    ),
    Claim(
        tag="AlexNet §5 schedule",
        sentence="One rate for every layer starts at 0.01 and is divided by 10 when "
        "the validation error stops improving, three times in about 90 epochs of 1.2 "
        "million images: 5 to 6 days on two GTX 580 3GB.",
        published={
            "first learning rate": 0.01,
            "divisions by 10": 3,
            "epochs, about": 90,
            "days, from": 5,
            "days, to": 6,
        },
        code="alexvgg_jax.optim.learning_rate",
    ),
    Claim(
        tag="AlexNet §6 ten crops",
        sentence="Averaging the softmax of ten crops (corners, centre, mirrored; §4.1) "
        "lowers the ILSVRC-2010 test errors of the centre crop alone.",
        published={"top-1 error points, ten crops": -1.5}
        | _table(
            ("top-1", "top-5"),
            {
                "centre crop": (39.0, 18.3),
                "ten crops": (37.5, 17.0),
            },
        ),
        code="alexvgg_jax.augment.map_views",
        experiment="alexnet_augment.py --data cifar10",
    ),
    Claim(
        tag="AlexNet §6 five nets",
        sentence="Averaging the predictions of five similar CNNs lowers the errors of "
        "one (Table 2: 40.7 to 38.1 and 18.2 to 16.4).",
        published={
            "top-1 error points, five nets": -2.6,
            "top-5 error points, five nets": -1.8,
        },
        code="alexvgg_jax.evaluate.errors",
        experiment="alexnet_ensemble.py --data cifar10",
    ),
    Claim(
        tag="AlexNet Table 1",
        sentence="On the ILSVRC-2010 test set the CNN beats the best published "
        "results.",
        published=_table(
            ("top-1", "top-5"),
            {
                "Sparse coding": (47.1, 28.2),
                "SIFT + FVs": (45.7, 25.7),
                "CNN": (37.5, 17.0),
            },
        ),
        experiment="alexnet_imagenet.py --data FOLDER --year 2010",
    ),
    Claim(
        tag="AlexNet Table 2",
        sentence="On ILSVRC-2012, averaging several CNNs, two of them pre-trained on "
        "the Fall 2011 release, reaches 15.3% top-5 test error against 26.2%.",
        published=_table(
            ("top-1 val", "top-5 val", "top-5 test"),
            {
                "SIFT + FVs": (None, None, 26.2),
                "1 CNN": (40.7, 18.2, None),
                "5 CNNs": (38.1, 16.4, 16.4),
                "1 CNN, pre-trained on Fall 2011": (39.0, 16.6, None),
                "7 CNNs, two of them pre-trained": (36.7, 15.4, 15.3),
            },
        ),
        experiment="alexnet_imagenet.py",
    ),
    Claim(
        tag="AlexNet §6 Fall 2009",
        sentence="The errors on the Fall 2009 release of ImageNet, 10,184 classes, are "
        "67.4% and 40.9%.",
        published={"classes": 10_184, "top-1": 67.4, "top-5": 40.9},
    ),
    Claim(
        tag="AlexNet Figure 3",
        sentence="The 96 kernels of conv1 specialise by GPU: one learns "
        "colour-agnostic kernels, the other colour-specific ones.",
        published={"kernels": 96},
        code="alexvgg_jax.report.draw_filters",
        experiment="alexnet_towers.py --data cifar10",
    ),
    Claim(
        tag="AlexNet Figure 4",
        sentence="The five most probable labels of eight test images are mostly "
        "reasonable, and the training images nearest in the 4096-d features of fc7 "
        "show the same things.",
        published={"test images": 8, "labels an image": 5, "features": 4096},
        experiment="alexnet_retrieval.py --data cifar10",
    ),
    Claim(
        tag="AlexNet §7",
        sentence="Depth matters: removing any of the middle convolutional layers loses "
        "about 2 points of top-1.",
        published={"top-1 error points, one middle layer removed": 2.0},
        code="alexvgg_jax.models.alexnet.AlexNet",
        experiment="alexnet_depth.py --data cifar10",
    ),
    Claim(
        tag="One weird trick",
        sentence="Data parallelism suits the convolutions, which hold most of the "
        "computation, and model parallelism the fully-connected layers, which hold "
        "most of the parameters; the net has one tower.",
        published={},
        code="alexvgg_jax.models.alexnet.OneWeirdTrick",
    ),
    Claim(
        tag="One weird trick batch",
        sentence="With a batch k times larger, a learning rate k times higher works "
        "best in practice, where theory asks for its square root.",
        published={},
        experiment="alexnet_batch.py --data cifar10",
    ),
    Claim(
        tag="cuda-convnet 80sec",
        sentence="Three convolutions and two fully-connected layers reach 26% test "
        "error on CIFAR-10 in the 80 seconds that name the net.",
        published={"test error, %": 26.0},
        code="alexvgg_jax.models.cifar.FiveLayers",
        experiment="cifar_ladder.py --data cifar10 --nets cifar-80sec",
    ),
    Claim(
        tag="cuda-convnet 19pct",
        sentence="Three convolutions and one fully-connected layer, with weight decay "
        "3 on the latter, reach 19% test error on CIFAR-10 in 20 minutes.",
        published={"test error, %": 19.0},
        code="alexvgg_jax.models.cifar.FourLayers",
        experiment="cifar_ladder.py --data cifar10 --nets cifar-19pct",
    ),
    Claim(
        tag="cuda-convnet 18pct",
        sentence="Spatial response normalisation (3x3, same map) in the 19% net, with "
        "weight decay 1 on its fully-connected layer, reaches 18% test error.",
        published={"test error, %": 18.0},
        code="alexvgg_jax.models.cifar.FourLayers",
        experiment="cifar_ladder.py --data cifar10 --nets cifar-18pct",
    ),
    Claim(
        tag="cuda-convnet 19pct translations",
        sentence="The 19% net reaches 14.2% test error when trained on translations "
        "and without weight decay.",
        published={"test error, %": 14.2},
        code="alexvgg_jax.models.cifar.FourLayers",
        experiment="cifar_ladder.py --data cifar10 --nets cifar-14pct",
    ),
    Claim(
        tag="cuda-convnet 13pct",
        sentence="Two convolutions and two locally connected layers, trained on "
        "cropped and mirrored images, reach 13% test error on CIFAR-10, averaged over "
        "ten views.",
        published={"test error, %": 13.0},
        code="alexvgg_jax.models.cifar.ConvLocal",
        experiment="cifar_ladder.py --data cifar10 --nets cifar-13pct",
    ),
    Claim(
        tag="cuda-convnet 12pct",
        sentence="The layers of the 13% net reach 12% test error.",
        published={"test error, %": 12.0},
        code="alexvgg_jax.models.cifar.ConvLocal",
        experiment="cifar_ladder.py --data cifar10 --nets cifar-13pct",
    ),
    Claim(
        tag="cuda-convnet 11pct",
        sentence="Response normalisation across maps and 64 maps in the first locally "
        "connected layer reach 11% test error, averaged over several views.",
        published={"test error, %": 11.0},
        code="alexvgg_jax.models.cifar.ConvLocal",
        experiment="cifar_ladder.py --data cifar10 --nets cifar-11pct",
    ),
    Claim(
        tag="VGG Table 1",
        sentence="Six nets of 3x3 convolutions (stride 1, pad 1) differ only in depth, "
        "from 11 to 19 weight layers (§2.1); C adds 1x1 convolutions, A-LRN one LRN.",
        published={
            "A, weight layers": 11,
            "A-LRN, weight layers": 11,
            "B, weight layers": 13,
            "C, weight layers": 16,
            "D, weight layers": 16,
            "E, weight layers": 19,
        },
        code="alexvgg_jax.models.vgg.VGG",
    ),
    Claim(
        tag="VGG Table 2",
        sentence="The six nets have 133 to 144 million parameters.",
        published={
            f"{net}, million parameters": millions
            for net, millions in VGG_PARAMETERS_MILLIONS.items()
        },
        code="alexvgg_jax.models.summary.rows",
    ),
    Claim(
        tag="VGG §2.3",
        sentence="Three 3x3 layers see 7x7 with 27 C^2 weights against 49 C^2 (81% "
        "more), and with three ReLUs instead of one.",
        published={
            "weights of three 3x3 layers, C^2": 27,
            "weights of one 7x7 layer, C^2": 49,
            "more weights in the 7x7 layer, %": 81,
        },
        code="alexvgg_jax.models.vgg.VGG",
    ),
    Claim(
        tag="VGG §3.1",
        sentence="SGD on crops whose image has its short side at 256, 384 or drawn "
        "from [256, 512]; A starts from N(0, variance 1e-2), deeper nets from A's "
        "first four convolutions and its fully-connected layers, which Glorot "
        "initialisation makes unnecessary.",
        published={
            "batch": 256,
            "momentum": 0.9,
            "weight decay": 5e-4,
            "dropout on the first two fully-connected layers": 0.5,
            "first learning rate": 1e-2,
            "divisions by 10": 3,
            "iterations": 370_000,
            "epochs": 74,
            "weights of A, variance": 1e-2,
            "first learning rate, scale jittering from S 384": 1e-3,
        },
        code="alexvgg_jax.models.vgg.VGG",
    ),
    Claim(
        tag="VGG §3.2",
        sentence="A test image is scored densely, the fully-connected layers turned "
        "into 7x7 and 1x1 convolutions and the class map averaged, or on a 5x5 grid of "
        "mirrored crops; the scale Q need not be S.",
        published={"crops a scale": 50, "crops over three scales": 150},
        code="alexvgg_jax.models.layers.SlidingDense",
    ),
    Claim(
        tag="VGG §3.3",
        sentence="Synchronous data parallelism on four Titan Black GPUs is 3.75 times "
        "as fast as one; a net takes 2 to 3 weeks.",
        published={
            "speed-up on 4 GPUs, times": 3.75,
            "weeks a net, from": 2,
            "weeks a net, to": 3,
        },
    ),
    Claim(
        tag="VGG §4.1 5x5",
        sentence="B with each pair of 3x3 convolutions replaced by one 5x5 has a top-1 "
        "error 7 points higher (centre crop).",
        published={"top-1 error points, 5x5 net": 7.0},
        code="alexvgg_jax.models.vgg.VGG",
    ),
    Claim(
        tag="VGG Table 3",
        sentence="At one test scale the error falls with depth and saturates at 19 "
        "layers; LRN does not help, scale jittering in training does.",
        published=_table(
            ("top-1", "top-5"),
            {
                "A, S 256, Q 256": (29.6, 10.4),
                "A-LRN, S 256, Q 256": (29.7, 10.5),
                "B, S 256, Q 256": (28.7, 9.9),
                "C, S 256, Q 256": (28.1, 9.4),
                "C, S 384, Q 384": (28.1, 9.3),
                "C, S [256;512], Q 384": (27.3, 8.8),
                "D, S 256, Q 256": (27.0, 8.8),
                "D, S 384, Q 384": (26.8, 8.7),
                "D, S [256;512], Q 384": (25.6, 8.1),
                "E, S 256, Q 256": (27.3, 9.0),
                "E, S 384, Q 384": (26.9, 8.7),
                "E, S [256;512], Q 384": (25.5, 8.0),
            },
        ),
    ),
    Claim(
        tag="VGG Table 4",
        sentence="Averaging over several test scales lowers the errors of one scale.",
        published=_table(
            ("top-1", "top-5"),
            {
                "B, S 256, Q 224 256 288": (28.2, 9.6),
                "C, S 256, Q 224 256 288": (27.7, 9.2),
                "C, S 384, Q 352 384 416": (27.8, 9.2),
                "C, S [256;512], Q 256 384 512": (26.3, 8.2),
                "D, S 256, Q 224 256 288": (26.6, 8.6),
                "D, S 384, Q 352 384 416": (26.5, 8.6),
                "D, S [256;512], Q 256 384 512": (24.8, 7.5),
                "E, S 256, Q 224 256 288": (26.9, 8.7),
                "E, S 384, Q 352 384 416": (26.7, 8.6),
                "E, S [256;512], Q 256 384 512": (24.8, 7.5),
            },
        ),
    ),
    Claim(
        tag="VGG Table 5",
        sentence="Many crops do slightly better than dense evaluation, and both "
        "together better than either (S in [256;512], Q = 256, 384, 512).",
        published=_table(
            ("top-1", "top-5"),
            {
                "D, dense": (24.8, 7.5),
                "D, multi-crop": (24.6, 7.5),
                "D, both": (24.4, 7.2),
                "E, dense": (24.8, 7.5),
                "E, multi-crop": (24.6, 7.4),
                "E, both": (24.4, 7.1),
            },
        ),
    ),
    Claim(
        tag="VGG Table 6",
        sentence="Averaging the softmax of D and E alone beats the seven nets of the "
        "ILSVRC submission.",
        published=_table(
            ("top-1 val", "top-5 val", "top-5 test"),
            {
                "7 nets, the ILSVRC submission": (24.7, 7.5, 7.3),
                "D and E, dense": (24.0, 7.1, 7.0),
                "D and E, multi-crop": (23.9, 7.2, None),
                "D and E, both": (23.7, 6.8, 6.8),
            },
        ),
    ),
    Claim(
        tag="VGG Table 7",
        sentence="One VGG net has the lowest error of any single net, and two come "
        "within 0.1 point of seven GoogLeNets.",
        published={
            "VGG, 2 nets, top-5 test": 6.8,
            "VGG, 1 net, top-5 test": 7.0,
            "VGG, 7 nets, top-5 test": 7.3,
            "GoogLeNet, 1 net, top-5 test": 7.9,
            "GoogLeNet, 7 nets, top-5 test": 6.7,
            "MSRA, 11 nets, top-5 test": 8.1,
            "Clarifai, top-5 test": 11.7,
            "Zeiler & Fergus, top-5 test": 14.8,
            "OverFeat, top-5 test": 13.6,
            "Krizhevsky et al., 5 nets, top-5 test": 16.4,
            "Krizhevsky et al., 1 net, top-5 val": 18.2,
        },
    ),
    Claim(
        tag="VGG Appendix A",
        sentence="A net whose last layer predicts one box (SCR) or one box a class "
        "(PCR) localises best with PCR and all layers fine-tuned (true class, centre "
        "crop, IoU 0.5), and its merged dense boxes won the challenge.",
        published={
            "first two fc layers fine-tuned, SCR, localisation error, %": 36.4,
            "first two fc layers fine-tuned, PCR, localisation error, %": 34.3,
            "all layers fine-tuned, PCR, localisation error, %": 33.1,
            "final test localisation error, %": 25.3,
        },
    ),
    Claim(
        tag="VGG Appendix B",
        sentence="The 4096-d features of D and E, averaged over positions and scales "
        "and L2-normalised, feed a linear SVM that does well on small data sets.",
        published={
            "VOC-2007, mAP %": 89.7,
            "VOC-2012, mAP %": 89.3,
            "Caltech-101, mean class recall %": 92.7,
            "Caltech-256, mean class recall %": 86.2,
        },
    ),
)

_BY_TAG = {row.tag: row for row in CLAIMS}


def claim(tag: str) -> Claim:
    """The row of a tag; ValueError names the closest tags when there is none."""
    if tag not in _BY_TAG:
        closest = difflib.get_close_matches(tag, _BY_TAG, n=3, cutoff=0.0)
        raise ValueError(f"no claim {tag!r} in paper.py; closest: {', '.join(closest)}")
    return _BY_TAG[tag]
