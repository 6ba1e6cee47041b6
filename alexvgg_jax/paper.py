"""Both papers as data: every claim, the figure published for it, and where it lives.

- AlexNet: A. Krizhevsky, I. Sutskever, G. Hinton, "ImageNet Classification with Deep
  Convolutional Neural Networks", NIPS 2012.
- One weird trick: A. Krizhevsky, "One weird trick for parallelizing convolutional
  neural networks", 2014, arXiv:1404.5997.
- VGG: K. Simonyan, A. Zisserman, "Very Deep Convolutional Networks for Large-Scale
  Image Recognition", ICLR 2015, arXiv:1409.1556v6.
- The original program: computerhistory/AlexNet-Source-Code on GitHub. Its CIFAR-10
  nets are the "cuda-convnet" claims. The 11% net is only in the cuda-convnet releases.

A tag such as `AlexNet §3.3` names a claim here. It also opens the docstrings of the
code that implements the claim, of its test and of its experiment:

    grep -rn "AlexNet §3.3"

Published figures never change. Ours are in experiments/results/.
"""

import difflib
from collections.abc import Mapping
from typing import NamedTuple


class Figure(NamedTuple):
    """A number with its unit and its 95% interval."""

    value: float
    unit: str = ""  # "%", "points" (of percent), "times", "epochs" ...
    margin: float | None = None  # half of the 95% interval; None if unknown

    def __str__(self) -> str:
        if self.margin is None:
            number = f"{round(self.value, 2 if abs(self.value) >= 1 else 4):,.10g}"
        else:
            number = f"{self.value:.2f} ± {self.margin:.2f}"
        return f"{number}{' ' if self.unit not in ('', '%') else ''}{self.unit}"


class Claim(NamedTuple):
    short: str  # the claim in at most eight words, for the scoreboard
    sentence: str  # the claim, close to the paper's words
    published: Mapping[str, Figure]  # empty where the paper gives no figure
    code: str = ""  # dotted path of the object that implements it; empty for none
    experiment: str = ""  # command in experiments/ that measures it; empty for none
    needs: str = ""  # what its experiment lacks, if it has not been run for that


def _figures(values: Mapping[str, float | int], unit: str = "") -> dict[str, Figure]:
    return {name: Figure(value, unit) for name, value in values.items()}


def _table(
    columns: tuple[str, ...], lines: Mapping[str, tuple[float | None, ...]]
) -> dict[str, Figure]:
    """{"D": (24.4, 7.2)} -> {"D, top-1": 24.4%, "D, top-5": 7.2%}; None is a dash."""
    return {
        f"{name}, {column}": Figure(value, "%")
        for name, values in lines.items()
        for column, value in zip(columns, values, strict=True)
        if value is not None
    }


