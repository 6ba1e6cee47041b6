"""AlexNet and VGG as pure functions in JAX, and what their papers claim of them.

The way data flows, and the file that does it:

    data.sources    where images come from: digits, TFDS, a folder of classes
    data.batches    the batch of (seed, step)
    augment         crop, mirror, colour, mean, on the device
    models          build(name) -> init, apply; alexnet, vgg, cifar are tables of layers
    loss, optim     cross-entropy; the original program's update rule
    step, evaluate  one step of training; the error on a whole set
    loop            a run from start to end: checkpoints, metrics, signals
    report          results as JSON -> tables and plots

`config` says what a run can be told, `paper` what the papers claim and publish. Every
claim has a tag: `grep -rn "AlexNet §3.3"` finds its code, test, experiment and figure.
"""