# By tag, which names the paper and its section, table or figure.
CLAIMS: dict[str, Claim] = {
    "AlexNet §2": Claim(
        short="Images: 256x256 centres minus the training mean",
        sentence="Images are scaled to a short side of 256, the central 256x256 is cut "
        "out, and the mean over the training set is subtracted from each pixel.",
        published=_figures({"image size": 256}, "pixels"),
        code="alexvgg_jax.augment.subtract_mean",
    ),
    "AlexNet §3.1": Claim(
        short="ReLU learns six times faster than tanh",
        sentence="A four-layer CNN with ReLUs reaches 25% training error on CIFAR-10 "
        "six times faster than the same net with tanh (figure 1).",
        published=_figures({"speed-up to 25% training error": 6.0}, "times"),
        code="alexvgg_jax.models.cifar.FourLayers",
        experiment="alexnet_relu.py --data cifar10",
    ),
    "AlexNet §3.2": Claim(
        short="Two towers beat one half as wide",
        sentence="Two GPUs lower the errors of a one-GPU net with half the kernels in "
        "each convolution, and take slightly less time.",
        published=_figures({"top-1 error": -1.7, "top-5 error": -1.2}, "points"),
        code="alexvgg_jax.models.layers.Conv",
        experiment="alexnet_towers.py --data cifar10",
    ),
    "AlexNet §3.3": Claim(
        short="Response normalisation lowers the error",
        sentence="Local response normalisation (k=2, n=5, alpha=1e-4, beta=0.75) after "
        "the ReLU of conv1 and conv2 lowers the errors.",
        published=_figures({"top-1 error": -1.4, "top-5 error": -1.2}, "points"),
        code="alexvgg_jax.models.layers.LRN",
        experiment="alexnet_lrn.py --data cifar10",
    ),
    "AlexNet §3.3 CIFAR-10": Claim(
        short="Response normalisation on CIFAR-10: 13% to 11%",
        sentence="Response normalisation takes a four-layer CNN on CIFAR-10 from 13% "
        "to 11% test error.",
        published=_figures(
            {
                "CIFAR-10 test error without LRN": 13.0,
                "CIFAR-10 test error with LRN": 11.0,
            },
            "%",
        ),
        code="alexvgg_jax.models.cifar.ConvLocal",
        experiment="cifar_lrn.py --data cifar10",
    ),
    "AlexNet §3.4": Claim(
        short="Overlapping pooling lowers the error",
        sentence="Overlapping pooling, size 3 and stride 2 against size 2 and stride "
        "2, lowers the errors and makes the net slightly harder to overfit.",
        published=_figures({"top-1 error": -0.4, "top-5 error": -0.3}, "points"),
        code="alexvgg_jax.models.layers.Pool",
        experiment="alexnet_pool.py --data cifar10",
    ),
    "AlexNet §3.5": Claim(
        short="Eight layers, 60 million parameters",
        sentence="Five convolutional and three fully-connected layers over two GPUs, "
        "which meet at conv3 and in the fully-connected layers, have 60 million "
        "parameters and 650,000 neurons (figure 2).",
        published=_figures({"parameters": 60_000_000, "neurons": 650_000}),
        code="alexvgg_jax.models.alexnet.AlexNet",
        experiment="network_sizes.py",
    ),
    "AlexNet §4.1 crops": Claim(
        short="Crops and mirroring prevent overfitting",
        sentence="Random 224 crops of 256 x 256 images and their mirror images make "
        "the training set 2048 times larger; without them the net overfits "
        "substantially.",
        published=_figures({"times as many training images": 2048}),
        code="alexvgg_jax.augment.random_crop",
        experiment="alexnet_augment.py --data cifar10",
    ),
    "AlexNet §4.1 colour": Claim(
        short="Colour noise lowers the error",
        sentence="Adding multiples of the principal components of RGB, drawn once an "
        "image from N(0, 0.1) times the eigenvalues, lowers the top-1 error by more "
        "than 1 point.",
        published=_figures({"top-1 error, or lower": -1.0}, "points"),
        code="alexvgg_jax.augment.pca_colour",
        experiment="alexnet_augment.py --data cifar10",
    ),
    "AlexNet §4.2": Claim(
        short="Dropout prevents overfitting, doubles the iterations",
        sentence="Dropout 0.5 on fc6 and fc7, with all units and their outputs times "
        "0.5 at test time, prevents substantial overfitting and about doubles the "
        "iterations to converge.",
        published=_figures({"iterations to converge": 2.0}, "times"),
        code="alexvgg_jax.models.layers.Dropout",
        experiment="alexnet_dropout.py --data cifar10",
    ),
    "AlexNet §5 decay": Claim(
        short="Weight decay lowers the training error",
        sentence="SGD with batch 128, momentum 0.9 and weight decay 0.0005, the rate "
        'inside the velocity; the decay is "not merely a regularizer": it lowers the '
        "training error.",
        published=_figures({"batch": 128, "momentum": 0.9, "weight decay": 0.0005}),
        code="alexvgg_jax.optim.original_sgd",
        experiment="alexnet_decay.py --data cifar10",
    ),
    "AlexNet §5 biases": Claim(
        short="Biases of 1 accelerate early learning",
        sentence="Weights start from N(0, 0.01^2); biases of 1 in conv2, conv4, conv5 "
        "and the hidden fully-connected layers, and of 0 elsewhere, accelerate the "
        "early stages of learning.",
        published=_figures(
            {
                "weights, standard deviation": 0.01,
                "biases of conv2, conv4, conv5, fc6, fc7": 1.0,
                "other biases": 0.0,
            }
        ),
        code="alexvgg_jax.models.alexnet.AlexNet",
        experiment="alexnet_init.py --data cifar10",
    ),
    "AlexNet §5 schedule": Claim(
        short="90 epochs with three drops: 5-6 days",
        sentence="One rate for every layer starts at 0.01 and is divided by 10 when "
        "the validation error stops improving, three times in about 90 epochs of 1.2 "
        "million images: 5 to 6 days on two GTX 580 3GB.",
        published=_figures(
            {"epochs, about": 90, "first learning rate": 0.01, "divisions by 10": 3}
        )
        | _figures({"days, from": 5, "days, to": 6}, "days"),
        code="alexvgg_jax.optim.learning_rate",
    ),
    "AlexNet §6 ten crops": Claim(
        short="Averaging ten crops lowers the error",
        sentence="Averaging the softmax of ten crops (corners, centre, mirrored; §4.1) "
        "lowers the ILSVRC-2010 test errors of the centre crop alone.",
        published=_figures({"top-1 error, ten crops": -1.5}, "points")
        | _table(
            ("top-1", "top-5"), {"centre crop": (39.0, 18.3), "ten crops": (37.5, 17.0)}
        ),
        code="alexvgg_jax.augment.map_views",
        experiment="alexnet_augment.py --data cifar10",
    ),
    "AlexNet §6 five nets": Claim(
        short="Averaging five nets lowers the error",
        sentence="Averaging the predictions of five similar CNNs lowers the errors of "
        "one (Table 2: 40.7 to 38.1 and 18.2 to 16.4).",
        published=_figures(
            {"top-1 error, five nets": -2.6, "top-5 error, five nets": -1.8}, "points"
        ),
        code="alexvgg_jax.evaluate.score_predictions",
        experiment="alexnet_ensemble.py --data cifar10",
    ),
    "AlexNet Table 1": Claim(
        short="ILSVRC-2010: 37.5% top-1, 17.0% top-5",
        sentence="On the ILSVRC-2010 test set the CNN beats the best published "
        "results.",
        published=_table(
            ("top-1", "top-5"),
            {
                "CNN": (37.5, 17.0),
                "Sparse coding": (47.1, 28.2),
                "SIFT + FVs": (45.7, 25.7),
            },
        ),
        experiment="alexnet_imagenet.py --data FOLDER --year 2010",
    ),
    "AlexNet Table 2": Claim(
        short="ILSVRC-2012: one net 40.7%, five 38.1%",
        sentence="On ILSVRC-2012, averaging several CNNs, two of them pre-trained on "
        "the Fall 2011 release, reaches 15.3% top-5 test error against 26.2%.",
        published=_table(
            ("top-1 val", "top-5 val", "top-5 test"),
            {
                "1 CNN": (40.7, 18.2, None),
                "SIFT + FVs": (None, None, 26.2),
                "5 CNNs": (38.1, 16.4, 16.4),
                "1 CNN, pre-trained on Fall 2011": (39.0, 16.6, None),
                "7 CNNs, two of them pre-trained": (36.7, 15.4, 15.3),
            },
        ),
        experiment="alexnet_imagenet.py",
    ),
    "AlexNet §6 Fall 2009": Claim(
        short="10,184 classes of ImageNet: 67.4% top-1",
        sentence="The errors on the Fall 2009 release of ImageNet, 10,184 classes, are "
        "67.4% and 40.9%.",
        published=_figures({"top-1": 67.4}, "%")
        | _figures({"classes": 10_184})
        | _figures({"top-5": 40.9}, "%"),
    ),
    "AlexNet Figure 3": Claim(
        short="One tower learns colour, the other none",
        sentence="The 96 kernels of conv1 specialise by GPU: one learns "
        "colour-agnostic kernels, the other colour-specific ones.",
        published=_figures({"kernels": 96}),
        code="alexvgg_jax.plots.draw_filters",
        experiment="alexnet_towers.py --data cifar10",
    ),
    "AlexNet Figure 4": Claim(
        short="Nearest images show the same things",
        sentence="The five most probable labels of eight test images are mostly "
        "reasonable, and the training images nearest in the 4096-d features of fc7 "
        "show the same things.",
        published=_figures({"test images": 8, "labels an image": 5, "features": 4096}),
        experiment="alexnet_retrieval.py --data cifar10",
    ),
    "AlexNet §7": Claim(
        short="Removing a middle convolution costs two points",
        sentence="Depth matters: removing any of the middle convolutional layers loses "
        "about 2 points of top-1.",
        published=_figures({"top-1 error, one middle layer removed": 2.0}, "points"),
        code="alexvgg_jax.models.alexnet.AlexNet",
        experiment="alexnet_depth.py --data cifar10",
    ),
    "One weird trick": Claim(
        short="Convolutions compute; fully-connected layers hold the parameters",
        sentence="Data parallelism suits the convolutions, with 90 to 95% of the "
        "computation, and model parallelism the fully-connected layers, with about "
        "95% of the parameters; the net has one tower.",
        published=_figures(
            {
                "computation in convolutions, at least": 90.0,
                "parameters in fully-connected layers": 95.0,
            },
            "%",
        ),
        code="alexvgg_jax.models.alexnet.OneWeirdTrick",
        experiment="network_sizes.py",
    ),
    "One weird trick batch": Claim(
        short="k times the batch, k times the rate",
        sentence="With a batch k times larger, a learning rate k times higher works "
        "best in practice, where theory asks for its square root.",
        published=_figures({"power of k in the best rate": 1.0}),
        experiment="alexnet_batch.py --data cifar10",
        needs="a GPU",
    ),
    "cuda-convnet 80sec": Claim(
        short="CIFAR-10: 26% in 80 seconds",
        sentence="Three convolutions and two fully-connected layers reach 26% test "
        "error on CIFAR-10 in the 80 seconds that name the net.",
        published=_figures({"test error": 26.0}, "%"),
        code="alexvgg_jax.models.cifar.FiveLayers",
        experiment="cifar_ladder.py --data cifar10 --arms cifar-80sec",
    ),
    "cuda-convnet 19pct": Claim(
        short="CIFAR-10: 19% in 20 minutes",
        sentence="Three convolutions and one fully-connected layer, with weight decay "
        "3 on the latter, reach 19% test error on CIFAR-10 in 20 minutes.",
        published=_figures({"test error": 19.0}, "%"),
        code="alexvgg_jax.models.cifar.FourLayers",
        experiment="cifar_ladder.py --data cifar10 --arms cifar-19pct",
    ),
    "cuda-convnet 18pct": Claim(
        short="CIFAR-10: 18% with spatial normalisation",
        sentence="Spatial response normalisation (3x3, same map) in the 19% net, with "
        "weight decay 1 on its fully-connected layer, reaches 18% test error.",
        published=_figures({"test error": 18.0}, "%"),
        code="alexvgg_jax.models.cifar.FourLayers",
        experiment="cifar_ladder.py --data cifar10 --arms cifar-18pct",
    ),
    "cuda-convnet 19pct translations": Claim(
        short="CIFAR-10: the 19% net on crops",
        sentence="The 19% net reaches 14.2% test error when trained on translations "
        "and without weight decay.",
        published=_figures({"test error": 14.2}, "%"),
        code="alexvgg_jax.models.cifar.FourLayers",
        experiment="cifar_ladder.py --data cifar10 --arms cifar-14pct",
    ),
    "cuda-convnet 13pct": Claim(
        short="CIFAR-10: 13% with locally connected layers",
        sentence="Two convolutions and two locally connected layers, trained on "
        "cropped and mirrored images, reach 13% test error on CIFAR-10, averaged over "
        "ten views. The 12% net has the same layers and the rates that end training.",
        published=_figures({"test error": 13.0, "test error, 12% net": 12.0}, "%"),
        code="alexvgg_jax.models.cifar.ConvLocal",
        experiment="cifar_ladder.py --data cifar10 --arms cifar-13pct",
    ),
    "cuda-convnet 11pct": Claim(
        short="CIFAR-10: 11% with normalisation across maps",
        sentence="Response normalisation across maps and 64 maps in the first locally "
        "connected layer reach 11% test error, averaged over several views.",
        published=_figures({"test error": 11.0}, "%"),
        code="alexvgg_jax.models.cifar.ConvLocal",
        experiment="cifar_ladder.py --data cifar10 --arms cifar-11pct",
    ),
    "VGG Table 1": Claim(
        short="Six nets of 11 to 19 layers",
        sentence="Six nets of 3x3 convolutions (stride 1, pad 1) differ only in depth, "
        "from 11 to 19 weight layers (§2.1); C adds 1x1 convolutions, A-LRN one LRN.",
        published=_figures(
            {
                "A, weight layers": 11,
                "A-LRN, weight layers": 11,
                "B, weight layers": 13,
                "C, weight layers": 16,
                "D, weight layers": 16,
                "E, weight layers": 19,
            }
        ),
        code="alexvgg_jax.models.vgg.VGG",
        experiment="network_sizes.py",
    ),
    "VGG Table 2": Claim(
        short="133 to 144 million parameters",
        sentence="The six nets have 133 to 144 million parameters.",
        published=_figures(
            {"A": 133, "A-LRN": 133, "B": 133, "C": 134, "D": 138, "E": 144}, "million"
        ),
        code="alexvgg_jax.models.summary.costs",
        experiment="network_sizes.py",
    ),
    "VGG §2.3": Claim(
        short="One 7x7 needs 81% more weights",
        sentence="Two 3x3 layers see 5x5, and three see 7x7 with 27 C^2 weights "
        "against 49 C^2 (81% more), and with three ReLUs instead of one.",
        published=_figures({"more weights in the 7x7 layer": 81}, "%")
        | _figures(
            {"weights of three 3x3 layers": 27, "weights of one 7x7 layer": 49}, "C^2"
        )
        | _figures(
            {"side that two 3x3 layers see": 5, "side that three 3x3 layers see": 7},
            "pixels",
        ),
        code="alexvgg_jax.models.vgg.VGG",
        experiment="network_sizes.py",
    ),
    "VGG §3.1": Claim(
        short="Net A or Glorot weights start training",
        sentence="SGD on crops whose image has its short side at 256, 384 or drawn "
        "from [256, 512]; A starts from N(0, variance 1e-2), deeper nets from A's "
        "first four convolutions and its fully-connected layers, which Glorot "
        "initialisation makes unnecessary.",
        published=_figures(
            {
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
            }
        ),
        code="alexvgg_jax.models.vgg.VGG",
        experiment="vgg_init.py --data cifar10",
    ),
    "VGG §3.2": Claim(
        short="Score densely or on 50 crops",
        sentence="A test image is scored densely, the fully-connected layers turned "
        "into 7x7 and 1x1 convolutions and the class map averaged, or on a 5x5 grid of "
        "mirrored crops; the scale Q need not be S.",
        published=_figures({"crops a scale": 50, "crops over three scales": 150}),
        code="alexvgg_jax.protocols.probabilities",
        experiment="testing_views.py",
    ),
    "VGG §3.3": Claim(
        short="Four GPUs are 3.75 times as fast",
        sentence="Synchronous data parallelism on four Titan Black GPUs is 3.75 times "
        "as fast as one; a net takes 2 to 3 weeks.",
        published=_figures({"speed-up on 4 GPUs": 3.75}, "times")
        | _figures({"weeks a net, from": 2, "weeks a net, to": 3}, "weeks"),
        needs="four GPUs",
    ),
    "VGG §4.1 LRN": Claim(
        short="Response normalisation does not help",
        sentence="Local response normalisation (A-LRN) does not improve on net A, so "
        "the deeper nets have none.",
        published=_figures({"top-1 error, A-LRN minus A": 0.1}, "points"),
        experiment="vgg_depth.py --data cifar10 --arms A A-LRN",
    ),
    "VGG §4.1 1x1": Claim(
        short="1x1 layers help; 3x3 layers help more",
        sentence="C, with three further 1x1 layers, has lower errors than B, and D, "
        "with 3x3 in their place, lower ones than C: non-linearity helps, and so does "
        "context.",
        published=_figures(
            {"top-1 error, D minus C": -1.1, "top-1 error, C minus B": -0.6}, "points"
        ),
        experiment="vgg_small_filters.py --data cifar10 --arms B C D",
    ),
    "VGG §4.1 5x5": Claim(
        short="5x5 layers cost seven points",
        sentence="B with each pair of 3x3 convolutions replaced by one 5x5 has a top-1 "
        "error 7 points higher (centre crop).",
        published=_figures({"top-1 error, 5x5 net": 7.0}, "points"),
        code="alexvgg_jax.models.vgg.VGG",
        experiment="vgg_small_filters.py --data cifar10 --arms B 'B 5x5'",
    ),
    "VGG §4.1 jitter": Claim(
        short="Scale jittering in training lowers the error",
        sentence="Nets trained with scales drawn from [256, 512] have lower errors "
        "than those of a fixed scale, even at one test scale.",
        published=_figures(
            {
                "top-1 error of D, jitter minus S 384": -1.2,
                "top-1 error of D, jitter minus S 256": -1.4,
                "top-1 error of E, jitter minus S 384": -1.4,
            },
            "points",
        ),
        experiment="vgg_testing.py --data FOLDER",
    ),
    "VGG Table 3": Claim(
        short="Depth lowers the error, up to 19",
        sentence="At one test scale the error falls with depth, from the 11 layers of "
        "A on, and saturates at the 19 of E.",
        published=_figures(
            {"top-1 error, D minus A": -2.6, "top-1 error, E minus D": 0.3}, "points"
        )
        | _table(
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
        experiment="vgg_depth.py --data cifar10",
    ),
    "VGG Table 4": Claim(
        short="Averaging test scales lowers the error",
        sentence="Averaging over several test scales lowers the errors of one scale.",
        published=_figures(
            {"top-1 error of D and E, three scales minus one": -0.75}, "points"
        )
        | _table(
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
        experiment="vgg_testing.py --data FOLDER",
    ),
    "VGG Table 5": Claim(
        short="Dense and crops together are best",
        sentence="Many crops do slightly better than dense evaluation, and both "
        "together better than either (S in [256;512], Q = 256, 384, 512).",
        published=_figures(
            {
                "top-1 error of D and E, multi-crop minus dense": -0.2,
                "top-1 error of D and E, both minus dense": -0.4,
                "top-1 error of D and E, both minus multi-crop": -0.2,
            },
            "points",
        )
        | _table(
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
        experiment="vgg_testing.py --data FOLDER",
    ),
    "VGG Table 6": Claim(
        short="Averaging D and E lowers the error",
        sentence="Averaging the softmax of D and E beats each of them, and the seven "
        "nets of the ILSVRC submission.",
        published=_figures(
            {
                "top-1 error, D and E minus D": -0.7,
                "top-1 error, D and E minus E": -0.7,
            },
            "points",
        )
        | _table(
            ("top-1 val", "top-5 val", "top-5 test"),
            {
                "7 nets, the ILSVRC submission": (24.7, 7.5, 7.3),
                "D and E, dense": (24.0, 7.1, 7.0),
                "D and E, multi-crop": (23.9, 7.2, None),
                "D and E, both": (23.7, 6.8, 6.8),
            },
        ),
        experiment="vgg_testing.py --data FOLDER",
    ),
    "VGG Table 7": Claim(
        short="Lowest error of any single net",
        sentence="One VGG net has the lowest error of any single net, and two come "
        "within 0.1 point of seven GoogLeNets.",
        published=_figures(
            {
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
            "%",
        ),
        needs="ImageNet",
    ),
    "VGG Appendix A": Claim(
        short="Boxes per class localise best",
        sentence="A net whose last layer predicts one box (SCR) or one box a class "
        "(PCR) localises best with PCR and all layers fine-tuned (true class, centre "
        "crop, IoU 0.5), and its merged dense boxes won the challenge.",
        published=_figures(
            {
                "localisation error, PCR minus SCR": -2.1,
                "localisation error, all layers minus fully-connected layers": -1.2,
            },
            "points",
        )
        | _figures(
            {
                "first two fc layers fine-tuned, SCR, localisation error": 36.4,
                "first two fc layers fine-tuned, PCR, localisation error": 34.3,
                "all layers fine-tuned, PCR, localisation error": 33.1,
                "final test localisation error": 25.3,
            },
            "%",
        ),
        code="alexvgg_jax.boxes.merge_boxes",
        experiment="vgg_localise.py",
    ),
    "VGG Appendix B": Claim(
        short="Its features suit small data sets",
        sentence="The 4096-d features of D and E, averaged over positions, averaged or "
        "stacked over scales, and L2-normalised, feed a linear SVM that does well on "
        "small data sets.",
        published=_figures(
            {
                "VOC-2007, mAP": 89.7,
                "VOC-2012, mAP": 89.3,
                "Caltech-101, mean class recall": 92.7,
                "Caltech-256, mean class recall": 86.2,
            },
            "%",
        ),
        experiment="vgg_features.py --data PHOTOS --weights vgg16.safetensors",
    ),
}


def claim(tag: str) -> Claim:
    """Return the claim with this tag. Raises ValueError that names similar tags."""
    if tag not in CLAIMS:
        closest = difflib.get_close_matches(tag, CLAIMS, n=3, cutoff=0.0)
        raise ValueError(f"no claim {tag!r} in paper.py; closest: {', '.join(closest)}")
    return CLAIMS[tag]
